// SPDX-License-Identifier: Apache-2.0
// What a vector instruction costs, in cycles of the vector unit: its start-up, and each repeat by the banks of the
// unified buffer that it touches.
//
// Banks, from "Avoiding Bank Conflicts in the Unified Buffer" (Ascend C best practices, CANN 8.5, Atlas A2 and
// A3): 48 banks of 128 rows of 32 bytes in 16 groups, neighbouring blocks in neighbouring groups; a cycle reads
// one row of a group and writes one row of a group, and does not read and write one bank. The page's example of a
// block stride of 8 takes 4 cycles, that of 16 takes 8. The start-up is no documented number: 22 cycles fit times
// published for A2.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "clocks.h"

namespace ascendc_host {

constexpr uint32_t kStartUpCycles = 22;

// The blocks of one repeat: up to eight an operand.
class RepeatCycles {
 public:
  void Read(uint32_t offset) { Add(&reads_, offset / kBlock); }
  void Write(uint32_t offset) { Add(&writes_, offset / kBlock); }

  uint32_t Cycles() const {
    const uint32_t rows = std::max({Most(reads_), Most(writes_), 1u});
    return std::max(rows, ReadsWhereItWrites() ? 2u : 1u);
  }

 private:
  static constexpr uint32_t kGroups = 16, kBankRows = 128;
  struct Rows {
    std::array<uint32_t, 24> row;
    uint32_t count = 0;
  };

  // Once, however often it is asked for: a block stride of 0 reads one row.
  static void Add(Rows* rows, uint32_t row) {
    for (uint32_t i = 0; i < rows->count; ++i) {
      if (rows->row[i] == row) return;
    }
    rows->row[rows->count++] = row;
  }

  static uint32_t Most(const Rows& rows) {
    std::array<uint32_t, kGroups> of_group{};
    for (uint32_t i = 0; i < rows.count; ++i) ++of_group[rows.row[i] % kGroups];
    return *std::max_element(of_group.begin(), of_group.end());
  }

  static uint32_t Bank(uint32_t row) { return row % kGroups + row / (kGroups * kBankRows) * kGroups; }

  // One bank, other rows. A row that is read and then written in place comes back cycles later.
  bool ReadsWhereItWrites() const {
    for (uint32_t i = 0; i < reads_.count; ++i) {
      for (uint32_t j = 0; j < writes_.count; ++j) {
        if (reads_.row[i] != writes_.row[j] && Bank(reads_.row[i]) == Bank(writes_.row[j])) return true;
      }
    }
    return false;
  }

  Rows reads_, writes_;
};

}  // namespace ascendc_host
