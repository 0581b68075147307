// SPDX-License-Identifier: Apache-2.0
// The handles that torch_npu passes to operators. Every live handle is registered with its kind, so that an
// argument of another kind, or one that is no handle at all, is reported instead of followed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace emu::opapi {

enum class Kind : uint8_t { kNone, kTensor, kTensors, kScalar, kScalars, kInts, kFloats, kBools, kExecutor };

const char* KindName(Kind kind);

// The kind of the live handle at `address`; kNone when there is none.
Kind KindOf(const void* address);

// Base of all handles: registered while it lives.
class Handle {
 public:
  explicit Handle(Kind kind);
  ~Handle();
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
};

// The scalar type of a public aclDataType value; throws Error for one that is not emulated.
at::ScalarType ScalarTypeOf(int acl_type);

}  // namespace emu::opapi

// The names are those of the C interface that torch_npu declares as opaque
// (op-plugin utils/op_api_common_base.h, BSD-3).
struct aclTensor : emu::opapi::Handle {
  aclTensor() : Handle(emu::opapi::Kind::kTensor) {}
  at::Tensor value;                // a view of device memory, which is host memory here
  std::vector<int64_t> view_dims;  // an operator may set them, for outputs whose shape only it knows
  std::string problem;             // why it cannot be used: told by the operator that is given it
};

struct aclTensorList : emu::opapi::Handle {
  aclTensorList() : Handle(emu::opapi::Kind::kTensors) {}
  std::vector<aclTensor*> items;  // owned; null for undefined tensors
};

struct aclScalar : emu::opapi::Handle {
  aclScalar() : Handle(emu::opapi::Kind::kScalar) {}
  at::Scalar value;
};

struct aclScalarList : emu::opapi::Handle {
  aclScalarList() : Handle(emu::opapi::Kind::kScalars) {}
  std::vector<aclScalar*> items;  // owned
};

struct aclIntArray : emu::opapi::Handle {
  aclIntArray() : Handle(emu::opapi::Kind::kInts) {}
  std::vector<int64_t> items;
};

struct aclFloatArray : emu::opapi::Handle {
  aclFloatArray() : Handle(emu::opapi::Kind::kFloats) {}
  std::vector<double> items;
};

struct aclBoolArray : emu::opapi::Handle {
  aclBoolArray() : Handle(emu::opapi::Kind::kBools) {}
  std::vector<bool> items;
};
