// SPDX-License-Identifier: Apache-2.0
#include "roster.h"

#include <cstring>

namespace ascend_ext {
namespace {

constexpr uint32_t kSameAsFirst = UINT32_MAX;
const IdList kNoIds;

template <typename T>
uint8_t* Put(uint8_t* to, T value) {
  std::memcpy(to, &value, sizeof(value));
  return to + sizeof(value);
}

template <typename T>
T Get(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

}  // namespace

const IdList& Roster::Before(const Roster& before, int index) const {
  return index < before.num_lists_ ? before.ListOf(index) : kNoIds;
}

bool Roster::Take(PyObject* target_ids, PyObject* draft_ids, const Roster& before) {
  num_lists_ = draft_ids ? 2 : 1;
  is_same_ = false;
  draft_ids_ = Ref();
  if (!lists_[0].Take(target_ids, Before(before, 0), &rows_[0])) {
    return false;
  }
  if (draft_ids && draft_ids != target_ids && !lists_[1].Take(draft_ids, Before(before, 1), &rows_[1])) {
    return false;
  }
  if (draft_ids) {
    is_same_ = draft_ids == target_ids || lists_[1].IsLike(lists_[0]);
    draft_ids_ = Ref::To(draft_ids);
  }
  is_unchanged_ = num_lists_ == before.num_lists_;
  for (int index = 0; index < num_lists_ && is_unchanged_; ++index) {
    is_unchanged_ = ListOf(index).size() == before.ListOf(index).size() &&
                    (is_same_ && index ? before.ListOf(1).IsLike(lists_[0]) : rows_[index].empty());
  }
  return true;
}

bool Roster::IsOf(PyObject* target_ids, PyObject* draft_ids) const {
  return num_lists_ == (draft_ids ? 2 : 1) && lists_[0].tuple() == target_ids && draft_ids_.get() == draft_ids;
}

uint64_t Roster::WholeBytes() const {
  uint64_t bytes = 4;
  for (int index = 0; index < num_lists_; ++index) {
    const IdList& list = lists_[index];
    bytes += 12 + (IsWritten(index) ? Padded(2 * list.size()) + Padded(list.text_bytes()) : 0);
  }
  return bytes;
}

uint64_t Roster::ChangeBytes() const {
  uint64_t bytes = 16;
  for (int index = 0; index < num_lists_; ++index) {
    const uint64_t changed = rows_[index].size();
    bytes +=
        16 +
        (IsWritten(index) ? 4 * changed + Padded(2 * changed) + Padded(lists_[index].TextBytes(rows_[index])) : 0);
  }
  return bytes;
}

uint8_t* Roster::WriteWhole(uint8_t* to) const {
  to = Put(to, static_cast<uint32_t>(num_lists_));
  for (int index = 0; index < num_lists_; ++index) {
    const IdList& list = lists_[index];
    const bool is_written = IsWritten(index);
    to = Put(to, static_cast<uint32_t>(index + kTargetKind));
    to = Put(to, is_written ? static_cast<uint32_t>(list.size()) : kSameAsFirst);
    to = Put(to, static_cast<uint32_t>(is_written ? list.text_bytes() : 0));
    to = is_written ? list.WriteAll(to) : to;
  }
  return to;
}

uint8_t* Roster::WriteChange(uint64_t base, uint8_t* to) const {
  to = Put(to, base);
  to = Put(to, static_cast<uint32_t>(num_lists_));
  to = Put(to, uint32_t{0});
  for (int index = 0; index < num_lists_; ++index) {
    const IdList& list = lists_[index];
    const std::vector<uint32_t>& rows = rows_[index];
    const bool is_written = IsWritten(index);
    to = Put(to, static_cast<uint32_t>(index + kTargetKind));
    to = Put(to, static_cast<uint32_t>(is_written ? list.size() : 0));
    to = Put(to, is_written ? static_cast<uint32_t>(rows.size()) : kSameAsFirst);
    to = Put(to, static_cast<uint32_t>(is_written ? list.TextBytes(rows) : 0));
    if (is_written) {
      std::memcpy(to, rows.data(), 4 * rows.size());
      to = list.WriteSome(rows, to + 4 * rows.size());
    }
  }
  return to;
}

bool Roster::ReadWhole(const uint8_t* body, uint64_t bytes) {
  return bytes >= 4 && ReadLists(body + 4, body + bytes, Get<uint32_t>(body), nullptr);
}

bool Roster::ReadChange(const uint8_t* body, uint64_t bytes, uint64_t base, const Roster& before) {
  return bytes >= 16 && Get<uint64_t>(body) == base && Get<uint32_t>(body + 12) == 0 &&
         ReadLists(body + 16, body + bytes, Get<uint32_t>(body + 8), &before);
}

bool Roster::ReadLists(const uint8_t* at, const uint8_t* end, uint32_t num_lists, const Roster* before) {
  if (num_lists < 1 || num_lists > 2) {
    return false;
  }
  num_lists_ = static_cast<int>(num_lists);
  is_same_ = false;
  draft_ids_ = Ref();
  const uint64_t head_bytes = before ? 16 : 12;
  for (int index = 0; index < num_lists_; ++index) {
    if (static_cast<uint64_t>(end - at) < head_bytes || Get<uint32_t>(at) != static_cast<uint32_t>(index + 1)) {
      return false;
    }
    const uint64_t count = Get<uint32_t>(at + 4), num_new = before ? Get<uint32_t>(at + 8) : count;
    const uint64_t text_bytes = Get<uint32_t>(at + head_bytes - 4);
    at += head_bytes;
    if (index && num_new == kSameAsFirst && !text_bytes && (!before || !count)) {
      is_same_ = true;
      draft_ids_ = Ref::To(lists_[0].tuple());
      continue;
    }
    const uint64_t rows_bytes = before ? 4 * num_new : 0, lengths_bytes = Padded(2 * num_new);
    if (rows_bytes + lengths_bytes + Padded(text_bytes) > static_cast<uint64_t>(end - at)) {
      return false;
    }
    const uint8_t* lengths = at + rows_bytes;
    const char* text = reinterpret_cast<const char*>(lengths + lengths_bytes);
    if (!lists_[index].Read(before ? Before(*before, index) : kNoIds, count, before ? at : nullptr, num_new,
                            lengths, text, text_bytes)) {
      return false;
    }
    at = lengths + lengths_bytes + Padded(text_bytes);
    draft_ids_ = Ref::To(index ? lists_[1].tuple() : nullptr);
  }
  return at == end;
}

PyObject* Roster::AsTuple() const {
  if (num_lists_ == 1) {
    return Py_BuildValue("((iO))", 1, lists_[0].tuple());
  }
  return Py_BuildValue("((iO)(iO))", 1, lists_[0].tuple(), 2, ListOf(1).tuple());
}

bool Roster::FromTuple(PyObject* roster) {
  PyObject* ids[2] = {};
  const Py_ssize_t count = PyTuple_CheckExact(roster) ? PyTuple_GET_SIZE(roster) : 0;
  for (Py_ssize_t index = 0; index < count; ++index) {
    PyObject* entry = PyTuple_GET_ITEM(roster, index);
    if (index > 1 || !PyTuple_CheckExact(entry) || PyTuple_GET_SIZE(entry) != 2 ||
        PyLong_AsLong(PyTuple_GET_ITEM(entry, 0)) != index + 1) {
      PyErr_Clear();
      return false;
    }
    ids[index] = PyTuple_GET_ITEM(entry, 1);
  }
  return count && Take(ids[0], ids[1], Roster());
}

}  // namespace ascend_ext
