#include "vectors.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>

#include "sha256.h"

namespace judge {
namespace {

using ghost::Json;
using Kind = ghost::Json::Kind;

constexpr uint64_t kLargest = uint64_t{1} << 32;

struct ElementType {
  const char* name;
  uint64_t size;
};
constexpr ElementType kTypes[] = {{"F64", 8}, {"F32", 4}, {"F16", 2},  {"BF16", 2}, {"I64", 8}, {"I32", 4}, {"I16", 2},
                                  {"I8", 1},  {"U64", 8}, {"U32", 4}, {"U16", 2},  {"U8", 1},  {"BOOL", 1}};

std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file.is_open() || file.bad()) throw BadFile(path + " cannot be read; export the vectors again.");
  return bytes;
}

Json parse(std::string_view text, const std::string& path) {
  ghost::JsonLimits limits;
  limits.bytes = size_t{1} << 26;
  limits.values = size_t{1} << 22;
  ghost::Result<Json> json = ghost::parse_json(text, limits);
  if (!json.ok()) throw BadFile(path + " is not valid JSON (" + json.status.message() + "); export the vectors again.");
  return std::move(json.value);
}

// The value under a key, of this kind.
const Json& member(const Json& object, const char* key, Kind kind, const std::string& path) {
  const Json* value = object.is(Kind::Object) ? object.find(key) : nullptr;
  if (value == nullptr || !value->is(kind)) {
    throw BadFile(path + " has no '" + key + "' of the right kind; export the vectors again.");
  }
  return *value;
}

template <typename T>
T load(const uint8_t* data) {
  T value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

bool is_count(const Json& value) {
  return value.is(Kind::Integer) && value.integer >= 0 && static_cast<uint64_t>(value.integer) < kLargest;
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name[0] != '.' && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
  });
}

}  // namespace

int64_t Tensor::size() const {
  int64_t product = 1;
  for (const int64_t n : shape) product *= n;
  return product;
}

double Tensor::number(int64_t i) const {
  if (dtype == "F64") return load<double>(data + 8 * i);
  if (dtype == "F32") return static_cast<double>(load<float>(data + 4 * i));
  if (dtype == "I64") return static_cast<double>(load<int64_t>(data + 8 * i));
  if (dtype == "I32") return load<int32_t>(data + 4 * i);
  if (dtype == "I16") return load<int16_t>(data + 2 * i);
  if (dtype == "I8") return load<int8_t>(data + i);
  if (dtype == "U8" || dtype == "BOOL") return data[i];
  throw BadFile("a tensor of type " + dtype + " is not one that vectors have; export them again.");
}

Tensors::Tensors(std::string path, std::string bytes) : path_(std::move(path)), bytes_(std::move(bytes)) {
  uint64_t length = 0;
  for (size_t i = 8; i > 0 && bytes_.size() >= 8; --i) length = length << 8 | static_cast<uint8_t>(bytes_[i - 1]);
  if (bytes_.size() < 8 || length > bytes_.size() - 8) throw BadFile(path_ + " is not a safetensors file, or cut off.");
  const size_t begin = 8 + static_cast<size_t>(length);
  const Json header = parse(std::string_view(bytes_).substr(8, static_cast<size_t>(length)), path_);
  if (!header.is(Kind::Object)) throw BadFile(path_ + " is not a safetensors file.");
  for (size_t i = 0; i < header.keys.size(); ++i) {
    if (header.keys[i] != "__metadata__") add(header.keys[i], header.items[i], begin);
  }
}

void Tensors::add(const std::string& name, const Json& entry, size_t begin) {
  const std::string& type = member(entry, "dtype", Kind::String, path_).string;
  const Json& shape = member(entry, "shape", Kind::Array, path_);
  const Json& range = member(entry, "data_offsets", Kind::Array, path_);
  const auto* known = std::find_if(std::begin(kTypes), std::end(kTypes),
                                   [&](const ElementType& t) { return type == t.name; });
  bool right = known != std::end(kTypes) && range.items.size() == 2 && is_count(range.items[0]) &&
               is_count(range.items[1]);
  uint64_t bytes = right ? known->size : 0;
  Tensor tensor;
  for (const Json& n : shape.items) {
    right = right && is_count(n) && (n.integer == 0 || bytes <= kLargest / static_cast<uint64_t>(n.integer));
    if (!right) break;
    bytes *= static_cast<uint64_t>(n.integer);
    tensor.shape.push_back(n.integer);
  }
  if (right) {
    const uint64_t from = static_cast<uint64_t>(range.items[0].integer);
    const uint64_t to = static_cast<uint64_t>(range.items[1].integer);
    right = from <= to && to - from == bytes && to <= bytes_.size() - begin;
    tensor.data = reinterpret_cast<const uint8_t*>(bytes_.data()) + begin + from;
  }
  if (!right) throw BadFile(path_ + " is damaged: the type, shape or range of tensor '" + name + "' is wrong.");
  tensor.dtype = type;
  tensor.nbytes = static_cast<size_t>(bytes);
  tensors_.emplace(name, std::move(tensor));
}

const Tensor* Tensors::find(const std::string& name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

Case::Case(const Json& description, const Tensors& tensors, size_t number)
    : statics_(&member(description, "statics", Kind::Object, tensors.path())),
      tensors_(&tensors),
      prefix_(std::to_string(number) + "/"),
      name_(member(description, "name", Kind::String, tensors.path()).string) {
  forward_ = member(description, "direction", Kind::String, tensors.path()).string == "forward";
  bits_ = member(description, "bits", Kind::Bool, tensors.path()).boolean;
  for (const Json& result : member(description, "results", Kind::Array, tensors.path()).items) {
    outputs_.push_back(member(result, "output", Kind::String, tensors.path()).string);
  }
}

const Tensor* Case::find(const std::string& path) const { return tensors_->find(prefix_ + path); }

const Tensor& Case::at(const std::string& path) const {
  const Tensor* tensor = find(path);
  if (tensor == nullptr) refuse("has no tensor " + path);
  return *tensor;
}

void Case::refuse(const std::string& why) const {
  throw BadFile(tensors_->path() + ": case " + name_ + " " + why + "; export the vectors again.");
}

Array Case::array(const std::string& name, const std::vector<int64_t>& shape) const {
  const Tensor& tensor = at("argument/" + name);
  std::vector<int64_t> found = tensor.shape;
  while (found.size() > shape.size()) {
    found[1] *= found[0];
    found.erase(found.begin());
  }
  bool right = tensor.dtype == "F32" && found.size() == shape.size();
  for (size_t i = 0; right && i < shape.size(); ++i) {
    right = found[i] < (int64_t{1} << 30) && (shape[i] < 0 ? i == 0 || found[i] > 0 : shape[i] == found[i]);
  }
  if (!right) refuse("has an argument " + name + " of the wrong type or shape");
  Array array;
  array.shape.assign(found.begin(), found.end());
  array.values.resize(tensor.nbytes / sizeof(float));
  if (tensor.nbytes > 0) std::memcpy(array.values.data(), tensor.data, tensor.nbytes);
  return array;
}

int64_t Case::integer(const std::string& name, int64_t otherwise) const {
  const Json* value = statics_->find(name);
  if (value == nullptr) return otherwise;
  if (!is_count(*value) || value->integer > INT32_MAX) refuse("has no usable number " + name);
  return value->integer;
}

double Case::number(const std::string& name, double otherwise) const {
  const Json* value = statics_->find(name);
  if (value == nullptr) return otherwise;
  if (!value->is(Kind::Integer) && !value->is(Kind::Double)) refuse("has no usable number " + name);
  return value->is(Kind::Integer) ? static_cast<double>(value->integer) : value->number;
}

uint64_t Case::word(const std::string& name) const {
  const Json* value = statics_->find(name);
  if (value == nullptr) return 0;
  uint64_t word = 0;
  if (value->is(Kind::Integer) && value->integer >= 0) return static_cast<uint64_t>(value->integer);
  const auto* end = value->string.data() + value->string.size();
  const auto parsed = std::from_chars(value->string.data(), end, word);
  if (parsed.ec != std::errc() || parsed.ptr != end) refuse("has no usable number " + name);
  return word;
}

std::vector<int64_t> Case::integers(const std::string& name) const {
  std::vector<int64_t> found;
  const Json* value = statics_->find(name);
  if (value == nullptr || !value->is(Kind::Array)) refuse("has no list " + name);
  for (const Json& item : value->items) {
    if (!is_count(item)) refuse("has no usable list " + name);
    found.push_back(item.integer);
  }
  return found;
}

Component::Component(const std::string& directory, const std::string& component)
    : Component(directory + "/" + component, read_bytes(directory + "/" + component + ".json"),
                read_bytes(directory + "/" + component + ".safetensors")) {
  name = component;
}

Component::Component(const std::string& where, const std::string& json, std::string safetensors)
    : description(parse(json, where + ".json")), tensors(where + ".safetensors", std::move(safetensors)) {
  name = member(description, "component", Kind::String, where + ".json").string;
  canonical = member(description, "canonical", Kind::Bool, where + ".json").boolean;
  for (const Json& item : member(description, "cases", Kind::Array, where + ".json").items) {
    cases.emplace_back(item, tensors, cases.size());
  }
}

std::vector<std::string> read_manifest(const std::string& directory) {
  const std::string path = directory + "/MANIFEST.json";
  const Json manifest = parse(read_bytes(path), path);
  if (member(manifest, "format", Kind::String, path).string != "ghost-conformance-vectors" ||
      member(manifest, "version", Kind::Integer, path).integer != 1) {
    throw BadFile(path + " is not of format ghost-conformance-vectors version 1; export the vectors again.");
  }
  std::vector<std::string> names;
  const Json& files = member(manifest, "files", Kind::Object, path);
  for (size_t i = 0; i < files.keys.size(); ++i) {
    const std::string& file = files.keys[i];
    if (!is_plain_name(file) || !files.items[i].is(Kind::String)) {
      throw BadFile(path + " lists '" + file + "', which is no name of a vector file; export the vectors again.");
    }
    const std::string listed = directory + "/" + file;
    if (sha256(read_bytes(listed)) != files.items[i].string) {
      throw BadFile(listed + " is not the file that MANIFEST.json describes; export the vectors again.");
    }
    const size_t end = file.rfind(".json");
    if (end != std::string::npos && end == file.size() - 5) names.push_back(file.substr(0, end));
  }
  if (names.empty()) throw BadFile(path + " lists no component; export the vectors again.");
  return names;
}

}  // namespace judge
