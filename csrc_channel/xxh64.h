// SPDX-License-Identifier: Apache-2.0
// XXH64 with seed 0, after its public specification (doc/xxhash_spec.md of the xxHash project). The package xxhash
// computes the same in Python; tests hold the two together.
#pragma once

#include <cstdint>
#include <cstring>

namespace ascend_ext {

constexpr uint64_t kPrimes64[5] = {0x9E3779B185EBCA87u, 0xC2B2AE3D27D4EB4Fu, 0x165667B19E3779F9u,
                                   0x85EBCA77C2B2AE63u, 0x27D4EB2F165667C5u};

inline uint64_t RotateLeft(uint64_t value, int bits) { return value << bits | value >> (64 - bits); }

template <typename T>
uint64_t LoadLane(const uint8_t* from) {
  T lane;
  std::memcpy(&lane, from, sizeof(lane));
  return lane;
}

inline uint64_t Round(uint64_t accumulator, uint64_t lane) {
  return RotateLeft(accumulator + lane * kPrimes64[1], 31) * kPrimes64[0];
}

// Steps 1 to 3 of the specification: stripes of 32 bytes in four accumulators, converged. Moves `at` behind them.
inline uint64_t HashStripes(const uint8_t*& at, const uint8_t* end) {
  uint64_t accumulators[4] = {kPrimes64[0] + kPrimes64[1], kPrimes64[1], 0, 0 - kPrimes64[0]};
  for (; end - at >= 32; at += 32) {
    for (int lane = 0; lane < 4; ++lane) {
      accumulators[lane] = Round(accumulators[lane], LoadLane<uint64_t>(at + 8 * lane));
    }
  }
  uint64_t hash = RotateLeft(accumulators[0], 1) + RotateLeft(accumulators[1], 7) +
                  RotateLeft(accumulators[2], 12) + RotateLeft(accumulators[3], 18);
  for (const uint64_t accumulator : accumulators) {
    hash = (hash ^ Round(0, accumulator)) * kPrimes64[0] + kPrimes64[3];
  }
  return hash;
}

inline uint64_t Xxh64(const uint8_t* at, uint64_t bytes) {
  const uint8_t* end = at + bytes;
  uint64_t hash = (bytes >= 32 ? HashStripes(at, end) : kPrimes64[4]) + bytes;
  for (; end - at >= 8; at += 8) {
    hash = RotateLeft(hash ^ Round(0, LoadLane<uint64_t>(at)), 27) * kPrimes64[0] + kPrimes64[3];
  }
  if (end - at >= 4) {
    hash = RotateLeft(hash ^ LoadLane<uint32_t>(at) * kPrimes64[0], 23) * kPrimes64[1] + kPrimes64[2];
    at += 4;
  }
  for (; at < end; ++at) {
    hash = RotateLeft(hash ^ *at * kPrimes64[4], 11) * kPrimes64[0];
  }
  hash = (hash ^ hash >> 33) * kPrimes64[1];
  hash = (hash ^ hash >> 29) * kPrimes64[2];
  return hash ^ hash >> 32;
}

}  // namespace ascend_ext
