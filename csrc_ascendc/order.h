// SPDX-License-Identifier: Apache-2.0
// The flag that most kernels need: a pipe waits for another one, once.
#pragma once

#include "kernel_operator.h"

namespace ascend_ext {

// What the event's second pipe gets from here on waits for all that its first pipe has got.
template <AscendC::HardEvent event>
__aicore__ inline void Order(AscendC::TPipe* pipe) {
  const int id = pipe->FetchEventID(event);
  AscendC::SetFlag<event>(id);
  AscendC::WaitFlag<event>(id);
}

}  // namespace ascend_ext
