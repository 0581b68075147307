// SPDX-License-Identifier: Apache-2.0
// System calls on pinned memory. The kernel refuses a closed page (EFAULT) where the processor would fault, so the
// libraries' calls are led through ours: one that was refused is reported when it asks for a copy's bytes, and
// made again on the emulator's own view.
#pragma once

namespace emu::races {

// Leads the calls of all libraries that are loaded by now through ours, by their tables of imported functions, in
// memory. Cheap when none has come since the last time. Not under a lock: it waits for the loader's.
void WatchSystemCalls();

}  // namespace emu::races
