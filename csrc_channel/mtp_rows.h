// SPDX-License-Identifier: Apache-2.0
// Writes and reads bodies of rows sections, as vllm_ascend_ext/mtp_output/frames/rows.py describes them.
#pragma once

#include <cstdint>

namespace ascend_ext {

// Records of `batch` requests of `slots` token slots, with `top_k` (0 without).
struct Shape {
  uint64_t batch;
  uint64_t slots;
  uint64_t top_k;

  bool operator==(const Shape& other) const {
    return batch == other.batch && slots == other.slots && top_k == other.top_k;
  }

  uint64_t WordsPerToken() const { return top_k ? 2 + 2 * top_k : 1; }

  // Returns whether a body's fields can hold these numbers, so that its size can be computed without overflow.
  bool IsPossible() const {
    return batch <= UINT32_MAX && slots >= 1 && slots <= UINT8_MAX && top_k <= UINT16_MAX;
  }
};

constexpr uint64_t kRowsHeadBytes = 16;
constexpr uint64_t kMaxRecordBytes = 1u << 28;  // MAX_RECORD_BYTES in mtp_output/frames/rows.py

// Returns the words of one record.
uint64_t RecordWords(Shape shape);

// Returns the most bytes that a body can take.
uint64_t RowsBound(Shape shape);

// Writes a body to `out`, where `RowsBound` bytes are free. Returns the body's bytes, or -1 - row of the first
// record with an impossible count or status.
int64_t WriteRows(const int32_t* packed, Shape shape, uint8_t* out);

// Reads the shape of the body of `bytes` bytes at `body`. Returns false when these are no body, or make more
// memory than a reader unpacks.
bool ReadShape(const uint8_t* body, uint64_t bytes, Shape* shape);

// Returns whether a body of `shape` begins at `body` and ends within `bytes` bytes.
bool IsPrefixOf(const uint8_t* body, uint64_t bytes, Shape shape);

// Reads a body of the shape that `ReadShape` has read. Returns 0, or -1 - row of the first record with more tokens
// than slots, or -1 - batch when the counts are not those of the head; the records are undefined then.
int64_t ReadRows(const uint8_t* body, Shape shape, int32_t* packed);

}  // namespace ascend_ext
