// SPDX-License-Identifier: Apache-2.0
// Seeded delays. Seed 0 means none. Each seed draws for every stream a pace (some streams run at once, some late,
// some unevenly) and, between calls, a pace of the host, so that the orders a program forgot to fix show as
// values.
#pragma once

#include <cstdint>

namespace emu {

// From EMULATOR_SEED and EMULATOR_DELAY_US (longest delay, 200 by default), or set while the process runs
// (pytest --npu-schedules).
void SetSchedule(uint64_t seed, uint32_t longest_delay_us);

void DelayTask(uint32_t stream, uint64_t index);  // on the stream's thread, before the task
void DelayHost();                                 // after a call that issued work
uint64_t Choose(uint64_t num_choices);            // a seeded pick; always 0 with seed 0

}  // namespace emu
