// SPDX-License-Identifier: Apache-2.0
// Pages of fresh device memory. With poison they read as NaN bytes, and cost nothing until they are written.
#pragma once

#include <cstddef>

namespace emu {

size_t PageSize();
size_t WholePages(size_t bytes);

// Maps fresh pages; at `address` when that is not null, which replaces what is there.
void* MapFresh(void* address, size_t bytes);
// Address space without memory; at `address` when that is not null.
void* MapNothing(void* address, size_t bytes);
void UnmapPages(void* address, size_t bytes);

}  // namespace emu
