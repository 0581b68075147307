// SPDX-License-Identifier: Apache-2.0
// Descriptors and attributes of the single-operator interface (aclop), which torch_npu uses for what has no aclnn
// function. Identity, which casts formats, is done here; the other operators are libopapi's (csrc/aclop).
// Prototypes: torch_npu csrc/framework/OpParamMaker.cpp and .h, csrc/framework/OpCmdHelper.cpp (BSD-3).
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "acl/types.h"
#include "aclop/call.h"
#include "core/failure.h"
#include "core/stream.h"
#include "memory/memory.h"

namespace {

struct TensorDescriptor {
  int type = 0;
  int format = 0;
  std::vector<int64_t> dimensions;
  bool on_host = false;
};

using Attributes = std::map<std::string, emu::aclop::Attribute>;

std::atomic<emu::aclop::Runner> runner{nullptr};

struct DataBuffer {
  void* data = nullptr;
  size_t bytes = 0;
};

// Private formats keep the order of the elements here, and their padding is behind the last one, so that a cast
// from or to one is a copy of what the smaller of the two buffers holds.
void Identity(const DataBuffer& source, const DataBuffer& target, emu::Stream& stream) {
  const size_t bytes = std::min(source.bytes, target.bytes);
  if (bytes == 0) return;
  const emu::Range from = emu::RangeOf(source.data, bytes);
  const emu::Range to = emu::RangeOf(target.data, bytes);
  emu::CheckDeviceRange(from, "Identity: the input");
  emu::CheckDeviceRange(to, "Identity: the output");
  emu::Task task;
  task.name = "Identity";
  task.accesses = {{from, false}, {to, true}};
  task.run = [data = source.data, out = target.data, bytes] { std::memmove(out, data, bytes); };
  emu::Enqueue(stream, std::move(task));
}

emu::aclop::Operand OperandOf(const void* descriptor, const void* buffer) {
  const auto& form = *static_cast<const TensorDescriptor*>(descriptor);
  const auto* memory = static_cast<const DataBuffer*>(buffer);
  if (memory == nullptr) return {form.type, form.dimensions, nullptr, 0, form.on_host};
  return {form.type, form.dimensions, memory->data, memory->bytes, form.on_host};
}

void Run(const char* name, int num_inputs, const void* const* input_forms, const void* const* inputs,
         int num_outputs, const void* const* output_forms, void* const* outputs, const void* attributes,
         void* stream) {
  emu::aclop::Call call{name, {}, {}, {}};
  for (int i = 0; i < num_inputs; ++i) call.inputs.push_back(OperandOf(input_forms[i], inputs[i]));
  for (int i = 0; i < num_outputs; ++i) call.outputs.push_back(OperandOf(output_forms[i], outputs[i]));
  if (attributes != nullptr) call.attributes = *static_cast<const Attributes*>(attributes);
  if (runner == nullptr) dlopen("libopapi.so", RTLD_NOW);  // it registers itself
  int code = emu::kSuccess;
  const auto run = runner.load();
  if (run == nullptr || !run(call, stream, code)) {
    throw emu::Error(emu::kFeatureNotSupported, "not emulated: operator " + call.name);
  }
  if (code != emu::kSuccess) throw emu::Error(code, call.name + " cannot be launched");
}

}  // namespace

void emu::aclop::SetRunner(Runner one) { runner = one; }

EMU_API void* aclCreateTensorDesc(int type, int num_dimensions, const int64_t* dimensions, int format) {
  return new TensorDescriptor{type, format, std::vector<int64_t>(dimensions, dimensions + num_dimensions)};
}

EMU_API void aclDestroyTensorDesc(const void* descriptor) {
  delete static_cast<const TensorDescriptor*>(descriptor);
}

EMU_API void aclSetTensorDescName(void*, const char*) {}
EMU_API int aclSetTensorFormat(void*, int) { return emu::kSuccess; }
EMU_API int aclSetTensorPlaceMent(void* descriptor, int) {  // torch_npu says it of operands on the host alone
  static_cast<TensorDescriptor*>(descriptor)->on_host = true;
  return emu::kSuccess;
}
EMU_API int aclSetTensorShape(void*, int, const int64_t*) { return emu::kSuccess; }

EMU_API int aclGetTensorDescType(const void* descriptor) {
  return static_cast<const TensorDescriptor*>(descriptor)->type;
}

EMU_API int aclGetTensorDescFormat(const void* descriptor) {
  return static_cast<const TensorDescriptor*>(descriptor)->format;
}

EMU_API size_t aclGetTensorDescNumDims(const void* descriptor) {
  return static_cast<const TensorDescriptor*>(descriptor)->dimensions.size();
}

EMU_API int aclGetTensorDescDimV2(const void* descriptor, size_t index, int64_t* size) {
  return emu::Guarded("aclGetTensorDescDimV2", [&] {
    const auto& dimensions = static_cast<const TensorDescriptor*>(descriptor)->dimensions;
    if (index >= dimensions.size()) throw emu::Error(emu::kInvalidParam, "no such dimension");
    *size = dimensions[index];
  });
}

EMU_API void* aclCreateDataBuffer(void* data, size_t bytes) { return new DataBuffer{data, bytes}; }

EMU_API int aclDestroyDataBuffer(const void* buffer) {
  delete static_cast<const DataBuffer*>(buffer);
  return emu::kSuccess;
}

EMU_API void* aclopCreateAttr() { return new Attributes; }
EMU_API void aclopDestroyAttr(const void* attributes) { delete static_cast<const Attributes*>(attributes); }
EMU_API int aclopSetAttrBool(void* attributes, const char* name, uint8_t value) {
  (*static_cast<Attributes*>(attributes))[name] = value != 0;
  return emu::kSuccess;
}
EMU_API int aclopSetAttrDataType(void* attributes, const char* name, int value) {
  (*static_cast<Attributes*>(attributes))[name] = int64_t{value};
  return emu::kSuccess;
}
EMU_API int aclopSetAttrFloat(void* attributes, const char* name, float value) {
  (*static_cast<Attributes*>(attributes))[name] = value;
  return emu::kSuccess;
}
EMU_API int aclopSetAttrInt(void* attributes, const char* name, int64_t value) {
  (*static_cast<Attributes*>(attributes))[name] = value;
  return emu::kSuccess;
}
EMU_API int aclopSetAttrString(void* attributes, const char* name, const char* value) {
  (*static_cast<Attributes*>(attributes))[name] = std::string(value);
  return emu::kSuccess;
}
EMU_API int aclopSetAttrListInt(void* attributes, const char* name, int count, const int64_t* values) {
  (*static_cast<Attributes*>(attributes))[name] = std::vector<int64_t>(values, values + count);
  return emu::kSuccess;
}
// Other lists are accepted and dropped: no operator reads them.
EMU_API int aclopSetAttrListBool(void*, const char*, int, const uint8_t*) { return emu::kSuccess; }
EMU_API int aclopSetAttrListFloat(void*, const char*, int, const float*) { return emu::kSuccess; }
EMU_API int aclopSetAttrListListInt(void*, const char*, int, const int*, const int64_t* const*) {
  return emu::kSuccess;
}

EMU_API int aclopCompileAndExecute(const char* operator_type, int num_inputs, const void* const* input_forms,
                                   const void* const* inputs, int num_outputs, const void* const* output_forms,
                                   void* const* outputs, const void* attributes, int, int, const char*,
                                   void* stream) {
  return emu::Guarded("aclopCompileAndExecute", [&] {
    if (std::strcmp(operator_type, "Identity") == 0 && num_inputs == 1 && num_outputs == 1) {
      Identity(*static_cast<const DataBuffer*>(inputs[0]), *static_cast<const DataBuffer*>(outputs[0]),
               emu::StreamOf(stream));
      return;
    }
    Run(operator_type, num_inputs, input_forms, inputs, num_outputs, output_forms, outputs, attributes, stream);
  });
}
