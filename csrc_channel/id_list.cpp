// SPDX-License-Identifier: Apache-2.0
#include "id_list.h"

#include <cstring>

#include "words.h"

namespace ascend_ext {
namespace {

constexpr uint64_t kOdd = 0x9E3779B97F4A7C15u, kHighBits = 0x8080808080808080u;

// Up to eight bytes.
uint64_t ShortWord(const char* text, uint64_t bytes) {
  uint64_t word = 0;
  for (uint64_t at = 0; at < bytes; ++at) {
    word = word << 8 | static_cast<uint8_t>(text[at]);
  }
  return word;
}

// A digest for the table of AreDistinct: ids of one digest are compared. The last words of a text overlap.
uint64_t Digest(const char* text, uint64_t bytes) {
  uint64_t digest = bytes * kOdd;
  if (bytes < 8) {
    return FoldedProduct(ShortWord(text, bytes) ^ kOdd, digest ^ kHighBits);
  }
  const char* const last = text + bytes - 8;
  for (; last - text > 8; text += 16) {
    digest = FoldedProduct(LoadWord(text) ^ kOdd, LoadWord(text + 8) ^ digest);
  }
  return FoldedProduct(LoadWord(text) ^ kOdd, LoadWord(last) ^ digest);
}

uint8_t* Zeros(uint8_t* to, const uint8_t* end) {
  while (to < end) {
    *to++ = 0;
  }
  return to;
}

bool IsAscii(const char* text, uint64_t bytes) {
  uint64_t bits = 0, at = 0;
  for (; at + 8 <= bytes; at += 8) {
    bits |= LoadWord(text + at);
  }
  return !((bits | ShortWord(text + at, bytes - at)) & kHighBits);
}

// Returns a str of UTF-8, or NULL with an exception set.
PyObject* NewText(const char* text, uint64_t bytes, bool is_ascii) {
  if (!is_ascii || bytes < 2) {  // Python shares the shortest
    return PyUnicode_DecodeUTF8(text, static_cast<Py_ssize_t>(bytes), nullptr);
  }
  PyObject* ascii = PyUnicode_New(static_cast<Py_ssize_t>(bytes), 127);
  if (ascii) {
    std::memcpy(PyUnicode_1BYTE_DATA(ascii), text, bytes);
  }
  return ascii;
}

uint16_t Length(const uint8_t* lengths, uint64_t index) {
  uint16_t length;
  std::memcpy(&length, lengths + 2 * index, sizeof(length));
  return length;
}

}  // namespace

bool IdList::Id::operator==(const Id& other) const {
  return digest == other.digest && bytes == other.bytes && std::memcmp(text, other.text, bytes) == 0;
}

bool IdList::Describe(PyObject* object, Id* id) {
  Py_ssize_t bytes = 0;
  if (!PyUnicode_CheckExact(object)) {
    return false;
  }
  const char* text = PyUnicode_AsUTF8AndSize(object, &bytes);
  if (!text || bytes > UINT16_MAX) {
    PyErr_Clear();
    return false;
  }
  *id = {text, static_cast<uint32_t>(bytes), Digest(text, static_cast<uint64_t>(bytes))};
  return true;
}

void IdList::Begin(uint64_t count) {
  tuple_ = Ref();
  ids_.clear();
  ids_.reserve(count);
  text_bytes_ = 0;
}

void IdList::Append(const Id& id) {
  ids_.push_back(id);
  text_bytes_ += id.bytes;
}

bool IdList::Take(PyObject* ids, const IdList& before, std::vector<uint32_t>* rows) {
  rows->clear();
  if (!PyTuple_CheckExact(ids)) {
    return false;
  }
  const uint64_t count = static_cast<uint64_t>(PyTuple_GET_SIZE(ids));
  Begin(count);
  for (uint64_t row = 0; row < count; ++row) {
    PyObject* object = PyTuple_GET_ITEM(ids, static_cast<Py_ssize_t>(row));
    const bool has_old = row < before.size();
    if (has_old && object == PyTuple_GET_ITEM(before.tuple(), static_cast<Py_ssize_t>(row))) {
      Append(before.ids_[row]);
      continue;
    }
    Id id;
    if (!Describe(object, &id)) {
      return false;
    }
    Append(id);
    if (!has_old || !(id == before.ids_[row])) {
      rows->push_back(static_cast<uint32_t>(row));
    }
  }
  tuple_ = Ref::To(ids);
  return rows->empty() || AreDistinct();
}

bool IdList::Read(const IdList& before, uint64_t count, const uint8_t* rows, uint64_t num_new,
                  const uint8_t* lengths, const char* text, uint64_t text_bytes) {
  if (count > num_new + (rows ? before.size() : 0)) {
    return false;
  }
  Begin(count);
  Ref tuple(PyTuple_New(static_cast<Py_ssize_t>(count)));
  if (!tuple) {
    PyErr_Clear();
    return false;
  }
  const char* const end = text + text_bytes;
  const bool is_ascii = IsAscii(text, text_bytes);
  uint64_t used = 0;
  for (uint64_t row = 0; row < count; ++row) {
    uint32_t next = static_cast<uint32_t>(row);
    if (rows && used < num_new) {
      std::memcpy(&next, rows + 4 * used, sizeof(next));
    }
    if (used == num_new || next != row) {
      if (row >= before.size()) {
        return false;
      }
      PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(row),
                       Py_NewRef(PyTuple_GET_ITEM(before.tuple(), static_cast<Py_ssize_t>(row))));
      Append(before.ids_[row]);
      continue;
    }
    const uint16_t length = Length(lengths, used++);
    PyObject* object = length <= end - text ? NewText(text, length, is_ascii) : nullptr;
    Id id;
    if (!object) {
      PyErr_Clear();
      return false;
    }
    PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(row), object);
    if (!Describe(object, &id)) {
      return false;
    }
    Append(id);
    text += length;
  }
  tuple_ = std::move(tuple);
  return used == num_new && text == end && (num_new == 0 || AreDistinct());
}

uint8_t* IdList::WriteAll(uint8_t* to) const {
  uint8_t *text = to + Padded(2 * size()), *lengths = to;
  for (const Id& id : ids_) {
    const uint16_t length = static_cast<uint16_t>(id.bytes);
    std::memcpy(lengths, &length, sizeof(length));
    lengths += sizeof(length);
  }
  Zeros(lengths, text);
  uint8_t* const end = text + Padded(text_bytes_);
  for (const Id& id : ids_) {
    std::memcpy(text, id.text, id.bytes);
    text += id.bytes;
  }
  return Zeros(text, end);
}

uint8_t* IdList::WriteSome(const std::vector<uint32_t>& rows, uint8_t* to) const {
  uint8_t *text = to + Padded(2 * rows.size()), *lengths = to;
  for (const uint32_t row : rows) {
    const uint16_t length = static_cast<uint16_t>(ids_[row].bytes);
    std::memcpy(lengths, &length, sizeof(length));
    lengths += sizeof(length);
  }
  Zeros(lengths, text);
  uint8_t* const end = text + Padded(TextBytes(rows));
  for (const uint32_t row : rows) {
    std::memcpy(text, ids_[row].text, ids_[row].bytes);
    text += ids_[row].bytes;
  }
  return Zeros(text, end);
}

uint64_t IdList::TextBytes(const std::vector<uint32_t>& rows) const {
  uint64_t sum = 0;
  for (const uint32_t row : rows) {
    sum += ids_[row].bytes;
  }
  return sum;
}

bool IdList::IsLike(const IdList& other) const { return ids_ == other.ids_; }

// Returns whether no id comes twice.
bool IdList::AreDistinct() {
  uint64_t slots = 8;
  while (slots < 2 * size()) {
    slots *= 2;
  }
  table_.assign(slots, 0);
  for (uint64_t row = 0; row < size(); ++row) {
    uint64_t at = ids_[row].digest & (slots - 1);
    for (; table_[at]; at = (at + 1) & (slots - 1)) {
      if (ids_[table_[at] - 1] == ids_[row]) {
        return false;
      }
    }
    table_[at] = static_cast<uint32_t>(row + 1);
  }
  return true;
}

}  // namespace ascend_ext
