// SPDX-License-Identifier: Apache-2.0
#include "races/verdict.h"

#include <algorithm>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "memory/rows.h"
#include "races/blocks.h"
#include "races/fork.h"
#include "races/report.h"

namespace emu::races {
namespace {

struct Suspicion {
  Conflict conflict;
  OperationPtr second;
};

struct Suspicions {
  std::mutex mutex;  // of all choices' states, too
  std::unordered_map<const Choice*, std::vector<std::shared_ptr<Suspicion>>> waiting;
};

Resettable<Suspicions> suspicions;

bool Overlap(Range a, Range b) { return a.begin < b.end && b.begin < a.end; }

Range Shared(Range a, Range b) { return {std::max(a.begin, b.begin), std::min(a.end, b.end)}; }

// The block was handed out again between the two: no index of a freed tensor makes that right.
bool Reused(const Conflict& conflict, const Operation& second) {
  BlockLife block;
  return FindBlockAt(conflict.range.begin, second.order, &block) && block.allocated > conflict.first->order;
}

bool Known(const Access& access) { return access.choice && access.choice->state == Choice::State::kKnown; }

// Under the lock.
void Report(const Conflict& conflict, const Operation& second, bool reused) {
  const bool any = Known(conflict.second) || std::any_of(conflict.firsts.begin(), conflict.firsts.end(), Known);
  ReportRace(reused ? Kind::kBlockReused : Kind::kUnordered, *conflict.first, conflict.first_writes, second,
             conflict.second_writes, conflict.range, any && !reused, conflict.history);
}

// What an access touches, by first byte. Under the lock.
const Accesses& PiecesOf(const Access& access, Accesses* whole) {
  if (Known(access)) return access.choice->pieces;
  *whole = {access};
  return *whole;
}

bool AnyMeet(const Accesses& a, const Accesses& b, Range* shared) {
  uintptr_t longest = 0;
  for (const Access& piece : b) longest = std::max(longest, piece.range.end - piece.range.begin);
  for (const Access& piece : a) {
    const uintptr_t first = piece.range.begin - std::min(piece.range.begin, longest);
    auto at = std::lower_bound(b.begin(), b.end(), first,
                               [](const Access& other, uintptr_t address) { return other.range.begin < address; });
    for (; at != b.end() && at->range.begin < piece.range.end; ++at) {
      if (Meet(piece, *at, shared)) return true;
    }
  }
  return false;
}

bool Open(const Access& access) { return access.choice && access.choice->state == Choice::State::kOpen; }

void Settle(Suspicions& all, const Choice* choice);

// Under the lock. What the operation chooses by indices of these bytes is uncertain.
void Distrust(Suspicions& all, const Operation& operation, Range range) {
  for (const std::shared_ptr<Choice>& choice : operation.choices) {
    const auto& indices = choice->indices;
    if (std::none_of(indices.begin(), indices.end(), [&](Range known) { return Overlap(known, range); })) continue;
    if (choice->state == Choice::State::kAll) continue;
    choice->state = Choice::State::kAll;
    choice->pieces = {};
    Settle(all, choice.get());
  }
}

void Convict(Suspicions& all, const Conflict& conflict, const Operation& second, bool reused) {
  Report(conflict, second, reused);
  Distrust(all, *conflict.first, conflict.range);
  Distrust(all, second, conflict.range);
}

void Decide(Suspicions& all, Suspicion& suspicion) {
  Accesses whole_second;
  const Accesses& second = PiecesOf(suspicion.conflict.second, &whole_second);
  for (const Access& access : suspicion.conflict.firsts) {
    Accesses whole_first;
    if (!AnyMeet(PiecesOf(access, &whole_first), second, &suspicion.conflict.range)) continue;
    return Convict(all, suspicion.conflict, *suspicion.second, false);
  }
}

// Under the lock: the choice is not open any more.
void Settle(Suspicions& all, const Choice* choice) {
  auto node = all.waiting.extract(choice);
  if (node.empty()) return;
  for (const auto& suspicion : node.mapped()) {
    const Conflict& conflict = suspicion->conflict;
    const bool open = Open(conflict.second) || std::any_of(conflict.firsts.begin(), conflict.firsts.end(), Open);
    if (!open) Decide(all, *suspicion);  // else the other one still has it
  }
}

}  // namespace

void AddConflict(Conflicts* conflicts, const OperationPtr& first, bool first_writes, bool second_writes,
                 Range range) {
  for (Conflict& known : *conflicts) {
    if (known.firsts.empty() && known.first == first && known.first_writes == first_writes &&
        known.second_writes == second_writes && known.range.end == range.begin) {
      known.range.end = range.end;
      return;
    }
  }
  conflicts->push_back({first, first_writes, second_writes, range, {}, {}, nullptr});
}

void AddSuspicion(Conflicts* conflicts, const OperationPtr& first, const Access& first_access,
                  const Access& second_access) {
  for (Conflict& known : *conflicts) {
    const bool same = !known.firsts.empty() && known.first == first && known.first_writes == first_access.write &&
                      known.second.choice && known.second.choice == second_access.choice;
    if (!same) continue;
    known.firsts.push_back(first_access);
    return;
  }
  conflicts->push_back({first,
                        first_access.write,
                        second_access.write,
                        Shared(first_access.range, second_access.range),
                        {first_access},
                        second_access,
                        nullptr});
}

void Judge(Conflict conflict, const OperationPtr& second) {
  Suspicions& all = suspicions.get();
  const bool reused = Reused(conflict, *second);
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (conflict.firsts.empty() || reused) return Convict(all, conflict, *second, reused);
  const auto suspicion = std::make_shared<Suspicion>(Suspicion{std::move(conflict), second});
  bool open = false;
  const auto await = [&](const Access& access) {
    if (!Open(access)) return;
    all.waiting[access.choice.get()].push_back(suspicion);
    open = true;
  };
  await(suspicion->conflict.second);
  for (const Access& access : suspicion->conflict.firsts) await(access);
  if (!open) Decide(all, *suspicion);
}

void Tell(const Choices& choices, Chosen chosen) {
  Suspicions& all = suspicions.get();
  const std::lock_guard<std::mutex> lock(all.mutex);
  for (size_t i = 0; i < choices.size(); ++i) {
    Choice& choice = *choices[i];
    if (choice.state != Choice::State::kOpen) continue;
    const bool known = i < chosen.size() && chosen[i].has_value();
    choice.state = known ? Choice::State::kKnown : Choice::State::kAll;
    if (known) choice.pieces = std::move(*chosen[i]);
    Settle(all, &choice);
  }
}

}  // namespace emu::races
