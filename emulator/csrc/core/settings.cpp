// SPDX-License-Identifier: Apache-2.0
#include "core/settings.h"

#include <cerrno>
#include <cmath>
#include <cstdlib>

#include "core/failure.h"

namespace emu {
namespace {

// The variable's value; null when it is unset or empty.
const char* Lookup(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : nullptr;
}

[[noreturn]] void Reject(const char* name, const char* value, const char* wanted) {
  Fatal(std::string(name) + "=" + value + ": expected " + wanted);
}

uint64_t ReadInteger(const char* name, uint64_t otherwise, uint64_t least, uint64_t most) {
  const char* value = Lookup(name);
  if (value == nullptr) return otherwise;
  char* end = nullptr;
  errno = 0;
  const uint64_t parsed = std::strtoull(value, &end, 10);
  if (errno != 0 || *end != '\0' || *value == '-' || parsed < least || parsed > most) {
    const std::string wanted = "an integer from " + std::to_string(least) + " to " + std::to_string(most);
    Reject(name, value, wanted.c_str());
  }
  return parsed;
}

bool ReadSwitch(const char* name, bool otherwise) { return ReadInteger(name, otherwise ? 1 : 0, 0, 1) == 1; }

double ReadSeconds(const char* name, double otherwise) {
  const char* value = Lookup(name);
  if (value == nullptr) return otherwise;
  char* end = nullptr;
  const double parsed = std::strtod(value, &end);
  if (*end != '\0' || !std::isfinite(parsed) || parsed <= 0) Reject(name, value, "a positive number of seconds");
  return parsed;
}

Settings Read() {
  Settings settings;
  settings.num_devices = static_cast<int>(ReadInteger("EMULATOR_DEVICES", settings.num_devices, 1, 16));
  settings.memory_mib = ReadInteger("EMULATOR_MEMORY_MIB", settings.memory_mib, 1, 1 << 20);
  if (const char* soc = Lookup("EMULATOR_SOC")) settings.soc = soc;
  settings.races = ReadSwitch("EMULATOR_RACES", settings.races);
  if (const char* folder = Lookup("EMULATOR_RACE_LOG")) settings.race_log = folder;
  settings.blocking = ReadSwitch("EMULATOR_BLOCKING", settings.blocking);
  settings.poison = ReadSwitch("EMULATOR_POISON", settings.poison);
  settings.trace = ReadSwitch("EMULATOR_TRACE", settings.trace);
  settings.hccl_timeout_s = ReadSeconds("EMULATOR_HCCL_TIMEOUT_S", settings.hccl_timeout_s);
  settings.hierarchical =
      ReadSwitch("HCCL_INTRA_PCIE_ENABLE", false) && !ReadSwitch("HCCL_INTRA_ROCE_ENABLE", true);
  return settings;
}

}  // namespace

const Settings& GetSettings() {
  static const auto* settings = new Settings(Read());
  return *settings;
}

}  // namespace emu
