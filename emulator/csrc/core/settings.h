// SPDX-License-Identifier: Apache-2.0
// Settings, read from the environment once (emulator/README.md lists them). A value that does not parse is fatal.
#pragma once

#include <cstdint>
#include <string>

namespace emu {

struct Settings {
  int num_devices = 2;              // EMULATOR_DEVICES
  uint64_t memory_mib = 4096;       // EMULATOR_MEMORY_MIB, each device
  std::string soc = "Ascend910B1";  // EMULATOR_SOC
  bool races = true;                // EMULATOR_RACES
  std::string race_log;             // EMULATOR_RACE_LOG: a folder; each process writes its reports to <pid>.txt
  bool blocking = false;            // EMULATOR_BLOCKING: every task is waited for
  bool poison = true;               // EMULATOR_POISON: fresh device memory is filled with NaN bytes
  bool trace = false;               // EMULATOR_TRACE: every task on stderr
  double hccl_timeout_s = 30;       // EMULATOR_HCCL_TIMEOUT_S, also for external events and host functions
  bool hierarchical = false;        // HCCL_INTRA_PCIE_ENABLE=1 with HCCL_INTRA_ROCE_ENABLE=0, which are CANN's
};

const Settings& GetSettings();

}  // namespace emu
