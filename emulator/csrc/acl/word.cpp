// SPDX-License-Identifier: Apache-2.0
// Waiting for and writing words of memory. Prototypes: torch_npu csrc/core/npu/interface/AclInterface.cpp (BSD-3).
#include "core/word.h"

#include <functional>

#include "acl/types.h"
#include "core/failure.h"

namespace {

// How the word is compared with the value (API documentation of aclrtValueWait).
std::function<bool(uint64_t)> Condition(uint32_t flag, uint64_t value) {
  switch (flag) {
    case 0:
      return [value](uint64_t word) { return static_cast<int64_t>(word - value) >= 0; };
    case 1:
      return [value](uint64_t word) { return word == value; };
    case 2:
      return [value](uint64_t word) { return (word & value) != 0; };
    case 3:
      return [value](uint64_t word) { return ~(word | value) != 0; };
    default:
      throw emu::Error(emu::kInvalidParam, "unknown condition " + std::to_string(flag));
  }
}

}  // namespace

EMU_API int aclrtValueWait(void* address, uint64_t value, uint32_t flag, void* stream) {
  return emu::Guarded("aclrtValueWait", [&] {
    emu::WaitWord(static_cast<uint64_t*>(address), Condition(flag, value), emu::StreamOf(stream));
  });
}

EMU_API int aclrtValueWrite(void* address, uint64_t value, uint32_t, void* stream) {
  return emu::Guarded("aclrtValueWrite",
                      [&] { emu::WriteWord(static_cast<uint64_t*>(address), value, emu::StreamOf(stream)); });
}
