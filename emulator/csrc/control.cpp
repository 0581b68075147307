// SPDX-License-Identifier: Apache-2.0
// What Python calls (emulator/races.py, emulator/schedule.py), by ctypes on the loaded library.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>

#include "core/device.h"
#include "core/failure.h"
#include "core/schedule.h"
#include "core/settings.h"
#include "core/site.h"
#include "core/stream.h"
#include "races/blocks.h"
#include "races/checker.h"
#include "races/report.h"
#include "races/trace_gate.h"

namespace {

// Copies at most `capacity` bytes, without a terminator; returns the whole size.
uint64_t CopyText(const std::string& text, char* to, uint64_t capacity) {
  if (to != nullptr) std::memcpy(to, text.data(), std::min<size_t>(capacity, text.size()));
  return text.size();
}

}  // namespace

extern "C" {

uint64_t EmulatorNumRaces() { return emu::races::NumReports(); }

uint64_t EmulatorRaceText(uint64_t index, char* text, uint64_t capacity) {
  return CopyText(emu::races::ReportText(index), text, capacity);
}

// The asynchronous failure, once everything issued so far has run.
uint64_t EmulatorFailure(char* text, uint64_t capacity) {
  for (int device = 0; device < emu::GetSettings().num_devices; ++device) emu::DrainDevice(device);
  try {
    emu::ThrowIfFailed();
  } catch (const emu::Error& error) {
    return CopyText(error.what(), text, capacity);
  }
  return 0;
}

void EmulatorClearRaces() { emu::races::ClearReports(); }

void EmulatorSetChecking(int on) { emu::races::SetChecking(on != 0); }

int EmulatorChecking() { return emu::races::Checking() ? 1 : 0; }

void EmulatorSetSchedule(uint64_t seed, uint32_t longest_delay_us) { emu::SetSchedule(seed, longest_delay_us); }

int EmulatorGateTrace() { return emu::races::GateTrace() ? 1 : 0; }

void EmulatorBlockAllocated(uint64_t begin) { emu::races::BlockAllocated(begin, emu::CurrentSite()); }

void EmulatorBlockFreed(uint64_t begin) { emu::races::BlockFreed(begin, emu::CurrentSite()); }

// tasks, copies, bytes, intervals
void EmulatorStatistics(uint64_t* values) {
  std::lock_guard<std::mutex> lock(emu::IssueLock());
  const emu::races::Statistics statistics = emu::races::GetStatistics();
  values[0] = statistics.tasks;
  values[1] = statistics.copies;
  values[2] = statistics.bytes;
  values[3] = statistics.intervals;
}

}  // extern "C"
