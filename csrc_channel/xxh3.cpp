// SPDX-License-Identifier: Apache-2.0
#include "xxh3.h"

#include "words.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ascend_ext {
namespace {

constexpr uint64_t kPrime32[3] = {0x9E3779B1u, 0x85EBCA77u, 0xC2B2AE3Du};
constexpr uint64_t kPrime64[5] = {0x9E3779B185EBCA87u, 0xC2B2AE3D27D4EB4Fu, 0x165667B19E3779F9u,
                                  0x85EBCA77C2B2AE63u, 0x27D4EB2F165667C5u};
constexpr uint64_t kSecretBytes = 192, kStripeBytes = 64, kBlockStripes = (kSecretBytes - kStripeBytes) / 8;

// The words of the default secret.
alignas(64) constexpr uint64_t kSecretWords[kSecretBytes / 8] = {
    0xBE4BA423396CFEB8u, 0x1CAD21F72C81017Cu, 0xDB979083E96DD4DEu, 0x1F67B3B7A4A44072u, 0x78E5C0CC4EE679CBu,
    0x2172FFCC7DD05A82u, 0x8E2443F7744608B8u, 0x4C263A81E69035E0u, 0xCB00C391BB52283Cu, 0xA32E531B8B65D088u,
    0x4EF90DA297486471u, 0xD8ACDEA946EF1938u, 0x3F349CE33F76FAA8u, 0x1D4F0BC7C7BBDCF9u, 0x3159B4CD4BE0518Au,
    0x647378D9C97E9FC8u, 0xC3EBD33483ACC5EAu, 0xEB6313FAFFA081C5u, 0x49DAF0B751DD0D17u, 0x9E68D429265516D3u,
    0xFCA1477D58BE162Bu, 0xCE31D07AD1B8F88Fu, 0x280416958F3ACB45u, 0x7E404BBBCAFBD7AFu};
const uint8_t* const kSecret = reinterpret_cast<const uint8_t*>(kSecretWords);

uint64_t Avalanche(uint64_t hash) {
  hash = (hash ^ hash >> 37) * 0x165667919E3779F9u;
  return hash ^ hash >> 32;
}

uint64_t Mix(const uint8_t* data, const uint8_t* secret) {
  return FoldedProduct(LoadWord(data) ^ LoadWord(secret), LoadWord(data + 8) ^ LoadWord(secret + 8));
}

uint64_t HashSmall(const uint8_t* data, uint64_t bytes) {  // 9 to 16 bytes
  const uint64_t low = LoadWord(kSecret + 24) ^ LoadWord(kSecret + 32) ^ LoadWord(data);
  const uint64_t high = LoadWord(kSecret + 40) ^ LoadWord(kSecret + 48) ^ LoadWord(data + bytes - 8);
  return Avalanche(bytes + __builtin_bswap64(low) + high + FoldedProduct(low, high));
}

uint64_t HashMedium(const uint8_t* data, uint64_t bytes) {  // 17 to 240 bytes
  uint64_t hash = bytes * kPrime64[0];
  if (bytes <= 128) {
    for (uint64_t round = 0; round <= (bytes - 1) / 32; ++round) {
      hash += Mix(data + 16 * round, kSecret + 32 * round);
      hash += Mix(data + bytes - 16 * round - 16, kSecret + 32 * round + 16);
    }
    return Avalanche(hash);
  }
  for (uint64_t chunk = 0; chunk < 8; ++chunk) {
    hash += Mix(data + 16 * chunk, kSecret + 16 * chunk);
  }
  hash = Avalanche(hash);
  for (uint64_t chunk = 8; chunk < bytes / 16; ++chunk) {
    hash += Mix(data + 16 * chunk, kSecret + 16 * (chunk - 8) + 3);
  }
  return Avalanche(hash + Mix(data + bytes - 16, kSecret + 119));
}

void Accumulate(uint64_t* lanes, const uint8_t* data, const uint8_t* secret, uint64_t stripes) {
  for (uint64_t stripe = 0; stripe < stripes; ++stripe, data += kStripeBytes, secret += 8) {
    for (int lane = 0; lane < 8; ++lane) {
      const uint64_t word = LoadWord(data + 8 * lane), value = word ^ LoadWord(secret + 8 * lane);
      lanes[lane ^ 1] += word;
      lanes[lane] += (value & 0xFFFFFFFFu) * (value >> 32);
    }
  }
}

void Blocks(uint64_t* lanes, const uint8_t* data, uint64_t blocks) {
  for (; blocks; --blocks, data += kBlockStripes * kStripeBytes) {
    Accumulate(lanes, data, kSecret, kBlockStripes);
    for (int lane = 0; lane < 8; ++lane) {
      const uint64_t last = LoadWord(kSecret + kSecretBytes - kStripeBytes + 8 * lane);
      lanes[lane] = (lanes[lane] ^ lanes[lane] >> 47 ^ last) * kPrime32[0];
    }
  }
}

#if defined(__x86_64__)
// What Blocks does, four lanes an instruction.
__attribute__((target("avx2"))) void BlocksAvx2(uint64_t* lanes, const uint8_t* data, uint64_t blocks) {
  const __m256i prime = _mm256_set1_epi64x(static_cast<long long>(kPrime32[0]));
  __m256i* const at = reinterpret_cast<__m256i*>(lanes);
  __m256i sums[2] = {_mm256_load_si256(at), _mm256_load_si256(at + 1)};
  for (; blocks; --blocks) {
    for (uint64_t stripe = 0; stripe < kBlockStripes; ++stripe, data += kStripeBytes) {
      for (int half = 0; half < 2; ++half) {
        const uint8_t* secret = kSecret + 8 * stripe + 32 * half;
        const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + 32 * half));
        const __m256i values =
            _mm256_xor_si256(words, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(secret)));
        const __m256i products = _mm256_mul_epu32(values, _mm256_srli_epi64(values, 32));
        const __m256i swapped = _mm256_shuffle_epi32(words, _MM_SHUFFLE(1, 0, 3, 2));
        sums[half] = _mm256_add_epi64(sums[half], _mm256_add_epi64(products, swapped));
      }
    }
    for (int half = 0; half < 2; ++half) {
      const uint8_t* last = kSecret + kSecretBytes - kStripeBytes + 32 * half;
      __m256i values = _mm256_xor_si256(sums[half], _mm256_srli_epi64(sums[half], 47));
      values = _mm256_xor_si256(values, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(last)));
      const __m256i high = _mm256_mul_epu32(_mm256_srli_epi64(values, 32), prime);
      sums[half] = _mm256_add_epi64(_mm256_mul_epu32(values, prime), _mm256_slli_epi64(high, 32));
    }
  }
  _mm256_store_si256(at, sums[0]);
  _mm256_store_si256(at + 1, sums[1]);
}

const auto kBlocks = __builtin_cpu_supports("avx2") ? BlocksAvx2 : Blocks;
#else
const auto kBlocks = Blocks;
#endif

uint64_t HashLong(const uint8_t* data, uint64_t bytes) {
  alignas(32) uint64_t lanes[8] = {kPrime32[2], kPrime64[0], kPrime64[1], kPrime64[2],
                                   kPrime64[3], kPrime32[1], kPrime64[4], kPrime32[0]};
  const uint64_t blocks = (bytes - 1) / (kBlockStripes * kStripeBytes);
  kBlocks(lanes, data, blocks);
  const uint64_t done = blocks * kBlockStripes * kStripeBytes;
  Accumulate(lanes, data + done, kSecret, (bytes - done - 1) / kStripeBytes);
  Accumulate(lanes, data + bytes - kStripeBytes, kSecret + kSecretBytes - kStripeBytes - 7, 1);
  uint64_t hash = bytes * kPrime64[0];
  for (int pair = 0; pair < 4; ++pair) {
    const uint8_t* secret = kSecret + 11 + 16 * pair;
    hash += FoldedProduct(lanes[2 * pair] ^ LoadWord(secret), lanes[2 * pair + 1] ^ LoadWord(secret + 8));
  }
  return Avalanche(hash);
}

}  // namespace

uint64_t Xxh3(const uint8_t* data, uint64_t bytes) {
  return bytes <= 16 ? HashSmall(data, bytes) : bytes <= 240 ? HashMedium(data, bytes) : HashLong(data, bytes);
}

}  // namespace ascend_ext
