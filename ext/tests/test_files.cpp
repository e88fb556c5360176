// Tests of the native file reader, built with -fsanitize=address,undefined by tests/test_native_files.py.
//
//   test_files FILE              the checks below, on one small valid container of format ghost-packed
//   test_files --fuzz FILE N S   N mutated copies of FILE, generator seeded by S
//   test_files --hostile         prints the hand-made hostile files as blobs, with the right checksum
//   test_files --check           for each blob on standard input: what the reader makes of it, on one line
//   test_files --json            the same for the JSON parser
// A blob is its length (8 bytes, little-endian) and its bytes.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../core/crc32c.h"
#include "../core/json.h"
#include "../core/safetensors.h"
#include "hostile_files.h"

namespace {

using ghost::Container;
using ghost::Json;
using ghost::Result;
using namespace ghost_tests;
using Kind = ghost::Json::Kind;

int passed = 0;
int failed = 0;

void check(bool condition, const char* text, const std::string& detail, int line) {
  condition ? ++passed : ++failed;
  if (!condition) std::fprintf(stderr, "line %d: CHECK(%s) failed: %s\n", line, text, detail.c_str());
}
#define CHECK(condition, detail) check((condition), #condition, (detail), __LINE__)

// Runs `read` on a heap copy of exactly this size, so that the sanitizer sees any byte read outside.
template <typename Read>
auto on_copy(const std::string& bytes, Read read) {
  std::unique_ptr<uint8_t[]> copy(new uint8_t[bytes.size()]);
  std::memcpy(copy.get(), bytes.data(), bytes.size());
  return read(copy.get(), bytes.size());
}

std::string hex(const std::string& bytes) {
  std::string out;
  for (const char c : bytes) {
    char pair[3];
    std::snprintf(pair, sizeof pair, "%02x", static_cast<unsigned char>(c));
    out += pair;
  }
  return out;
}

std::string hex32(uint32_t value) {
  char text[9];
  std::snprintf(text, sizeof text, "%08x", value);
  return text;
}

// What a file holds, on one line; touches every byte of every tensor.
std::string describe(const Container& file, const uint8_t* data) {
  std::string out;
  for (const auto& tensor : file.tensors) {
    out += " " + hex(tensor.name) + ":" + ghost::dtype_name(tensor.dtype) + ":";
    for (const uint64_t size : tensor.shape) out += std::to_string(size) + ",";
    out += ":" + hex32(ghost::crc32c(data + tensor.offset, static_cast<size_t>(tensor.nbytes)));
  }
  auto metadata = file.metadata;
  std::sort(metadata.begin(), metadata.end());
  for (const auto& entry : metadata) out += " " + hex(entry.first) + "=" + hex(entry.second);
  return out;
}

std::string read_line(const Result<Container>& result, const uint8_t* data) {
  return result.ok() ? "accept" + describe(result.value, data) : "refuse " + result.status.message();
}

std::string structure(const std::string& bytes) {
  return on_copy(bytes, [](const uint8_t* data, size_t size) {
    ghost::Source source(data, size);
    return read_line(ghost::parse_safetensors(&source, "FILE"), data);
  });
}

std::string whole(const std::string& bytes) {
  return on_copy(bytes, [](const uint8_t* data, size_t size) {
    ghost::Source source(data, size);
    return read_line(ghost::read_container(&source, "ghost-packed", "FILE"), data);
  });
}

bool accepted(const std::string& line) { return line.compare(0, 6, "accept") == 0; }

// Refused with a sentence that names the file.
bool refused(const std::string& line) {
  return line.compare(0, 12, "refuse FILE ") == 0 && line.size() > 20 && line.back() == '.';
}

std::string describe(const Json& value) {
  std::string out;
  switch (value.kind) {
    case Kind::Null: return "n";
    case Kind::Bool: return value.boolean ? "t" : "f";
    case Kind::Integer: return "i" + std::to_string(value.integer);
    case Kind::Double: {
      char text[40];
      std::snprintf(text, sizeof text, "d%.17g", value.number);
      return text;
    }
    case Kind::String: return "s" + hex(value.string);
    case Kind::Array:
      for (const Json& item : value.items) out += describe(item) + ",";
      return "[" + out + "]";
    case Kind::Object:
      for (size_t i = 0; i < value.keys.size(); ++i) out += hex(value.keys[i]) + ":" + describe(value.items[i]) + ",";
      return "{" + out + "}";
  }
  return "?";
}

std::string json(const std::string& text) {
  return on_copy(text, [](const uint8_t* data, size_t size) {
    const auto result = ghost::parse_json(std::string_view(reinterpret_cast<const char*>(data), size));
    return result.ok() ? "accept " + describe(result.value) : "refuse " + result.status.message();
  });
}

std::string load(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", path);
    std::exit(2);
  }
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

// The file with the right digits, as an attacker would give it.
std::string signed_file(std::string bytes) {
  const std::string key = "\"crc32c\":\"";
  const size_t at = bytes.find(key);
  if (at == std::string::npos || at + key.size() + 8 > bytes.size()) return bytes;
  bytes.replace(at + key.size(), 8, "00000000");
  const uint32_t crc = on_copy(bytes, ghost::crc32c);
  return bytes.replace(at + key.size(), 8, hex32(crc));
}

void test_crc() {
  const auto crc = [](const std::string& bytes) { return on_copy(bytes, ghost::crc32c); };
  std::string up, down;
  for (int i = 0; i < 32; ++i) {
    up.push_back(static_cast<char>(i));
    down.push_back(static_cast<char>(31 - i));
  }
  CHECK(crc("") == 0, "");
  CHECK(crc("123456789") == 0xE3069283u, "");
  CHECK(crc(std::string(32, '\0')) == 0x8A9136AAu, "RFC 3720");
  CHECK(crc(std::string(32, '\xff')) == 0x62A8AB43u, "RFC 3720");
  CHECK(crc(up) == 0x46DD794Eu, "RFC 3720");
  CHECK(crc(down) == 0x113FDB5Cu, "RFC 3720");
}

void test_json_limits() {
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  const auto zeros = [](size_t count) {
    std::string text = "[0";
    for (size_t i = 1; i < count; ++i) text += ",0";
    return text + "]";
  };
  const ghost::JsonLimits limits;
  CHECK(accepted(json(nested(limits.depth + 1))), "deepest");
  CHECK(!accepted(json(nested(limits.depth + 2))), "too deep");
  CHECK(accepted(json(zeros(limits.values - 1))), "most values");
  CHECK(!accepted(json(zeros(limits.values))), "too many values");
  CHECK(accepted(json("1" + std::string(limits.bytes - 1, ' '))), "longest");
  CHECK(!accepted(json("1" + std::string(limits.bytes, ' '))), "too long");
}

void test_valid_shapes() {
  const std::vector<std::string> files = {
      file_of("{" + kMeta + "}", ""),
      one(tensor("U8", "[]", "[0,1]"), 1),
      one(tensor("F16", "[0,5]", "[0,0]"), 0),
      one(tensor("U64", "[1,1,1,1,1,1,1,2]", "[0,16]"), 16),
      file_of("{\"b\":" + tensor("U8", "[2]", "[3,5]") + ",\"a\":" + tensor("U8", "[3]", "[0,3]") + "," + kMeta +
                  ",\"e\":" + tensor("I8", "[0]", "[3,3]") + "} \n\t\r ",
              "abcde"),
  };
  for (const std::string& file : files) {
    CHECK(accepted(structure(file)), structure(file));
    CHECK(accepted(whole(signed_file(file))), whole(signed_file(file)));
    CHECK(refused(whole(file)), "placeholder digits");
  }
}

void test_hostile() {
  for (const auto& file : hostile_tensors()) {
    CHECK(refused(structure(file)), file.substr(8, 300));
    CHECK(refused(whole(signed_file(file))), file.substr(8, 300));
  }
  for (const auto& file : hostile_headers()) {
    CHECK(refused(structure(file)), file.substr(0, 300));
    CHECK(refused(whole(signed_file(file))), file.substr(0, 300));
  }
  for (const auto& file : hostile_containers()) {
    CHECK(accepted(structure(file)), structure(file));
    CHECK(refused(whole(signed_file(file))), file.substr(8, 300));
  }
}

void test_damage(const std::string& file) {
  CHECK(accepted(whole(file)), whole(file));
  CHECK(signed_file(file) == file, "the digits");
  for (size_t i = 0; i < file.size(); ++i) {
    int undetected = 0;
    for (int change = 1; change < 256; ++change) {
      std::string damaged = file;
      damaged[i] = static_cast<char>(damaged[i] ^ change);
      undetected += !refused(whole(damaged));
      structure(damaged);  // may be accepted; must be safe
    }
    CHECK(undetected == 0, "byte " + std::to_string(i));
    CHECK(refused(whole(file.substr(0, i))), "truncated to " + std::to_string(i));
    CHECK(refused(structure(file.substr(0, i))), "truncated to " + std::to_string(i));
    CHECK(refused(whole(file.substr(i + 1))), "without its first bytes");
  }
  for (size_t more = 1; more < 70; ++more) {
    CHECK(refused(structure(file + std::string(more, '\0'))), "extended");
    CHECK(refused(whole(file + file.substr(0, more))), "extended");
  }
}

void test_lookup(const std::string& file) {
  on_copy(file, [](const uint8_t* data, size_t size) {
    ghost::Source source(data, size);
    const Result<Container> result = ghost::read_container(&source, "ghost-packed", "FILE");
    for (const auto& tensor : result.value.tensors) {
      CHECK(result.value.find(tensor.name) == &tensor, tensor.name);
      CHECK(result.value.find(tensor.name + "?") == nullptr, tensor.name);
    }
    CHECK(result.value.find_metadata("format") != nullptr, "");
    CHECK(result.value.find_metadata("absent") == nullptr, "");
    return 0;
  });
}

// ---- fuzzing

std::string mutated(const std::string& seed, std::mt19937_64& random) {
  static const char* tokens[] = {"\"", "{", "}", "[", "]", ",", ":", "\\", "\\u", "-", "0", "1e9",
                                 "18446744073709551615",
                                 "9223372036854775807", "\"a\":", "[0,0]", "\"U8\"", "\"F16\"", "null", "\"dtype\"",
                                 "\"shape\"", "\"data_offsets\"", "__metadata__", "\xC3\xA9", "\xFF", "00000000"};
  std::string out = seed;
  const auto below = [&random](size_t bound) { return static_cast<size_t>(random() % bound); };
  for (size_t step = 1 + below(4); step > 0 && !out.empty(); --step) {
    const size_t at = below(out.size());
    switch (below(7)) {
      case 0: out[at] = static_cast<char>(out[at] ^ (1 << below(8))); break;
      case 1: out[at] = static_cast<char>(random()); break;
      case 2: out.erase(at, 1 + below(16)); break;
      case 3: out.insert(at, tokens[below(std::size(tokens))]); break;
      case 4: out.insert(at, seed.substr(below(seed.size()), 1 + below(64))); break;
      case 5: out.resize(at); break;
      default: out[at] = static_cast<char>('0' + below(10)); break;
    }
  }
  // Keep the length right half of the time: otherwise nearly nothing gets past it.
  const size_t brace = out.rfind('}');
  if (brace != std::string::npos && brace > 8 && below(2) == 0) out = with_length(brace - 7, out.substr(8));
  return out;
}

int fuzz(const std::string& seed, long count, uint64_t random_seed) {
  std::mt19937_64 random(random_seed);
  long structures = 0;
  long containers = 0;
  for (long i = 0; i < count; ++i) {
    const std::string bytes = mutated(seed, random);
    structures += accepted(structure(bytes));
    containers += accepted(whole(signed_file(bytes)));
    if (bytes != seed && accepted(whole(bytes))) {
      std::fprintf(stderr, "input %ld: a changed file was accepted: %s\n", i, hex(bytes).c_str());
      return 1;
    }
  }
  std::printf("%ld inputs, %ld with valid structure, %ld valid once signed\n", count, structures, containers);
  return 0;
}

int print_hostile() {
  for (const auto& files : {hostile_tensors(), hostile_headers(), hostile_containers()}) {
    for (const auto& file : files) {
      const std::string bytes = with_length(file.size(), signed_file(file));
      std::fwrite(bytes.data(), 1, bytes.size(), stdout);
    }
  }
  return 0;
}

int serve(std::string (*answer)(const std::string&)) {
  unsigned char prefix[8];
  while (std::fread(prefix, 1, 8, stdin) == 8) {
    uint64_t length = 0;
    for (int i = 7; i >= 0; --i) length = length << 8 | prefix[i];
    std::string bytes(static_cast<size_t>(length), '\0');
    if (std::fread(&bytes[0], 1, bytes.size(), stdin) != bytes.size()) return 2;
    std::string line = answer(bytes);
    std::replace(line.begin(), line.end(), '\n', ' ');
    std::puts(line.c_str());
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "--hostile") return print_hostile();
  if (mode == "--check") return serve(whole);
  if (mode == "--json") return serve(json);
  if (mode == "--fuzz" && argc == 5) {
    return fuzz(load(argv[2]), std::atol(argv[3]), std::strtoull(argv[4], nullptr, 10));
  }
  if (argc != 2) return std::fprintf(stderr, "usage: test_files FILE\n"), 2;
  const std::string file = load(argv[1]);
  test_crc();
  test_json_limits();
  test_valid_shapes();
  test_hostile();
  test_damage(file);
  test_lookup(file);
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
