// SPDX-License-Identifier: Apache-2.0
// Rosters, whole and as changes, as mtp_output/frames/roster.py and roster_change.py describe them; of a target
// and, with the same ids or others, a draft.
#pragma once

#include "id_list.h"

namespace ascend_ext {

constexpr uint16_t kTargetKind = 1, kDraftKind = 2, kRosterKind = 16, kChangeKind = 17;

class Roster {
 public:
  // Takes over the ids of a target and of a draft (NULL without one); notes what differs from `before`. Returns
  // false, without an exception, when a roster cannot hold them; it is nobody's then.
  bool Take(PyObject* target_ids, PyObject* draft_ids, const Roster& before);

  // Reads a roster, or its change from `before`. Returns false, without an exception, when this is none of ours.
  bool ReadWhole(const uint8_t* body, uint64_t bytes);
  bool ReadChange(const uint8_t* body, uint64_t bytes, uint64_t base, const Roster& before);

  // Whether Take found the same ids as before.
  bool IsUnchanged() const { return is_unchanged_; }
  bool IsOf(PyObject* target_ids, PyObject* draft_ids) const;

  uint64_t WholeBytes() const;
  uint64_t ChangeBytes() const;
  uint8_t* WriteWhole(uint8_t* to) const;
  uint8_t* WriteChange(uint64_t base, uint8_t* to) const;

  int num_lists() const { return num_lists_; }
  const IdList& ListOf(int index) const { return lists_[is_same_ ? 0 : index]; }
  PyObject* AsTuple() const;  // as Python writes it: ((kind, ids), ...)
  bool FromTuple(PyObject* roster);

 private:
  const IdList& Before(const Roster& before, int index) const;
  bool IsWritten(int index) const { return index == 0 || !is_same_; }
  bool ReadLists(const uint8_t* at, const uint8_t* end, uint32_t num_lists, const Roster* before);

  IdList lists_[2];
  std::vector<uint32_t> rows_[2];  // that changed
  Ref draft_ids_;                  // where they are another tuple of the same ids
  int num_lists_ = 0;
  bool is_same_ = false;  // the draft's ids are the target's
  bool is_unchanged_ = false;
};

}  // namespace ascend_ext
