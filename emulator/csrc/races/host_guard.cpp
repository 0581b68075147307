// SPDX-License-Identifier: Apache-2.0
//
// What this cannot see: while one thread executes its one instruction with a page open, a touch by another passes.
#include "races/host_guard.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <map>
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

// A process has only so many pieces of memory with protections of their own. Where they do not suffice, an
// allocation is closed in whole, as its strictest guard asks; touches beside the guards are stepped over as
// always.
struct ClosedWhole {
  Range pages;
  int protection = PROT_NONE;
};

using Active = std::multimap<uintptr_t, Guard>;  // by first byte

struct Guards {
  std::mutex mutex;
  Active active;          // the copies that the host has not waited for
  uintptr_t longest = 0;  // from a range's first byte to the end of its pages, so far
  std::vector<ClosedWhole> whole;
};
Guards* guards = new Guards;  // never destroyed: threads may outlive static objects

constexpr int kOpen = PROT_READ | PROT_WRITE;

bool Protect(Range pages, int protection) {
  return mprotect(reinterpret_cast<void*>(pages.begin), pages.end - pages.begin, protection) == 0;
}

// A forked child shares the memory but not the work: nothing is pending there.
[[maybe_unused]] const bool registered = [] {
  OnForkedChild([] {
    const bool whole = guards->mutex.try_lock();  // else a thread was changing the list: a touch opens its page
    for (auto at = guards->active.begin(); whole && at != guards->active.end(); ++at)
      Protect(at->second.pages, kOpen);
    for (size_t i = 0; whole && i < guards->whole.size(); ++i) Protect(guards->whole[i].pages, kOpen);
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

// What the guards in the pages ask for, all of them together. Under the mutex, like what follows.
template <typename Visit>
void ForEachGuard(const Guards& all, Range pages, Visit visit) {
  const uintptr_t first = pages.begin > all.longest ? pages.begin - all.longest : 0;
  for (auto at = all.active.lower_bound(first); at != all.active.end() && at->first < pages.end; ++at) {
    if (Overlap(at->second.pages, pages)) visit(at->second);
  }
}

int Asked(const Guard& guard) { return guard.task_writes ? PROT_NONE : PROT_READ; }

ClosedWhole* WholeAt(Guards& all, Range pages) {
  for (ClosedWhole& whole : all.whole) {
    if (Overlap(whole.pages, pages)) return &whole;
  }
  return nullptr;
}

void ProtectWhole(Guards& all, ClosedWhole* whole) {
  whole->protection = kOpen;
  ForEachGuard(all, whole->pages, [&](const Guard& guard) { whole->protection &= Asked(guard); });
  if (!Protect(whole->pages, whole->protection)) {
    Fatal(std::string("race checker: cannot protect pinned memory: ") + std::strerror(errno));
  }
  if (whole->protection == kOpen) all.whole.erase(all.whole.begin() + (whole - all.whole.data()));
}

void CloseWhole(Guards& all, Range pages) {
  const Range memory = PinnedRange(reinterpret_cast<void*>(pages.begin));
  const Range inside{WholePages(memory.begin), memory.end & ~(PageSize() - 1)};
  all.whole.push_back({inside, PROT_NONE});
  ProtectWhole(all, &all.whole.back());
}

// Gives every page the protection that the guards on it ask for.
void Reprotect(Guards& all, Range pages) {
  if (ClosedWhole* whole = WholeAt(all, pages)) return ProtectWhole(all, whole);
  std::vector<uintptr_t> borders = {pages.begin, pages.end};
  std::vector<const Guard*> here;
  ForEachGuard(all, pages, [&](const Guard& guard) {
    here.push_back(&guard);
    borders.push_back(std::max(guard.pages.begin, pages.begin));
    borders.push_back(std::min(guard.pages.end, pages.end));
  });
  std::sort(borders.begin(), borders.end());
  for (size_t i = 0; i + 1 < borders.size(); ++i) {
    const Range piece{borders[i], borders[i + 1]};
    if (piece.Empty()) continue;
    int protection = kOpen;
    for (const Guard* guard : here) {
      if (Overlap(guard->pages, piece)) protection &= Asked(*guard);
    }
    if (!Protect(piece, protection)) return CloseWhole(all, pages);
  }
}

// For one instruction.
void OpenPage(Guards& all, Range page) {
  if (Protect(page, kOpen)) return;
  if (WholeAt(all, page) == nullptr) CloseWhole(all, page);
  ClosedWhole* whole = WholeAt(all, page);
  if (whole != nullptr && !Protect(page, kOpen)) Protect(whole->pages, kOpen);
}

template <typename Predicate>
void RemoveIf(Guards& all, Predicate predicate) {
  std::vector<Range> opened;
  for (auto at = all.active.begin(); at != all.active.end();) {
    const bool goes = predicate(at->second);
    const Range pages = at->second.pages;
    const ClosedWhole* whole = goes && !all.whole.empty() ? WholeAt(all, pages) : nullptr;
    if (goes) opened.push_back(whole != nullptr ? whole->pages : pages);
    at = goes ? all.active.erase(at) : std::next(at);
  }
  Range last;
  for (const Range pages : opened) {
    if (pages.begin != last.begin || pages.end != last.end) Reprotect(all, pages);
    last = pages;
  }
}

}  // namespace

void GuardPinned(Range range, bool task_writes, OperationPtr operation) {
  if (range.Empty() || !Checking()) return;
  Guards& all = *guards;
  std::lock_guard<std::mutex> lock(all.mutex);
  EnsureFaultHandlers();
  lowest.store(std::min(lowest.load(), range.begin));
  highest.store(std::max(highest.load(), range.end));
  const auto [first, last] = all.active.equal_range(range.begin);
  for (auto at = first; at != last; ++at) {
    Guard& guard = at->second;
    const bool same = guard.range.end == range.end && guard.task_writes == task_writes &&
                      guard.operation->stream_id == operation->stream_id;
    if (!same) continue;
    guard.operation = std::move(operation);  // the later of two on one stream is pending for longer
    return;
  }
  const Guard guard{range, PagesOf(range), task_writes, std::move(operation)};
  all.active.emplace(range.begin, guard);
  all.longest = std::max(all.longest, guard.pages.end - range.begin);
  ClosedWhole* whole = WholeAt(all, guard.pages);
  const bool closed_enough = whole != nullptr && (whole->protection & ~Asked(guard)) == 0;
  if (!closed_enough) Reprotect(all, guard.pages);
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
  const uintptr_t first = page.begin > all.longest ? page.begin - all.longest : 0;
  for (auto at = all.active.lower_bound(first); at != all.active.end() && at->first < page.end; ++at) {
    const Guard& guard = at->second;
    if (!Overlap(guard.pages, page)) continue;
    guarded = true;
    const bool conflicts = operand.Touches(guard.range) && (guard.task_writes || is_write) &&
                           (acting_clock == nullptr || !Covers(*acting_clock, *guard.operation));
    if (!conflicts) continue;
    const Guard found = guard;
    all.active.erase(at);  // one report is enough, and the program goes on at full speed
    Reprotect(all, found.pages);
    lock.unlock();  // finding the Python lines may wait for the GIL
    if (Checking()) {
      const Kind kind = is_write ? Kind::kHostWrite : Kind::kHostRead;
      ReportHostAccess(kind, *found.operation, CurrentSite(), found.range);
    }
    return FaultOutcome::kRetry;
  }
  if (!guarded) guarded = WholeAt(all, page) != nullptr;
  if (!guarded && !IsPageLocked(reinterpret_cast<void*>(address))) return FaultOutcome::kNotOurs;
  OpenPage(all, page);
  return guarded ? FaultOutcome::kStep : FaultOutcome::kRetry;  // released since the fault
}

void HostTouches(Range range, bool writes) {
  Guards& all = *guards;
  std::unique_lock<std::mutex> lock(all.mutex);
  const uintptr_t first = range.begin > all.longest ? range.begin - all.longest : 0;
  for (auto at = all.active.lower_bound(first); at != all.active.end() && at->first < range.end; ++at) {
    const Guard found = at->second;
    const bool acts_after = acting_clock != nullptr && Covers(*acting_clock, *found.operation);
    if (!Overlap(found.range, range) || !(found.task_writes || writes) || acts_after) continue;
    lock.unlock();
    if (Checking()) {
      const Kind kind = writes ? Kind::kHostWrite : Kind::kHostRead;
      ReportHostAccess(kind, *found.operation, CurrentSite(), found.range);
    }
    return;
  }
}

void ClosePage(uintptr_t address) {
  Guards& all = *guards;
  std::lock_guard<std::mutex> lock(all.mutex);
  Reprotect(all, PagesOf({address, address + 1}));
}

ActingClock::ActingClock(const Clock& clock) { acting_clock = &clock; }
ActingClock::~ActingClock() { acting_clock = nullptr; }

}  // namespace emu::races
