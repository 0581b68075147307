// SPDX-License-Identifier: Apache-2.0
// Findings of the checker: printed once per pair of places, kept for tests, written to EMULATOR_RACE_LOG
// as text, and as JSON for pages (emulator/page).
#pragma once

#include <cstdint>
#include <string>

#include "memory/access.h"
#include "races/checker.h"
#include "races/history.h"

namespace emu::races {

enum class Kind {
  kUnordered,    // two operations touch the same bytes without an order
  kBlockReused,  // the same, and torch's allocator handed the block out again in between
  kHostRead,     // the host read pinned memory before its copy was known to be complete
  kHostWrite,    // the host wrote pinned memory that a copy may still read or write
  kUnjoined,     // a captured side stream that the capture's stream never waits for
  kMismatch,     // ranks called different collectives
  kSilentPeer,   // a rank died or did not come
};

// `range`: the bytes both touch; `by_indices`: they were found in indices as they were when the operations ran.
// `history`: from the first to the second, or null. Thread-safe.
void ReportRace(Kind kind, const Operation& first, bool first_writes, const Operation& second, bool second_writes,
                Range range, bool by_indices, const ExcerptPtr& history);
// One operation that touches the same bytes twice, without an order of its own.
void ReportTorn(const Operation& operation, Range range);
// The host itself was the second party.
void ReportHostAccess(Kind kind, const Operation& pending, SiteId site, Range range);
// Findings whose text their finder writes (captures, collectives).
void ReportFinding(Kind kind, const std::string& text);

uint64_t NumReports();
std::string ReportText(uint64_t index);
void ClearReports();

}  // namespace emu::races
