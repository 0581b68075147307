// SPDX-License-Identifier: Apache-2.0
// When torch_npu's trace may call Python. Its hooks take Python's lock and run code without a look at what is
// going on: a block freed while an exception is on its way loses the exception ("error return without exception
// set"), and an event that the caching allocator records under its own lock makes two threads wait for each other.
#pragma once

namespace emu::races {

// Lets libtorch_npu's hooks ask us whether there is a Python to call (they ask Py_IsInitialized), by an entry of
// its table of imported functions, in memory. False when the library or the entry is not there.
bool GateTrace();

// The thread has created or recorded an event: torch_npu's hook for it comes next, and nobody needs it.
void SkipNextHook();

}  // namespace emu::races
