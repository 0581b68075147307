// SPDX-License-Identifier: Apache-2.0
// The handlers of SIGSEGV and SIGTRAP. Faults that are not the guards' go to whoever handled them before.
#pragma once

#include <cstdint>

#include "machine/operand.h"

namespace emu::races {

// What to do about a fault at `address`, caused by an instruction with this operand; in host_guard.cpp.
enum class FaultOutcome {
  kNotOurs,
  kRetry,  // nothing is in the way any more
  kStep,   // the page was opened: let one instruction pass, then ClosePage
};
FaultOutcome ResolveFault(uintptr_t address, const machine::Operand& operand, bool is_write);
// Whether the address may lie on a guarded page.
bool MayBeGuarded(uintptr_t address);
void ClosePage(uintptr_t address);

// Makes the handlers the process's own again if something replaced them since (faulthandler does when enabled
// later); whatever stood there comes next in the chain. Not for two threads at once.
void EnsureFaultHandlers();

}  // namespace emu::races
