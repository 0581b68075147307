// SPDX-License-Identifier: Apache-2.0
// AscendC's flags and barriers.
#pragma once

#include "tensor.h"

enum pipe_t { PIPE_S, PIPE_V, PIPE_MTE2, PIPE_MTE3, PIPE_ALL };  // a global name in AscendC
using event_t = int;

namespace AscendC {

using TEventID = int8_t;

enum class HardEvent : uint8_t {
  MTE2_V,
  V_MTE2,
  V_MTE3,
  MTE3_V,
  MTE2_MTE3,
  MTE3_MTE2,
  MTE2_S,
  S_MTE2,
  MTE3_S,
  S_MTE3,
  V_S,
  S_V,
  V_V
};

constexpr ascendc_host::Pipe SourceOf(HardEvent event) {
  switch (event) {
    case HardEvent::MTE2_V:
    case HardEvent::MTE2_MTE3:
    case HardEvent::MTE2_S:
      return ascendc_host::kMte2;
    case HardEvent::MTE3_V:
    case HardEvent::MTE3_MTE2:
    case HardEvent::MTE3_S:
      return ascendc_host::kMte3;
    case HardEvent::S_MTE2:
    case HardEvent::S_MTE3:
    case HardEvent::S_V:
      return ascendc_host::kScalar;
    default:
      return ascendc_host::kVector;
  }
}

constexpr ascendc_host::Pipe DestinationOf(HardEvent event) {
  switch (event) {
    case HardEvent::V_MTE2:
    case HardEvent::MTE3_MTE2:
    case HardEvent::S_MTE2:
      return ascendc_host::kMte2;
    case HardEvent::V_MTE3:
    case HardEvent::MTE2_MTE3:
    case HardEvent::S_MTE3:
      return ascendc_host::kMte3;
    case HardEvent::MTE2_S:
    case HardEvent::MTE3_S:
    case HardEvent::V_S:
      return ascendc_host::kScalar;
    default:
      return ascendc_host::kVector;
  }
}

template <HardEvent event>
void SetFlag(int id, ASCENDC_HERE) {
  Core::Current().SetFlag(SourceOf(event), DestinationOf(event), id, here);
}

template <HardEvent event>
void WaitFlag(int id, ASCENDC_HERE) {
  Core::Current().WaitFlag(SourceOf(event), DestinationOf(event), id, here);
}

template <pipe_t pipe>
void PipeBarrier() {
  static_assert(pipe != PIPE_S, "PipeBarrier: the scalar unit has no barrier");
  if constexpr (pipe == PIPE_ALL) {
    Core::Current().BarrierAll();
  } else if constexpr (pipe != PIPE_S) {
    constexpr auto which = pipe == PIPE_V      ? ascendc_host::kVector
                           : pipe == PIPE_MTE2 ? ascendc_host::kMte2
                                               : ascendc_host::kMte3;
    Core::Current().Barrier(which);
  }
}

}  // namespace AscendC
