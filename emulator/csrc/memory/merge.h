// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "memory/access.h"

namespace emu {

// The same bytes in fewer accesses: overlapping ones joined, reads inside writes dropped. Neighbours stay apart:
// they may be different kinds of memory. So does what indices choose.
Accesses Merge(Accesses accesses);

}  // namespace emu
