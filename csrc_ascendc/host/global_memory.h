// SPDX-License-Identifier: Apache-2.0
// Global memory as one launch sees it: the extents of the kernel's arguments, and who touched what.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "clocks.h"

namespace ascendc_host {

// One argument of a launch: exactly the bytes the kernel may touch.
struct GmExtent {
  const void* address;
  uint64_t bytes;
  bool writable;
};

enum class GmAccess : uint8_t { kRead, kWrite, kAtomicAdd };

inline bool Conflict(GmAccess a, GmAccess b) {
  return a != b || a == GmAccess::kWrite;  // reads agree with reads, atomic adds with atomic adds
}

// What one core has touched, in program order.
class GmTrace {
 public:
  struct Entry {
    uintptr_t begin, end;
    GmAccess access;
    Instruction instruction;
  };

  // Checks order against this core's own earlier accesses, then remembers the access.
  void Add(const PipeClocks& clocks, bool check_order, Entry entry) {
    if (entry.begin == entry.end) return;
    longest_ = std::max(longest_, entry.end - entry.begin);
    if (check_order) CheckOrder(clocks, entry);
    by_address_.emplace(entry.begin, entry);
    if (!merged_.empty() && merged_.back().end == entry.begin && merged_.back().access == entry.access) {
      merged_.back().end = entry.end;
    } else {
      merged_.push_back(entry);
    }
  }

  const std::vector<Entry>& merged() const { return merged_; }

 private:
  void CheckOrder(const PipeClocks& clocks, const Entry& entry) const {
    auto it = by_address_.lower_bound(entry.begin < longest_ ? 0 : entry.begin - longest_);
    for (; it != by_address_.end() && it->first < entry.end; ++it) {
      const Entry& earlier = it->second;
      if (earlier.end <= entry.begin || !Conflict(earlier.access, entry.access)) continue;
      if (clocks.Ordered(earlier.instruction, entry.instruction)) continue;
      FailRace("global memory", earlier.instruction, earlier.access == GmAccess::kRead ? "reads" : "writes",
               entry.instruction, entry.access == GmAccess::kRead ? "reads" : "overwrites");
    }
  }

  std::multimap<uintptr_t, Entry> by_address_;
  std::vector<Entry> merged_;
  uintptr_t longest_ = 0;
};

// The 64-byte lines a core's scalar data cache holds dirty or has written.
struct ScalarCache {
  static constexpr uintptr_t kLine = 64;
  std::map<uintptr_t, Here> dirty, written;

  void Write(uintptr_t address, uint64_t bytes, Here here) {
    for (uintptr_t line = address / kLine; line <= (address + bytes - 1) / kLine; ++line) {
      dirty[line] = here;
      written.emplace(line, here);
    }
  }
  void Clean(uintptr_t address) { dirty.erase(address / kLine); }
};

// Cores are not ordered with each other: what one writes no other may touch. Returns true and fills `first`
// and `second` when two cores conflict.
inline bool CrossCoreConflict(const std::vector<const GmTrace*>& traces, GmTrace::Entry* first,
                              GmTrace::Entry* second) {
  struct Tagged {
    GmTrace::Entry entry;
    size_t core;
  };
  std::vector<Tagged> all;
  for (size_t core = 0; core < traces.size(); ++core) {
    for (const auto& entry : traces[core]->merged()) all.push_back({entry, core});
  }
  std::sort(all.begin(), all.end(),
            [](const Tagged& a, const Tagged& b) { return a.entry.begin < b.entry.begin; });
  std::vector<Tagged> open;
  for (const Tagged& now : all) {
    open.erase(
        std::remove_if(open.begin(), open.end(), [&](const Tagged& t) { return t.entry.end <= now.entry.begin; }),
        open.end());
    bool covered = false;  // the same core and access is open already: no need to keep both
    for (Tagged& earlier : open) {
      if (earlier.core != now.core && Conflict(earlier.entry.access, now.entry.access)) {
        *first = earlier.entry;
        *second = now.entry;
        return true;
      }
      if (earlier.core == now.core && earlier.entry.access == now.entry.access) {
        earlier.entry.end = std::max(earlier.entry.end, now.entry.end);
        covered = true;
      }
    }
    if (!covered) open.push_back(now);
  }
  return false;
}

}  // namespace ascendc_host
