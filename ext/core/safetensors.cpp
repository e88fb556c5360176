#include "safetensors.h"

#include <algorithm>

#include "crc32c.h"
#include "json.h"

namespace ghost {
namespace {

// The same limits as in ghost_ref/container.py.
constexpr uint64_t kFormatVersion = 1;
constexpr uint64_t kMaxFile = uint64_t{1} << 33;
constexpr uint64_t kMaxHeader = uint64_t{1} << 20;
constexpr size_t kMaxTensors = 8192;
constexpr size_t kMaxDimensions = 8;
constexpr size_t kMaxMetadata = 64;
constexpr std::string_view kMetadata = "__metadata__";
constexpr std::string_view kCrcKey = "\"crc32c\":\"";

struct DtypeInfo {
  Dtype dtype;
  const char* name;
  size_t size;
};

constexpr DtypeInfo kDtypes[] = {
    {Dtype::U64, "U64", 8}, {Dtype::I64, "I64", 8}, {Dtype::F64, "F64", 8}, {Dtype::F32, "F32", 4},
    {Dtype::U32, "U32", 4}, {Dtype::I32, "I32", 4}, {Dtype::F16, "F16", 2}, {Dtype::U16, "U16", 2},
    {Dtype::I16, "I16", 2}, {Dtype::I8, "I8", 1},   {Dtype::U8, "U8", 1},
};

Status damaged(const std::string& name, const std::string& why) {
  return Status::error(name + " is damaged: " + why + "; copy or make the file again.");
}

// The header's text and its JSON; `begin` is where the tensors' bytes start.
struct Header {
  std::string text;
  Json json;
  uint64_t begin = 0;
};

Result<Header> read_header(Source* source, const std::string& name) {
  const uint64_t size = source->size();
  if (size == 0) return Status::error(name + " is empty; copy or make the file again.");
  const Status foreign = Status::error(name + " is not a Ghost file, or it is cut off; pass a packed model made by "
                                              "`ghost pack`.");
  if (size < 10 || size > kMaxFile) return foreign;
  uint8_t first[9];
  if (!source->read(0, sizeof first, first)) return source->status();
  const uint64_t length = load_little_endian32(first) | static_cast<uint64_t>(load_little_endian32(first + 4)) << 32;
  if (length > size - 8 || length == 0 || first[8] != '{') return foreign;
  if (length > kMaxHeader) return damaged(name, "its header is larger than " + std::to_string(kMaxHeader) + " bytes");
  Header header;
  header.begin = 8 + length;
  header.text.resize(static_cast<size_t>(length));
  if (!source->read(8, header.text.size(), header.text.data())) return source->status();
  Result<Json> json = parse_json(header.text);
  if (!json.ok()) return damaged(name, "its header is not valid JSON (" + json.status.message() + ")");
  header.json = std::move(json.value);
  return header;
}

Status read_metadata(const Json& header, const std::string& name, Container& out) {
  const Json* metadata = header.find(kMetadata);
  const std::string foreign = name + " is a safetensors file but not a Ghost file: ";
  if (metadata == nullptr || !metadata->is(Json::Kind::Object)) {
    return Status::error(foreign + "it has no Ghost metadata.");
  }
  if (metadata->keys.size() > kMaxMetadata) {
    return damaged(name, "it has more than " + std::to_string(kMaxMetadata) + " metadata entries");
  }
  for (size_t i = 0; i < metadata->keys.size(); ++i) {
    if (!metadata->items[i].is(Json::Kind::String)) return Status::error(foreign + "it has no Ghost metadata.");
    out.metadata.emplace_back(metadata->keys[i], metadata->items[i].string);
  }
  for (const char* key : {"format", "format_version", "config", "crc32c"}) {
    if (out.find_metadata(key) == nullptr) return Status::error(foreign + "its metadata lacks '" + key + "'.");
  }
  return Status();
}

Status check_format(const Container& file, std::string_view format, const std::string& name) {
  const std::string& found = *file.find_metadata("format");
  if (found != format) {
    return Status::error(name + " has the format '" + found + "', but '" + std::string(format) + "' is needed.");
  }
  const std::string& version = *file.find_metadata("format_version");
  uint64_t number = 0;
  for (const char c : version) {
    if (c < '0' || c > '9' || version.size() > 9 || version[0] == '0') {
      return damaged(name, "'" + version + "' is no format version");
    }
    number = number * 10 + static_cast<uint64_t>(c - '0');
  }
  if (version.empty()) return damaged(name, "'' is no format version");
  if (number > kFormatVersion) {
    return Status::error(name + " was written by a newer Ghost (format version " + version + ", this one reads " +
                         std::to_string(kFormatVersion) + "); upgrade Ghost to read it.");
  }
  return Status();
}

// The 8 digits stand behind the one key, in lower case, and are the CRC of the file with them as '0'.
Status check_crc(Source* source, const Header& header, const std::string& stored, const std::string& name) {
  const std::string_view text = header.text;
  const size_t key = text.find(kCrcKey);
  const size_t digits = key + kCrcKey.size();
  bool written = key != std::string_view::npos && text.find(kCrcKey, key + 1) == std::string_view::npos &&
                 stored.size() == 8 && text.substr(digits, 8) == stored && text.substr(digits + 8, 1) == "\"";
  uint32_t expected = 0;
  for (const char c : stored) {
    const bool decimal = c >= '0' && c <= '9';
    written = written && (decimal || (c >= 'a' && c <= 'f'));
    expected = expected << 4 | static_cast<uint32_t>(decimal ? c - '0' : c - 'a' + 10);
  }
  if (!written) return damaged(name, "its checksum is not written as 8 lower-case hex digits");
  static const uint8_t zeros[] = {'0', '0', '0', '0', '0', '0', '0', '0'};
  uint8_t first[8];
  if (!source->read(0, sizeof first, first)) return source->status();
  uint32_t reg = crc32c_update(kCrc32cStart, first, sizeof first);
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
  reg = crc32c_update(reg, bytes, digits);
  reg = crc32c_update(reg, zeros, sizeof zeros);
  reg = crc32c_update(reg, bytes + digits + 8, text.size() - digits - 8);
  source->start(header.begin, source->size() - header.begin);
  for (uint64_t rest = source->size() - header.begin; rest > 0;) {
    const size_t count = static_cast<size_t>(std::min<uint64_t>(rest, Source::kPiece));
    const uint8_t* piece = source->next(count);
    if (piece == nullptr) return source->status();
    reg = crc32c_update(reg, piece, count);
    rest -= count;
  }
  return ~reg == expected ? Status() : damaged(name, "its checksum does not match its content");
}

struct Extent {  // of a tensor, counted from the header's end
  uint64_t begin = 0;
  uint64_t end = 0;
};

bool is_count(const Json& value) { return value.is(Json::Kind::Integer) && value.integer >= 0; }

// False unless the entry has a known type, a plausible shape and a range of exactly that size.
bool read_tensor(const Json& entry, TensorInfo& tensor, Extent& range) {
  const Json* dtype = entry.find("dtype");
  const Json* shape = entry.find("shape");
  const Json* offsets = entry.find("data_offsets");
  if (dtype == nullptr || shape == nullptr || offsets == nullptr || entry.keys.size() != 3) return false;
  const auto* known = std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const DtypeInfo& info) {
    return dtype->is(Json::Kind::String) && dtype->string == info.name;
  });
  if (known == std::end(kDtypes) || !shape->is(Json::Kind::Array) || shape->items.size() > kMaxDimensions ||
      !offsets->is(Json::Kind::Array) || offsets->items.size() != 2) {
    return false;
  }
  tensor.dtype = known->dtype;
  uint64_t bytes = known->size;
  uint64_t extent = known->size;  // as if no dimension were zero: a zero must not hide absurd ones
  for (const Json& item : shape->items) {
    if (!is_count(item)) return false;
    const uint64_t count = static_cast<uint64_t>(item.integer);
    if (count > 0 && extent > kMaxFile / count) return false;
    extent *= std::max<uint64_t>(count, 1);
    bytes *= count;
    tensor.shape.push_back(count);
  }
  if (!is_count(offsets->items[0]) || !is_count(offsets->items[1])) return false;
  range.begin = static_cast<uint64_t>(offsets->items[0].integer);
  range.end = static_cast<uint64_t>(offsets->items[1].integer);
  return range.begin <= range.end && range.end - range.begin == bytes;
}

Status read_tensors(uint64_t size, const Header& header, const std::string& name, Container& out) {
  struct Entry {
    Extent range;
    TensorInfo info;
  };
  std::vector<Entry> entries;
  for (size_t i = 0; i < header.json.keys.size(); ++i) {
    const std::string& key = header.json.keys[i];
    if (key == kMetadata) continue;
    if (entries.size() == kMaxTensors) {
      return damaged(name, "it has more than " + std::to_string(kMaxTensors) + " tensors");
    }
    entries.emplace_back();
    entries.back().info.name = key;
    if (!read_tensor(header.json.items[i], entries.back().info, entries.back().range)) {
      return damaged(name, "the type, shape or range of tensor '" + key + "' is wrong");
    }
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.range.begin, a.range.end) < std::pair(b.range.begin, b.range.end);
  });
  const uint64_t available = size - header.begin;
  uint64_t position = 0;
  for (Entry& entry : entries) {
    if (entry.range.begin != position || entry.range.end > available) {
      return damaged(name, "tensor '" + entry.info.name + "' overlaps another, leaves a hole or passes the end");
    }
    position = entry.range.end;
    entry.info.offset = header.begin + entry.range.begin;
    entry.info.nbytes = entry.range.end - entry.range.begin;
    out.tensors.push_back(std::move(entry.info));
  }
  if (position != available) {
    return damaged(name, "its tensors need " + std::to_string(position) + " bytes and it has " +
                             std::to_string(available));
  }
  std::sort(out.tensors.begin(), out.tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  return Status();
}

// Whether the exponent bits of an element (little-endian bytes) are all ones.
bool is_not_finite(const uint8_t* element, Dtype dtype) {
  switch (dtype) {
    case Dtype::F16: return (element[1] & 0x7C) == 0x7C;
    case Dtype::F32: return (element[3] & 0x7F) == 0x7F && (element[2] & 0x80) == 0x80;
    case Dtype::F64: return (element[7] & 0x7F) == 0x7F && (element[6] & 0xF0) == 0xF0;
    default: return false;
  }
}

Status check_finite(Source* source, const Container& file, const std::string& name) {
  for (const TensorInfo& tensor : file.tensors) {
    if (tensor.dtype != Dtype::F16 && tensor.dtype != Dtype::F32 && tensor.dtype != Dtype::F64) continue;
    const size_t size = dtype_size(tensor.dtype);
    source->start(tensor.offset, tensor.nbytes);
    for (uint64_t rest = tensor.nbytes; rest > 0;) {
      const size_t count = static_cast<size_t>(std::min<uint64_t>(rest, Source::kPiece));
      const uint8_t* piece = source->next(count);
      if (piece == nullptr) return source->status();
      for (size_t i = 0; i < count; i += size) {
        if (is_not_finite(piece + i, tensor.dtype)) {
          return damaged(name, "tensor '" + tensor.name + "' holds NaN or infinity");
        }
      }
      rest -= count;
    }
  }
  return Status();
}

}  // namespace

const char* dtype_name(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)].name; }

size_t dtype_size(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)].size; }

const TensorInfo* Container::find(std::string_view name) const {
  const auto at = std::lower_bound(tensors.begin(), tensors.end(), name,
                                   [](const TensorInfo& a, std::string_view b) { return a.name < b; });
  return at != tensors.end() && at->name == name ? &*at : nullptr;
}

const std::string* Container::find_metadata(std::string_view key) const {
  for (const auto& entry : metadata) {
    if (entry.first == key) return &entry.second;
  }
  return nullptr;
}

Result<Container> parse_safetensors(Source* source, const std::string& name) {
  const Result<Header> header = read_header(source, name);
  if (!header.ok()) return header.status;
  Container file;
  Status status = read_metadata(header.value.json, name, file);
  if (status.ok()) status = read_tensors(source->size(), header.value, name, file);
  if (!status.ok()) return status;
  return file;
}

Result<Container> read_container(Source* source, std::string_view format, const std::string& name) {
  const Result<Header> header = read_header(source, name);
  if (!header.ok()) return header.status;
  Container file;
  // The version comes before all that a later version may do differently.
  Status status = read_metadata(header.value.json, name, file);
  if (status.ok()) status = check_format(file, format, name);
  if (status.ok()) status = check_crc(source, header.value, *file.find_metadata("crc32c"), name);
  if (status.ok()) status = read_tensors(source->size(), header.value, name, file);
  if (status.ok()) status = check_finite(source, file, name);
  if (!status.ok()) return status;
  return file;
}

}  // namespace ghost
