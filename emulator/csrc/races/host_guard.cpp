// SPDX-License-Identifier: Apache-2.0
//
// What this cannot see: a system call on a closed page (write() from pinned memory, say) fails with EFAULT instead
// of a report; and while one thread executes its one instruction with a page open, a touch by another passes.
#include "races/host_guard.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <vector>

#include "core/failure.h"
#include "core/site.h"
#include "memory/memory.h"
#include "memory/pages.h"
#include "races/fault.h"
#include "races/fork.h"
#include "races/report.h"

namespace emu::races {
namespace {

struct Guard {
  Range range;
  Range pages;  // the whole pages that hold it
  bool task_writes = false;
  OperationPtr operation;
};

struct Guards {
  std::mutex mutex;
  std::vector<Guard> active;  // few: the copies that the host has not waited for
};
Guards* guards = new Guards;  // never destroyed: threads may outlive static objects

// A forked child shares the memory but not the work: nothing is pending there.
[[maybe_unused]] const bool registered = [] {
  OnForkedChild([] {
    const bool whole = guards->mutex.try_lock();  // else a thread was changing the list: a touch opens its page
    for (size_t i = 0; whole && i < guards->active.size(); ++i) {
      const Range pages = guards->active[i].pages;
      mprotect(reinterpret_cast<void*>(pages.begin), pages.end - pages.begin, PROT_READ | PROT_WRITE);
    }
    guards = new Guards;
  });
  return true;
}();

// Everything that was ever guarded lies between; spares other faults the rest.
std::atomic<uintptr_t> lowest{UINTPTR_MAX};
std::atomic<uintptr_t> highest{0};

thread_local const Clock* acting_clock = nullptr;

Range PagesOf(Range range) { return {range.begin & ~(PageSize() - 1), WholePages(range.end)}; }

bool Overlap(Range a, Range b) { return a.begin < b.end && b.begin < a.end; }

void Protect(Range pages, int protection) {
  if (mprotect(reinterpret_cast<void*>(pages.begin), pages.end - pages.begin, protection) != 0) {
    Fatal(std::string("race checker: cannot protect pinned memory: ") + std::strerror(errno));
  }
}

// Gives every page the protection that the guards on it ask for. Under the mutex.
void Reprotect(const std::vector<Guard>& active, Range pages) {
  std::vector<uintptr_t> borders = {pages.begin, pages.end};
  std::vector<const Guard*> here;
  for (const Guard& guard : active) {
    if (!Overlap(guard.pages, pages)) continue;
    here.push_back(&guard);
    borders.push_back(std::max(guard.pages.begin, pages.begin));
    borders.push_back(std::min(guard.pages.end, pages.end));
  }
  std::sort(borders.begin(), borders.end());
  for (size_t i = 0; i + 1 < borders.size(); ++i) {
    const Range piece{borders[i], borders[i + 1]};
    if (piece.Empty()) continue;
    int protection = PROT_READ | PROT_WRITE;
    for (const Guard* guard : here) {
      if (!Overlap(guard->pages, piece)) continue;
      protection &= guard->task_writes ? PROT_NONE : PROT_READ;
    }
    Protect(piece, protection);
  }
}

template <typename Predicate>
void RemoveIf(Guards& all, Predicate predicate) {
  const auto end = std::stable_partition(all.active.begin(), all.active.end(),
                                         [&](const Guard& guard) { return !predicate(guard); });
  std::vector<Range> opened;
  for (auto at = end; at != all.active.end(); ++at) opened.push_back(at->pages);
  all.active.erase(end, all.active.end());
  for (const Range pages : opened) Reprotect(all.active, pages);
}

}  // namespace

void GuardPinned(Range range, bool task_writes, OperationPtr operation) {
  if (range.Empty() || !Checking()) return;
  Guards& all = *guards;
  std::lock_guard<std::mutex> lock(all.mutex);
  EnsureFaultHandlers();
  lowest.store(std::min(lowest.load(), range.begin));
  highest.store(std::max(highest.load(), range.end));
  for (Guard& guard : all.active) {
    const bool same = guard.range.begin == range.begin && guard.range.end == range.end &&
                      guard.task_writes == task_writes && guard.operation->stream_id == operation->stream_id;
    if (!same) continue;
    guard.operation = std::move(operation);  // the later of two on one stream is pending for longer
    return;
  }
  all.active.push_back({range, PagesOf(range), task_writes, std::move(operation)});
  Reprotect(all.active, all.active.back().pages);
}

void ReleaseGuards(const Clock& host) {
  Guards& all = *guards;
  std::lock_guard<std::mutex> lock(all.mutex);
  if (all.active.empty()) return;
  RemoveIf(all, [&](const Guard& guard) { return Covers(host, *guard.operation); });
}

void ReleaseGuards(Range range, const Clock& clock) {
  Guards& all = *guards;
  std::lock_guard<std::mutex> lock(all.mutex);
  RemoveIf(all,
           [&](const Guard& guard) { return Overlap(guard.range, range) && Covers(clock, *guard.operation); });
}

void DropGuards(Range range) {
  Guards& all = *guards;
  std::lock_guard<std::mutex> lock(all.mutex);
  RemoveIf(all, [&](const Guard& guard) { return Overlap(guard.range, range); });
}

bool MayBeGuarded(uintptr_t address) {
  return address >= PagesOf({lowest.load(), 0}).begin && address < PagesOf({0, highest.load()}).end;
}

FaultOutcome ResolveFault(uintptr_t address, const machine::Operand& operand, bool is_write) {
  Guards& all = *guards;
  std::unique_lock<std::mutex> lock(all.mutex);
  const Range page = PagesOf({address, address + 1});
  bool guarded = false;
  for (auto guard = all.active.begin(); guard != all.active.end(); ++guard) {
    if (!Overlap(guard->pages, page)) continue;
    guarded = true;
    const bool conflicts = operand.Touches(guard->range) && (guard->task_writes || is_write) &&
                           (acting_clock == nullptr || !Covers(*acting_clock, *guard->operation));
    if (!conflicts) continue;
    const Guard found = *guard;
    all.active.erase(guard);  // one report is enough, and the program goes on at full speed
    Reprotect(all.active, found.pages);
    lock.unlock();  // finding the Python lines may wait for the GIL
    if (Checking()) {
      const Kind kind = is_write ? Kind::kHostWrite : Kind::kHostRead;
      ReportHostAccess(kind, *found.operation, CurrentSite(), found.range);
    }
    return FaultOutcome::kRetry;
  }
  if (!guarded && !IsPageLocked(reinterpret_cast<void*>(address))) return FaultOutcome::kNotOurs;
  Protect(page, PROT_READ | PROT_WRITE);
  return guarded ? FaultOutcome::kStep : FaultOutcome::kRetry;  // released since the fault
}

void ClosePage(uintptr_t address) {
  Guards& all = *guards;
  std::lock_guard<std::mutex> lock(all.mutex);
  Reprotect(all.active, PagesOf({address, address + 1}));
}

ActingClock::ActingClock(const Clock& clock) { acting_clock = &clock; }
ActingClock::~ActingClock() { acting_clock = nullptr; }

}  // namespace emu::races
