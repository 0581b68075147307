// SPDX-License-Identifier: Apache-2.0
#include "core/schedule.h"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>

#include "core/failure.h"

namespace emu {
namespace {

constexpr uint32_t kDefaultDelayUs = 200;

// splitmix64 (Steele, Lea, Flood 2014): a good hash of a counter.
uint64_t Mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15ULL;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31);
}

struct Schedule {
  std::atomic<uint64_t> seed{0};
  std::atomic<uint32_t> longest_us{kDefaultDelayUs};
  std::atomic<uint64_t> host_calls{0};
  std::atomic<uint64_t> choices{0};
};

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return otherwise;
  char* end = nullptr;
  errno = 0;
  const uint64_t parsed = std::strtoull(value, &end, 10);
  if (errno != 0 || *end != '\0') Fatal(std::string(name) + "=" + value + ": expected an integer");
  return parsed;
}

Schedule& Current() {
  static auto* schedule = [] {
    auto* fresh = new Schedule;
    fresh->seed = FromEnvironment("EMULATOR_SEED", 0);
    fresh->longest_us = static_cast<uint32_t>(FromEnvironment("EMULATOR_DELAY_US", kDefaultDelayUs));
    return fresh;
  }();
  return *schedule;
}

// A stream's (or the host's) temper under one seed.
enum class Pace { kPrompt, kLate, kUneven, kBursts };

// Microseconds before the `step`-th action of somebody whose draws start from `key`.
uint64_t Delay(uint64_t key, uint64_t step, uint32_t longest_us) {
  if (longest_us == 0) return 0;
  switch (static_cast<Pace>(key % 4)) {
    case Pace::kPrompt:
      return 0;
    case Pace::kLate:
      return longest_us;
    case Pace::kUneven:
      return Mix(key ^ Mix(step)) % (longest_us + 1);
    case Pace::kBursts:
      return Mix(key ^ (step / 8)) % 4 == 0 ? longest_us : 0;
  }
  return 0;
}

void Sleep(uint64_t microseconds) {
  if (microseconds > 0) std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
}

}  // namespace

void SetSchedule(uint64_t seed, uint32_t longest_delay_us) {
  Schedule& schedule = Current();
  schedule.longest_us = longest_delay_us;
  schedule.host_calls = 0;
  schedule.choices = 0;
  schedule.seed = seed;
}

void DelayTask(uint32_t stream, uint64_t index) {
  Schedule& schedule = Current();
  const uint64_t seed = schedule.seed;
  if (seed == 0) return;
  Sleep(Delay(Mix(Mix(seed) + stream), index, schedule.longest_us));
}

void DelayHost() {
  Schedule& schedule = Current();
  const uint64_t seed = schedule.seed;
  if (seed == 0) return;
  Sleep(Delay(Mix(~seed), schedule.host_calls++, schedule.longest_us));
}

uint64_t Choose(uint64_t num_choices) {
  Schedule& schedule = Current();
  const uint64_t seed = schedule.seed;
  if (seed == 0 || num_choices < 2) return 0;
  return Mix(Mix(seed ^ 0x5bd1e995) + schedule.choices++) % num_choices;
}

}  // namespace emu
