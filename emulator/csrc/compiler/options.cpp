// SPDX-License-Identifier: Apache-2.0
// libacl_op_compiler: options of the operator compiler. Prototypes: torch_npu
// csrc/framework/interface/AclOpCompileInterface.cpp (BSD-3).
#include <cstring>

#include "acl/types.h"
#include "core/failure.h"

namespace {

// Just-in-time compilation is off; any other answer would send every operator to the aclop interface.
constexpr char kAnswer[] = "disable";

}  // namespace

EMU_API int aclSetCompileopt(int, const char*) { return emu::kSuccess; }
EMU_API size_t aclGetCompileoptSize(int) { return sizeof kAnswer; }

EMU_API int aclGetCompileopt(int, char* value, size_t length) {
  if (length < sizeof kAnswer) return emu::kInvalidParam;
  std::memcpy(value, kAnswer, sizeof kAnswer);
  return emu::kSuccess;
}
