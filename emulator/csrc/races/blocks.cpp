// SPDX-License-Identifier: Apache-2.0
#include "races/blocks.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <map>
#include <mutex>

#include "races/fork.h"

namespace emu::races {
namespace {

struct Record {
  BlockLife now;
  BlockLife before;  // the block that began at the same address before
};

struct History {
  std::mutex mutex;
  std::map<uintptr_t, Record> records;
  size_t prune_at = 16384;
};

Resettable<History> history;
thread_local Range being_freed;
std::atomic<uint64_t> last_order{0};

bool Live(const BlockLife& life) { return life.allocated != 0 && life.freed == 0; }

bool LivedAt(const BlockLife& life, uint64_t order) {
  return life.allocated != 0 && life.allocated <= order && life.freed > order;
}

// Freed blocks whose memory went into other blocks would pile up; the oldest are of no more use.
void Prune(History& all) {
  uint64_t newest = CurrentOrder();
  for (auto at = all.records.begin(); at != all.records.end();) {
    const bool old = !Live(at->second.now) && at->second.now.freed + 10000 < newest;
    at = old ? all.records.erase(at) : std::next(at);
  }
  all.prune_at = std::max<size_t>(16384, 2 * all.records.size());
}

}  // namespace

uint64_t CurrentOrder() { return last_order.load(std::memory_order_relaxed) + 1; }
uint64_t NextOrder() { return last_order.fetch_add(1, std::memory_order_relaxed) + 1; }

void BlockAllocated(uintptr_t begin, SiteId site) {
  History& all = history.get();
  std::lock_guard<std::mutex> lock(all.mutex);
  Record& record = all.records[begin];
  record.before = record.now;
  if (Live(record.before)) record.before.freed = CurrentOrder();  // its end was not told (races/trace_gate.h)
  record.now = {begin, CurrentOrder(), 0, site, 0};
  if (all.records.size() > all.prune_at) Prune(all);
}

void BlockFreed(uintptr_t begin, SiteId site) {
  History& all = history.get();
  std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.records.find(begin);
  if (found == all.records.end() || !Live(found->second.now)) return;  // allocated before the trace was on
  found->second.now.freed = CurrentOrder();
  found->second.now.freed_site = site;
  auto next = std::next(found);
  while (next != all.records.end() && !Live(next->second.now)) ++next;
  being_freed = {begin, next == all.records.end() ? UINTPTR_MAX : next->first};
}

Range BlockBeingFreed() { return being_freed; }

void SetBlockBeingFreed(Range range) { being_freed = range; }

namespace {

template <typename Predicate>
bool Find(uintptr_t address, BlockLife* block, Predicate predicate) {
  History& all = history.get();
  std::lock_guard<std::mutex> lock(all.mutex);
  for (auto at = all.records.upper_bound(address); at != all.records.begin();) {
    --at;
    for (const BlockLife* life : {&at->second.now, &at->second.before}) {
      if (!predicate(*life)) continue;
      *block = *life;
      return true;
    }
  }
  return false;
}

}  // namespace

bool FindBlockAt(uintptr_t address, uint64_t order, BlockLife* block) {
  return Find(address, block, [order](const BlockLife& life) {
    return LivedAt(life, order) || (Live(life) && life.allocated <= order);
  });
}

bool FindFreedBlock(uintptr_t address, uint64_t order, BlockLife* block) {
  return Find(address, block, [order](const BlockLife& life) { return LivedAt(life, order); });
}

}  // namespace emu::races
