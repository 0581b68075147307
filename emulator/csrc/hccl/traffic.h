// SPDX-License-Identifier: Apache-2.0
// What this process has handed to collectives, for tests that foretell it.
#pragma once

#include <cstdint>

#include "hccl/call.h"

namespace emu::hccl {

// Counts a call that reads `bytes` of its own buffers.
void CountTraffic(Operation operation, uint64_t bytes);

}  // namespace emu::hccl
