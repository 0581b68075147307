// SPDX-License-Identifier: Apache-2.0
// History of the blocks of torch's caching allocator, told by its own trace (emulator/races.py turns it on). The
// trace gives addresses without sizes, so a block reaches to the next live one.
#pragma once

#include <cstdint>

#include "core/site.h"
#include "memory/access.h"

namespace emu::races {

// Place in the process's order of issued tasks.
uint64_t CurrentOrder();
uint64_t NextOrder();

void BlockAllocated(uintptr_t begin, SiteId site);
void BlockFreed(uintptr_t begin, SiteId site);

// The block that the calling thread is handing back to its allocator: the events that it records now are asked
// about before the block is handed out again, and order nothing else. Empty when there is none.
Range BlockBeingFreed();
void SetBlockBeingFreed(Range range);

// The life of a block, as far as it is known; orders are 0 for what has not happened.
struct BlockLife {
  uintptr_t begin = 0;
  uint64_t allocated = 0;
  uint64_t freed = 0;
  SiteId allocated_site = 0;
  SiteId freed_site = 0;
};

// The block that held `address` when the task of place `order` was issued, whether it was freed since or not;
// false when none is known.
bool FindBlockAt(uintptr_t address, uint64_t order, BlockLife* block);
// The block that held `address` when the task of place `order` was issued and was freed since.
bool FindFreedBlock(uintptr_t address, uint64_t order, BlockLife* block);

}  // namespace emu::races
