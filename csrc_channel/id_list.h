// SPDX-License-Identifier: Apache-2.0
// The request ids of one section, as a tuple of str and as text; and which of them differ from those before.
#pragma once

#include <cstdint>
#include <vector>

#include "python.h"

namespace ascend_ext {

inline uint64_t Padded(uint64_t bytes) { return (bytes + 3) / 4 * 4; }

class IdList {
 public:
  // Takes the ids of a tuple; `rows` becomes the rows at which they differ from `before`, which stays as it is.
  // Returns false, without an exception, when they are not distinct ids that a roster can hold.
  bool Take(PyObject* ids, const IdList& before, std::vector<uint32_t>* rows);

  // Makes `count` ids of those in a frame and, at all rows that `rows` (4 bytes each) does not name, of `before`;
  // without `rows` all are in the frame. `num_new` lengths and a text of `text_bytes` are at `lengths` and at
  // `text`. Returns false, without an exception, when they do not fit or are no distinct ids.
  bool Read(const IdList& before, uint64_t count, const uint8_t* rows, uint64_t num_new, const uint8_t* lengths,
            const char* text, uint64_t text_bytes);

  // Writes lengths and text of the ids at `rows`, or of all, each padded; returns where they end.
  uint8_t* WriteAll(uint8_t* to) const;
  uint8_t* WriteSome(const std::vector<uint32_t>& rows, uint8_t* to) const;

  uint64_t size() const { return ids_.size(); }
  uint64_t text_bytes() const { return text_bytes_; }
  uint64_t TextBytes(const std::vector<uint32_t>& rows) const;
  PyObject* tuple() const { return tuple_.get(); }  // borrowed
  bool IsLike(const IdList& other) const;

 private:
  // Text and digest of one id; the text is the str's own.
  struct Id {
    const char* text;
    uint32_t bytes;
    uint64_t digest;

    bool operator==(const Id& other) const;
  };

  static bool Describe(PyObject* object, Id* id);
  void Begin(uint64_t count);
  void Append(const Id& id);
  bool AreDistinct();

  Ref tuple_;
  std::vector<Id> ids_;
  std::vector<uint32_t> table_;  // of AreDistinct, kept for its memory
  uint64_t text_bytes_ = 0;
};

}  // namespace ascend_ext
