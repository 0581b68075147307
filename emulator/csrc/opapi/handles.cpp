// SPDX-License-Identifier: Apache-2.0
#include "opapi/handles.h"

#include <algorithm>
#include <mutex>
#include <type_traits>
#include <unordered_map>

#include <ATen/ops/from_blob.h>

#include "core/failure.h"

namespace emu::opapi {
namespace {

struct Registry {
  std::mutex mutex;
  std::unordered_map<const void*, Kind> live;
};

Registry& Handles() {
  static auto* registry = new Registry;  // handles may be destroyed while the process exits
  return *registry;
}

int64_t ElementsSpanned(const std::vector<int64_t>& dims, const std::vector<int64_t>& strides) {
  int64_t last = 0;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] == 0) return 0;
    last += (dims[i] - 1) * strides[i];
  }
  return last + 1;
}

at::Tensor ViewOf(void* base, int64_t offset, const std::vector<int64_t>& dims,
                  const std::vector<int64_t>& strides, at::ScalarType type) {
  const auto options = at::TensorOptions(type).device(at::kCPU);
  char* begin = static_cast<char*>(base) + offset * static_cast<int64_t>(c10::elementSize(type));
  if (ElementsSpanned(dims, strides) == 0) begin = nullptr;
  return at::from_blob(begin, dims, strides, options);
}

template <typename T>
at::Scalar Read(const void* value) {
  return at::Scalar(*static_cast<const T*>(value));
}

at::Scalar ScalarAt(const void* value, int acl_type) {
  switch (ScalarTypeOf(acl_type)) {
    case at::kDouble:
      return Read<double>(value);
    case at::kFloat:
      return Read<float>(value);
    case at::kHalf:
      return Read<at::Half>(value);
    case at::kBFloat16:
      return Read<at::BFloat16>(value);
    case at::kLong:
      return Read<int64_t>(value);
    case at::kInt:
      return Read<int32_t>(value);
    case at::kShort:
      return Read<int16_t>(value);
    case at::kChar:
      return Read<int8_t>(value);
    case at::kByte:
      return Read<uint8_t>(value);
    case at::kBool:
      return Read<bool>(value);
    case at::kComplexDouble:
      return Read<c10::complex<double>>(value);
    case at::kComplexFloat:
      return Read<c10::complex<float>>(value);
    default:
      throw Error(kInvalidParam, "a scalar of ACL data type " + std::to_string(acl_type));
  }
}

// Creates a handle; failures become a message and null, which the operator reports again.
template <typename Make>
auto Created(const char* function, Make&& make) -> decltype(make()) {
  decltype(make()) handle = nullptr;
  Guarded(function, [&] { handle = make(); });
  return handle;
}

template <typename T>
int Destroy(const char* function, Kind kind, const T* handle) {
  if (handle == nullptr) return kSuccess;
  return Guarded(function, [&] {
    const Kind found = KindOf(handle);
    if (found != kind) {
      throw Error(kInvalidParam, std::string(function) + " got " + KindName(found));
    }
    delete handle;
  });
}

}  // namespace

const char* KindName(Kind kind) {
  switch (kind) {
    case Kind::kTensor:
      return "a tensor";
    case Kind::kTensors:
      return "a tensor list";
    case Kind::kScalar:
      return "a scalar";
    case Kind::kScalars:
      return "a scalar list";
    case Kind::kInts:
      return "an int array";
    case Kind::kFloats:
      return "a float array";
    case Kind::kBools:
      return "a bool array";
    case Kind::kExecutor:
      return "an executor";
    case Kind::kNone:
      break;
  }
  return "no live handle";
}

Kind KindOf(const void* address) {
  auto& handles = Handles();
  std::lock_guard lock(handles.mutex);
  const auto found = handles.live.find(address);
  return found == handles.live.end() ? Kind::kNone : found->second;
}

Handle::Handle(Kind kind) {
  auto& handles = Handles();
  std::lock_guard lock(handles.mutex);
  handles.live[this] = kind;
}

Handle::~Handle() {
  auto& handles = Handles();
  std::lock_guard lock(handles.mutex);
  handles.live.erase(this);
}

// Values of the public aclDataType enumeration (CANN API documentation, "aclDataType").
at::ScalarType ScalarTypeOf(int acl_type) {
  switch (acl_type) {
    case 0:
      return at::kFloat;
    case 1:
      return at::kHalf;
    case 2:
      return at::kChar;
    case 3:
      return at::kInt;
    case 4:
      return at::kByte;
    case 6:
      return at::kShort;
    case 7:
      return at::kUInt16;
    case 8:
      return at::kUInt32;
    case 9:
      return at::kLong;
    case 10:
      return at::kUInt64;
    case 11:
      return at::kDouble;
    case 12:
      return at::kBool;
    case 16:
      return at::kComplexFloat;
    case 17:
      return at::kComplexDouble;
    case 27:
      return at::kBFloat16;
    case 33:
      return at::kComplexHalf;
    default:
      throw Error(kInvalidParam, "ACL data type " + std::to_string(acl_type) + " is not emulated");
  }
}

}  // namespace emu::opapi

// Prototypes from op-plugin's dlsym typedefs (utils/op_api_common_base.h, Unique2KernelNpuOpApi.cpp, BSD-3).
extern "C" {

aclTensor* aclCreateTensor(const int64_t* view_dims, uint64_t num_dims, int data_type, const int64_t* strides,
                           int64_t offset, int /*format*/, const int64_t* /*storage_dims*/,
                           uint64_t /*num_storage_dims*/, void* base) {
  return emu::opapi::Created("aclCreateTensor", [&] {
    auto tensor = std::make_unique<aclTensor>();
    tensor->view_dims.assign(view_dims, view_dims + num_dims);
    try {
      const std::vector<int64_t> steps(strides, strides + num_dims);
      const auto type = emu::opapi::ScalarTypeOf(data_type);
      tensor->value = emu::opapi::ViewOf(base, offset, tensor->view_dims, steps, type);
    } catch (const std::exception& error) {
      tensor->problem = error.what();
    }
    return tensor.release();
  });
}

aclScalar* aclCreateScalar(void* value, int data_type) {
  return emu::opapi::Created("aclCreateScalar", [&] {
    auto scalar = std::make_unique<aclScalar>();
    scalar->value = emu::opapi::ScalarAt(value, data_type);
    return scalar.release();
  });
}

aclIntArray* aclCreateIntArray(const int64_t* values, uint64_t size) {
  auto* array = new aclIntArray;
  array->items.assign(values, values + size);
  return array;
}

aclFloatArray* aclCreateFloatArray(const float* values, uint64_t size) {
  auto* array = new aclFloatArray;
  array->items.assign(values, values + size);
  return array;
}

aclBoolArray* aclCreateBoolArray(const bool* values, uint64_t size) {
  auto* array = new aclBoolArray;
  array->items.assign(values, values + size);
  return array;
}

aclTensorList* aclCreateTensorList(const aclTensor* const* values, uint64_t size) {
  auto* list = new aclTensorList;
  for (uint64_t i = 0; i < size; ++i) list->items.push_back(const_cast<aclTensor*>(values[i]));
  return list;
}

aclScalarList* aclCreateScalarList(const aclScalar* const* values, uint64_t size) {
  auto* list = new aclScalarList;
  for (uint64_t i = 0; i < size; ++i) list->items.push_back(const_cast<aclScalar*>(values[i]));
  return list;
}

int aclDestroyTensor(const aclTensor* tensor) {
  return emu::opapi::Destroy("aclDestroyTensor", emu::opapi::Kind::kTensor, tensor);
}

int aclDestroyScalar(const aclScalar* scalar) {
  return emu::opapi::Destroy("aclDestroyScalar", emu::opapi::Kind::kScalar, scalar);
}

int aclDestroyIntArray(const aclIntArray* array) {
  return emu::opapi::Destroy("aclDestroyIntArray", emu::opapi::Kind::kInts, array);
}

int aclDestroyFloatArray(const aclFloatArray* array) {
  return emu::opapi::Destroy("aclDestroyFloatArray", emu::opapi::Kind::kFloats, array);
}

int aclDestroyBoolArray(const aclBoolArray* array) {
  return emu::opapi::Destroy("aclDestroyBoolArray", emu::opapi::Kind::kBools, array);
}

// A list owns its items: torch_npu destroys only the list.
int aclDestroyTensorList(const aclTensorList* list) {
  if (emu::opapi::KindOf(list) == emu::opapi::Kind::kTensors) {
    for (auto* item : list->items) delete item;
  }
  return emu::opapi::Destroy("aclDestroyTensorList", emu::opapi::Kind::kTensors, list);
}

int aclDestroyScalarList(const aclScalarList* list) {
  if (emu::opapi::KindOf(list) == emu::opapi::Kind::kScalars) {
    for (auto* item : list->items) delete item;
  }
  return emu::opapi::Destroy("aclDestroyScalarList", emu::opapi::Kind::kScalars, list);
}

// The caller frees the dimensions with delete[].
int aclGetViewShape(const aclTensor* tensor, int64_t** view_dims, uint64_t* num_dims) {
  return emu::Guarded("aclGetViewShape", [&] {
    const auto found = emu::opapi::KindOf(tensor);
    if (found != emu::opapi::Kind::kTensor) {
      throw emu::Error(emu::kInvalidParam, std::string("aclGetViewShape got ") + emu::opapi::KindName(found));
    }
    *num_dims = tensor->view_dims.size();
    *view_dims = new int64_t[tensor->view_dims.size()];
    std::copy(tensor->view_dims.begin(), tensor->view_dims.end(), *view_dims);
  });
}

}  // extern "C"
