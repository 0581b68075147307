// SPDX-License-Identifier: Apache-2.0
// Descriptors and attributes of the single-operator interface (aclop), which torch_npu uses for what has no aclnn
// function. Of its operators only Identity is emulated, which casts formats. Prototypes: torch_npu
// csrc/framework/OpParamMaker.cpp and .h, csrc/framework/OpCmdHelper.cpp (BSD-3).
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "acl/types.h"
#include "core/failure.h"
#include "core/stream.h"
#include "memory/memory.h"

namespace {

struct TensorDescriptor {
  int type = 0;
  int format = 0;
  std::vector<int64_t> dimensions;
};

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

}  // namespace

EMU_API void* aclCreateTensorDesc(int type, int num_dimensions, const int64_t* dimensions, int format) {
  return new TensorDescriptor{type, format, std::vector<int64_t>(dimensions, dimensions + num_dimensions)};
}

EMU_API void aclDestroyTensorDesc(const void* descriptor) {
  delete static_cast<const TensorDescriptor*>(descriptor);
}

EMU_API void aclSetTensorDescName(void*, const char*) {}
EMU_API int aclSetTensorFormat(void*, int) { return emu::kSuccess; }
EMU_API int aclSetTensorPlaceMent(void*, int) { return emu::kSuccess; }
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

// Attributes are accepted and dropped: no operator reads them.
EMU_API void* aclopCreateAttr() { return new char; }
EMU_API void aclopDestroyAttr(const void* attributes) { delete static_cast<const char*>(attributes); }
EMU_API int aclopSetAttrBool(void*, const char*, uint8_t) { return emu::kSuccess; }
EMU_API int aclopSetAttrDataType(void*, const char*, int) { return emu::kSuccess; }
EMU_API int aclopSetAttrFloat(void*, const char*, float) { return emu::kSuccess; }
EMU_API int aclopSetAttrInt(void*, const char*, int64_t) { return emu::kSuccess; }
EMU_API int aclopSetAttrString(void*, const char*, const char*) { return emu::kSuccess; }
EMU_API int aclopSetAttrListBool(void*, const char*, int, const uint8_t*) { return emu::kSuccess; }
EMU_API int aclopSetAttrListFloat(void*, const char*, int, const float*) { return emu::kSuccess; }
EMU_API int aclopSetAttrListInt(void*, const char*, int, const int64_t*) { return emu::kSuccess; }
EMU_API int aclopSetAttrListListInt(void*, const char*, int, const int*, const int64_t* const*) {
  return emu::kSuccess;
}

EMU_API int aclopCompileAndExecute(const char* operator_type, int num_inputs, const void* const*,
                                   const void* const* inputs, int num_outputs, const void* const*,
                                   void* const* outputs, const void*, int, int, const char*, void* stream) {
  return emu::Guarded("aclopCompileAndExecute", [&] {
    if (std::strcmp(operator_type, "Identity") != 0 || num_inputs != 1 || num_outputs != 1) {
      throw emu::Error(emu::kFeatureNotSupported, std::string("not emulated: operator ") + operator_type);
    }
    Identity(*static_cast<const DataBuffer*>(inputs[0]), *static_cast<const DataBuffer*>(outputs[0]),
             emu::StreamOf(stream));
  });
}
