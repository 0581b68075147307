// SPDX-License-Identifier: Apache-2.0
// Words of eight bytes, wherever they lie, and what hashes make of two of them.
#pragma once

#include <cstdint>
#include <cstring>

namespace ascend_ext {

inline uint64_t LoadWord(const void* from) {
  uint64_t word;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

// Both halves of a product, one over the other.
inline uint64_t FoldedProduct(uint64_t one, uint64_t other) {
  const unsigned __int128 product = static_cast<unsigned __int128>(one) * other;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

}  // namespace ascend_ext
