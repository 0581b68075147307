// SPDX-License-Identifier: Apache-2.0
#include "mtp_rows.h"

#include <cstring>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are little-endian");

namespace ascend_ext {
namespace {

constexpr uint64_t kHeaderWords = 8;
constexpr uint64_t kUnit = 8;
static_assert(kHeaderWords == kUnit, "the shortest record is two units");

uint64_t RoundUp(uint64_t words) { return (words + kUnit - 1) / kUnit * kUnit; }

// One part of all records: `width` words a slot, in `words` words from word `start` of each record.
struct Part {
  uint64_t start;
  uint64_t width;
  uint64_t words;
};

// The layout in vllm_ascend_ext/mtp_record.py.
struct Record {
  Part parts[4];
  uint64_t num_parts;
  uint64_t words;

  explicit Record(Shape shape) {
    const uint64_t one = RoundUp(shape.slots), top = RoundUp(shape.slots * shape.top_k);
    parts[0] = {kHeaderWords, 1, one};
    parts[1] = {kHeaderWords + one, shape.top_k, top};
    parts[2] = {kHeaderWords + one + top, shape.top_k, top};
    parts[3] = {kHeaderWords + one + 2 * top, 1, one};
    num_parts = shape.top_k ? 4 : 1;
    words = kHeaderWords + one + (shape.top_k ? 2 * top + one : 0);
  }
};

uint64_t CountsEnd(uint64_t batch) { return kRowsHeadBytes + (2 * batch + 3) / 4 * 4; }

uint32_t Load(const uint8_t* from) {
  uint32_t value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// Copies the accepted tokens of one part. Copies whole units while there is room: the next record overwrites what
// a unit has too much, and a copy of known size has no branch to mispredict.
uint8_t* Compact(const int32_t* packed, uint64_t batch, uint64_t words, Part part, uint8_t* out,
                 const uint8_t* end) {
  for (uint64_t row = 0; row < batch; ++row) {
    const int32_t* record = packed + row * words;
    const uint64_t bytes = static_cast<uint64_t>(record[0]) * part.width * 4;
    const int32_t* values = record + part.start;
    if (bytes <= kUnit * 4 && out + kUnit * 4 <= end) {
      std::memcpy(out, values, kUnit * 4);
    } else {
      std::memcpy(out, values, bytes);
    }
    out += bytes;
  }
  return out;
}

// Masks for units of kUnit words: `word | kMasks.of[n][i]` keeps the first n words and makes the others -1.
struct Masks {
  int32_t of[kUnit + 1][kUnit] = {};

  constexpr Masks() {
    for (uint64_t count = 0; count <= kUnit; ++count) {
      for (uint64_t word = count; word < kUnit; ++word) {
        of[count][word] = -1;
      }
    }
  }
};
constexpr Masks kMasks;

void Unit(const uint8_t* in, uint64_t count, int32_t* values) {
  int32_t unit[kUnit];
  std::memcpy(unit, in, sizeof(unit));
  for (uint64_t word = 0; word < kUnit; ++word) {
    unit[word] |= kMasks.of[count][word];
  }
  std::memcpy(values, unit, sizeof(unit));
}

// The head of a record. Its first two words in one store: the compiler would join two stores on the stack, and
// wait.
void WriteHead(uint64_t count, uint64_t status, int32_t* record) {
  const uint64_t first = count | status << 32;
  std::memcpy(record, &first, sizeof(first));
  std::memset(record + 2, 0xff, (kHeaderWords - 2) * 4);
}

// Undoes Compact; words behind the accepted ones become -1.
const uint8_t* Expand(const uint8_t* in, const uint8_t* end, int32_t* packed, uint64_t batch, uint64_t words,
                      Part part) {
  for (uint64_t row = 0; row < batch; ++row) {
    int32_t* record = packed + row * words;
    const uint64_t count = static_cast<uint64_t>(record[0]) * part.width;
    int32_t* values = record + part.start;
    if (part.words == kUnit && in + kUnit * 4 <= end) {
      Unit(in, count, values);
    } else {
      std::memcpy(values, in, count * 4);
      std::memset(values + count, 0xff, (part.words - count) * 4);
    }
    in += count * 4;
  }
  return in;
}

// Does what ReadRows does for records of one unit of head and one of tokens, in one pass that writes no word
// twice.
int64_t ReadUnits(const uint8_t* body, Shape shape, int32_t* packed) {
  const uint64_t batch = shape.batch;
  const uint8_t* counts = body + kRowsHeadBytes;
  const uint8_t *in = body + CountsEnd(batch), *end = in + static_cast<uint64_t>(Load(body + 8)) * 4;
  for (uint64_t row = 0; row < batch; ++row, packed += 2 * kUnit) {
    const uint64_t count = counts[row], left = static_cast<uint64_t>(end - in) / 4;
    if (count > shape.slots) {
      return -1 - static_cast<int64_t>(row);
    }
    WriteHead(count, counts[batch + row], packed);
    if (left >= kUnit) {
      Unit(in, count, packed + kUnit);
    } else if (left >= count) {
      std::memset(packed + kUnit, 0xff, kUnit * 4);
      std::memcpy(packed + kUnit, in, count * 4);
    } else {
      return -1 - static_cast<int64_t>(batch);
    }
    in += count * 4;
  }
  return in == end ? 0 : -1 - static_cast<int64_t>(batch);
}

// Returns the bytes of the body whose head is at `body`; 0 when the numbers in the head are not those of `shape`.
uint64_t BodyBytes(const uint8_t* body, uint64_t bytes, Shape shape) {
  const uint64_t counts_end = CountsEnd(shape.batch);
  if (bytes < counts_end || Load(body) != shape.batch || Load(body + 4) != (shape.slots | shape.top_k << 16) ||
      Load(body + 12) != 0) {
    return 0;
  }
  return counts_end + 4 * static_cast<uint64_t>(Load(body + 8)) * shape.WordsPerToken();
}

}  // namespace

uint64_t RowsBound(Shape shape) {
  return CountsEnd(shape.batch) + 4 * shape.batch * shape.slots * shape.WordsPerToken();
}

int64_t WriteRows(const int32_t* packed, Shape shape, uint8_t* out) {
  const Record record(shape);
  const uint64_t batch = shape.batch;
  uint8_t* counts = out + kRowsHeadBytes;
  uint32_t num_tokens = 0;
  for (uint64_t row = 0; row < batch; ++row) {
    const uint32_t count = packed[row * record.words], status = packed[row * record.words + 1];
    if (count > shape.slots || status > UINT8_MAX) {
      return -1 - static_cast<int64_t>(row);
    }
    counts[row] = static_cast<uint8_t>(count);
    counts[batch + row] = static_cast<uint8_t>(status);
    num_tokens += count;
  }
  std::memset(counts + 2 * batch, 0, CountsEnd(batch) - kRowsHeadBytes - 2 * batch);
  const uint32_t head[4] = {static_cast<uint32_t>(batch), static_cast<uint32_t>(shape.slots | shape.top_k << 16),
                            num_tokens, 0};
  std::memcpy(out, head, sizeof(head));
  uint8_t* begin = out + CountsEnd(batch);
  const uint8_t* end = begin + batch * shape.slots * shape.WordsPerToken() * 4;
  for (uint64_t part = 0; part < record.num_parts; ++part) {
    begin = Compact(packed, batch, record.words, record.parts[part], begin, end);
  }
  return begin - out;
}

bool ReadShape(const uint8_t* body, uint64_t bytes, Shape* shape) {
  if (bytes < kRowsHeadBytes) {
    return false;
  }
  const uint32_t sizes = Load(body + 4);
  *shape = {Load(body), sizes & 0xFFFF, sizes >> 16};
  return shape->IsPossible() && 4 * shape->batch * RecordWords(*shape) <= kMaxRecordBytes &&
         BodyBytes(body, bytes, *shape) == bytes;
}

bool IsPrefixOf(const uint8_t* body, uint64_t bytes, Shape shape) {
  const uint64_t own = BodyBytes(body, bytes, shape);
  return own > 0 && own <= bytes;
}

uint64_t RecordWords(Shape shape) { return Record(shape).words; }

int64_t ReadRows(const uint8_t* body, Shape shape, int32_t* packed) {
  const Record record(shape);
  if (record.words == 2 * kUnit) {
    return ReadUnits(body, shape, packed);
  }
  const uint64_t batch = shape.batch, num_tokens = Load(body + 8);
  const uint8_t* counts = body + kRowsHeadBytes;
  uint64_t sum = 0;
  for (uint64_t row = 0; row < batch; ++row) {
    if (counts[row] > shape.slots) {
      return -1 - static_cast<int64_t>(row);
    }
    WriteHead(counts[row], counts[batch + row], packed + row * record.words);
    sum += counts[row];
  }
  if (sum != num_tokens) {
    return -1 - static_cast<int64_t>(batch);
  }
  const uint8_t* begin = body + CountsEnd(batch);
  const uint8_t* end = begin + num_tokens * shape.WordsPerToken() * 4;
  for (uint64_t part = 0; part < record.num_parts; ++part) {
    begin = Expand(begin, end, packed, batch, record.words, record.parts[part]);
  }
  return 0;
}

}  // namespace ascend_ext
