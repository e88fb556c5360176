// Files made by hand that no reader may accept, and the pieces to make more.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ghost_tests {

inline std::string with_length(uint64_t length, const std::string& rest) {
  std::string out;
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(length >> (8 * i)));
  return out + rest;
}

inline std::string file_of(const std::string& header, const std::string& body) {
  return with_length(header.size(), header + body);
}

inline const std::string kMeta =
    R"("__metadata__":{"format":"ghost-packed","format_version":"1","config":"{}","crc32c":"00000000"})";

inline std::string one(const std::string& entry, size_t bytes) {
  return file_of("{" + kMeta + ",\"a\":" + entry + "}", std::string(bytes, 'x'));
}

inline std::string tensor(const char* dtype, const char* shape, const char* offsets) {
  return std::string("{\"dtype\":\"") + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

inline std::vector<std::string> hostile_tensors() {
  const std::string good = tensor("U8", "[2]", "[0,2]");
  const auto two = [](const std::string& a, const std::string& b, size_t bytes) {
    return file_of("{" + kMeta + ",\"a\":" + a + ",\"b\":" + b + "}", std::string(bytes, 'x'));
  };
  std::vector<std::string> files = {
      two(good, tensor("U8", "[2]", "[1,3]"), 3),    // overlap
      two(good, tensor("U8", "[2]", "[0,2]"), 2),    // the same range twice
      two(good, tensor("U8", "[2]", "[3,5]"), 5),    // hole
      two(good, tensor("U8", "[2]", "[2,4]"), 3),    // passes the end
      two(good, tensor("U8", "[2]", "[2,4]"), 5),    // stops before the end
      two(tensor("U8", "[2]", "[1,3]"), tensor("U8", "[2]", "[3,5]"), 5),  // hole at the start
      file_of("{" + kMeta + ",\"a\":" + good + ",\"a\":" + good + "}", "xx"),
      file_of("{" + kMeta + ",\"a\":" + good + ",\"\\u0061\":" + good + "}", "xx"),
      one("{\"dtype\":\"U8\",\"shape\":[2]}", 2),
      one("{\"dtype\":\"U8\",\"data_offsets\":[0,2]}", 2),
      one("{\"shape\":[2],\"data_offsets\":[0,2]}", 2),
      one("{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2],\"more\":1}", 2),
      one("{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}", 2),
      one("{\"dtype\":8,\"shape\":[2],\"data_offsets\":[0,2]}", 2),
      one("[\"U8\",[2],[0,2]]", 2),
      one("null", 0), one("7", 0), one("\"U8\"", 0), one("{}", 0), one("[]", 0), one("true", 0),
  };
  for (const char* dtype : {"", "u8", "U9", "F4", "BF16", "BOOL", "C64", "F8_E4M3", "U8\\u0000", "U8 "}) {
    files.push_back(one(tensor(dtype, "[2]", "[0,2]"), 2));
  }
  for (const char* shape : {"[3]", "[1]", "[-2]", "[2.0]", "[2e0]", "[\"2\"]", "[true,2]", "[null]", "[[2]]", "2", "{}",
                            "null", "\"2\"", "[18446744073709551615]", "[18446744073709551618]",
                            "[9223372036854775807,2,2]", "[4294967296,4294967296]", "[4294967296,4294967296,2]",
                            "[-1,-2]", "[1,1,1,1,1,1,1,1,2]", "[02]", "[2,]", "[-0,2]", "[1e400]"}) {
    files.push_back(one(tensor("U8", shape, "[0,2]"), 2));
  }
  for (const char* shape : {"[0,9223372036854775807]", "[9223372036854775807,0]", "[0,8589934593]", "[-0]", "[0,-1]"}) {
    files.push_back(one(tensor("U8", shape, "[0,0]"), 0));
  }
  for (const char* offsets : {"[0]", "[0,2,2]", "[]", "[2,0]", "[-2,0]", "[0,2.0]", "[0,\"2\"]", "[false,2]", "null",
                              "[0,18446744073709551618]", "[18446744073709551615,1]", "[-0,2]",
                              "[9223372036854775807,1]",
                              "{\"0\":0,\"1\":2}", "[1,3]", "[0,9223372036854775807]"}) {
    files.push_back(one(tensor("U8", "[2]", offsets), 2));
  }
  return files;
}

inline std::vector<std::string> hostile_headers() {
  const std::string good = "{" + kMeta + "}";
  const std::string nested = std::string(20, '[') + std::string(20, ']');
  std::vector<std::string> files = {"", "x", std::string(8, '\0'), std::string(9, '\0'), std::string(100, '\0'),
                                    with_length(2, "{"), with_length(UINT64_MAX, "{}"),
                                    with_length(UINT64_MAX - 7, good), with_length(uint64_t{1} << 63, good),
                                    with_length(good.size() + 1, good), with_length(good.size() - 1, good),
                                    with_length(1u << 31, good), file_of("{}", ""), file_of("[]", ""),
                                    file_of(" " + good, ""), file_of("\xEF\xBB\xBF" + good, ""),
                                    file_of(good + good, ""), file_of(good + "x", ""),
                                    file_of(good + std::string(1, '\0'), ""),
                                    file_of(good + std::string(1 << 20, ' '), ""),
                                    file_of("{" + std::string(100000, '['), ""),
                                    file_of("{\"a\":" + std::string(100000, '['), ""),
                                    file_of("{\"a\":" + nested + "," + kMeta + "}", ""),
                                    file_of("{" + kMeta + ",\"a\":[" + std::string(600000, '0') + "]}", "")};
  std::string many = "{" + kMeta;
  for (int i = 0; i < 8193; ++i) many += ",\"" + std::to_string(i) + "\":" + tensor("U8", "[0]", "[0,0]");
  files.push_back(file_of(many + "}", ""));
  std::string values = "{\"a\":[0";
  for (int i = 0; i < 300000; ++i) values += ",0";
  files.push_back(file_of(values + "]," + kMeta + "}", ""));
  for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x80\x80\x80",
                          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xC3", "\xE2\x82", "\n", "\\x", "\\u12",
                          "\\ud800", "\\udc00", "\\ud800\\u0041", "\\u00g0", "\\"}) {
    files.push_back(file_of("{" + kMeta + ",\"" + bad + "\":" + tensor("U8", "[0]", "[0,0]") + "}", ""));
  }
  for (const char* bad : {"null", "[]", "\"x\"", "{}", "{\"format\":\"ghost-packed\"}",
                          R"({"format":1,"format_version":"1","config":"{}","crc32c":"00000000"})",
                          R"({"format":"ghost-packed","format_version":"1","config":{},"crc32c":"00000000"})",
                          R"({"format":"ghost-packed","format_version":"1","config":"{}","crc32c":null})",
                          R"({"format":"ghost-packed","format_version":"1","crc32c":"00000000"})"}) {
    files.push_back(file_of(std::string("{\"__metadata__\":") + bad + "}", ""));
  }
  files.push_back(file_of("{" + kMeta + "," + kMeta + "}", ""));
  std::string entries = kMeta.substr(0, kMeta.size() - 1);
  for (int i = 0; i < 61; ++i) entries += ",\"" + std::to_string(i) + "\":\"\"";
  files.push_back(file_of("{" + entries + "}}", ""));
  return files;
}

// Structure fine, but not a container of the wanted format: refused even with the right checksum.
inline std::vector<std::string> hostile_containers() {
  const auto meta = [](const std::string& format, const std::string& version, const std::string& crc) {
    return file_of("{\"__metadata__\":{\"format\":\"" + format + "\",\"format_version\":\"" + version +
                       "\",\"config\":\"{}\"," + crc + "}}",
                   "");
  };
  const std::string crc = "\"crc32c\":\"00000000\"";
  std::vector<std::string> files = {meta("ghost-checkpoint", "1", crc), meta("Ghost-packed", "1", crc),
                                    meta("", "1", crc), meta("ghost-packed", "2", crc), meta("ghost-packed", "0", crc),
                                    meta("ghost-packed", "", crc), meta("ghost-packed", "01", crc),
                                    meta("ghost-packed", "1 ", crc), meta("ghost-packed", "-1", crc),
                                    meta("ghost-packed", "99999999999999999999", crc),
                                    meta("ghost-packed", "1", "\"crc32c\" : \"00000000\""),
                                    meta("ghost-packed", "1", "\"crc32c\":\"000000000\""),
                                    meta("ghost-packed", "1", "\"crc32c\":\"0000000\""),
                                    meta("ghost-packed", "1", "\"crc32c\":\"\""),
                                    meta("ghost-packed", "1", "\"\\u0063rc32c\":\"00000000\""),
                                    meta("ghost-packed", "1", crc + ",\"x\\\"crc32c\":\"00000000\"")};
  const auto holding = [&files](const char* dtype, const std::string& element) {
    const std::string offsets = "[0," + std::to_string(element.size()) + "]";
    files.push_back(file_of("{" + kMeta + ",\"a\":" + tensor(dtype, "[1]", offsets.c_str()) + "}", element));
  };
  // Infinities of each type, and float16 NaNs.
  for (const char* top : {"\x7C", "\xFC"}) {
    holding("F16", std::string(1, '\0') + top);
    holding("F16", std::string(1, '\1') + top);
  }
  for (const char* top : {"\x80\x7F", "\x80\xFF"}) holding("F32", std::string(2, '\0') + top);
  for (const char* top : {"\xF0\x7F", "\xF0\xFF"}) holding("F64", std::string(6, '\0') + top);
  return files;
}

}  // namespace ghost_tests
