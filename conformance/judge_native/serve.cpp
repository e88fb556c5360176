// ghost-judge --serve L: computes cases that another program sends, for machines that run under an emulator
// (conformance/backends/emulated.py). A request is the JSON of a component with one case and its safetensors
// (docs/conformance-vectors.md), each after its length (8 bytes, little-endian); the model's JSON names its file. The
// reply is 'A' and the answers as safetensors, flat float32, or 'R' and why there are none, after their length.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "components.h"
#include "fp_control.h"

namespace judge {
namespace {

constexpr uint64_t kLargest = uint64_t{1} << 30;

// False at the end of the input, where a request may begin.
bool read_block(bool first, std::string* block) {
  uint64_t length = 0;
  const size_t got = std::fread(&length, 1, sizeof length, stdin);
  if (got == 0 && first) return false;
  if (got != sizeof length || length > kLargest) throw BadFile("the request is cut off or too long.");
  block->resize(static_cast<size_t>(length));
  if (std::fread(block->data(), 1, block->size(), stdin) != block->size()) throw BadFile("the request is cut off.");
  return true;
}

void write_block(char kind, const std::string& block) {
  const uint64_t length = block.size();
  std::fputc(kind, stdout);
  std::fwrite(&length, sizeof length, 1, stdout);
  std::fwrite(block.data(), 1, block.size(), stdout);
  std::fflush(stdout);
}

std::string safetensors(const Outputs& outputs) {
  std::string header, body;
  for (const auto& [name, values] : outputs) {
    const size_t begin = body.size();
    body.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    header += (header.empty() ? "{\"0/" : ",\"0/") + name + "\":{\"dtype\":\"F32\",\"shape\":[" +
              std::to_string(values.size()) + "],\"data_offsets\":[" + std::to_string(begin) + "," +
              std::to_string(body.size()) + "]}";
  }
  header += header.empty() ? "{}" : "}";
  std::string found(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(found.data(), &length, sizeof length);
  return found + header + body;
}

Outputs answer(const ghost::Kernels& level, const std::string& json, std::string tensors) {
  const Component component("request", json, std::move(tensors));
  if (component.cases.size() != 1) throw BadFile("request.json has not exactly one case.");
  const Implementation* implementation = find_implementation(component.name);
  if (implementation != nullptr) return implementation->run(level, component.cases[0]);
  const ghost::Json* file = component.description.find("file");
  if (component.name != "model" || file == nullptr) throw BadFile("the runtime has no " + component.name + ".");
  return run_model(file->string, level.name, component.cases[0]);
}

}  // namespace

int serve(const ghost::Kernels& level) {
  setenv("GHOST_TEAM", "all", 1);  // every split is judged, however busy the machine is
  const ghost::FpControl control;
  std::string json, tensors;
  while (read_block(true, &json)) {
    read_block(false, &tensors);
    try {
      write_block('A', safetensors(answer(level, json, std::move(tensors))));
    } catch (const BadFile& refusal) {
      write_block('R', refusal.what());
    }
  }
  return 0;
}

}  // namespace judge
