// SPDX-License-Identifier: Apache-2.0
// Small kernels with one bug each. Every kernel is called with `broken` false too and must then be clean, so that
// the bug, and nothing else, is what the emulation reports. The line it must report ends in "// here".
#pragma once

#include "kernel_operator.h"
#include "launch.h"

namespace bugs {

using namespace AscendC;

constexpr uint32_t kWords = 8192;  // int32 words of the arguments `in` (read only) and `out`

struct Bug {
  const char* name;
  void (*kernel)(bool broken, GM_ADDR in, GM_ADDR out);
};

inline GlobalTensor<int32_t> Global(GM_ADDR address, uint64_t words = kWords) {
  GlobalTensor<int32_t> tensor;
  tensor.SetGlobalBuffer(reinterpret_cast<int32_t*>(address), words);
  return tensor;
}

template <HardEvent event>
void Order() {
  SetFlag<event>(0);
  WaitFlag<event>(0);
}

inline DataCopyExtParams Bytes(uint32_t bytes) { return {1, bytes, 0, 0, 0}; }

// A TPipe and three buffers of 64 words without any synchronisation.
struct Buffers {
  TPipe pipe;
  TBuf<TPosition::VECCALC> buffers[3];
  LocalTensor<int32_t> a, b, c;
  Buffers() {
    for (auto& buffer : buffers) pipe.InitBuffer(buffer, 256);
    a = buffers[0].Get<int32_t>();
    b = buffers[1].Get<int32_t>();
    c = buffers[2].Get<int32_t>();
  }
};

// This core's own 64 words of `out`.
inline GlobalTensor<int32_t> Own(GM_ADDR out) { return Global(out)[GetBlockIdx() * 64]; }

extern const Bug kMemoryBugs[], kQueueBugs[], kOrderBugs[];

}  // namespace bugs
