// SPDX-License-Identifier: Apache-2.0
// Test of the guards at the level of bytes: instructions of every width, at every place before, in and behind a
// short guarded range, are reported exactly when they touch it.
//   guarded_bytes ACCESSES SEED
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "memory/memory.h"
#include "races/host_guard.h"
#include "races/report.h"

namespace {

using emu::Range;

constexpr size_t kPage = 4096;
constexpr size_t kSize = 2 * kPage;

char* pinned = nullptr;
char other[kSize];

struct Bytes {
  size_t begin;
  size_t end;
};

void Guard(Bytes bytes, bool task_writes, uint64_t index) {
  emu::races::Operation operation;
  operation.name = "copy " + std::to_string(index);
  operation.stream = "stream 1";
  operation.stream_id = 1;
  operation.index = index;
  const auto base = reinterpret_cast<uintptr_t>(pinned);
  emu::races::GuardPinned({base + bytes.begin, base + bytes.end}, task_writes,
                          std::make_shared<const emu::races::Operation>(operation));
}

template <typename Value>
void Load(size_t at) {
  Value value;
  std::memcpy(&value, pinned + at, sizeof value);
  std::memcpy(other, &value, sizeof value);
}

// One access of `kind`: which bytes it touches, and whether it writes them.
struct Access {
  void (*run)(size_t at, size_t count);
  bool writes;
  size_t least;
  size_t most;
};

#if defined(__x86_64__)
__attribute__((target("avx"))) void LoadYmm(size_t at, size_t) {
  const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pinned + at));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(other), value);
}
__attribute__((target("avx"))) void StoreYmm(size_t at, size_t) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(pinned + at), _mm256_setzero_si256());
}
__attribute__((target("avx2"))) __m256i FirstInts(size_t count) {
  const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count / 4)), places);
}
__attribute__((target("avx2"))) void MaskedLoad(size_t at, size_t count) {
  const auto value = _mm256_maskload_epi32(reinterpret_cast<const int*>(pinned + at), FirstInts(count));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(other), value);
}
__attribute__((target("avx2"))) void MaskedStore(size_t at, size_t count) {
  _mm256_maskstore_epi32(reinterpret_cast<int*>(pinned + at), FirstInts(count), _mm256_setzero_si256());
}
__attribute__((target("avx2"))) void WidenedLoad(size_t at, size_t) {
  const __m256i value = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(pinned + at)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(other), value);
}
void RepeatedLoad(size_t at, size_t count) {
  const char* from = pinned + at;
  char* to = other;
  asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count) : : "memory");
}
void RepeatedStore(size_t at, size_t count) {
  char* to = pinned + at;
  asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(0) : "memory");
}
#endif

const Access kAccesses[] = {
    {[](size_t at, size_t) { Load<char>(at); }, false, 1, 1},
    {[](size_t at, size_t) { Load<short>(at); }, false, 2, 2},
    {[](size_t at, size_t) { Load<int>(at); }, false, 4, 4},
    {[](size_t at, size_t) { Load<long>(at); }, false, 8, 8},
    {[](size_t at, size_t) { *reinterpret_cast<volatile char*>(pinned + at) = 1; }, true, 1, 1},
    {[](size_t at, size_t) { *reinterpret_cast<volatile int*>(pinned + at) = 1; }, true, 4, 4},
    {[](size_t at, size_t) { *reinterpret_cast<volatile long*>(pinned + at) = 1; }, true, 8, 8},
    {[](size_t at, size_t count) { std::memcpy(other, pinned + at, count); }, false, 1, 300},
    {[](size_t at, size_t count) { std::memmove(pinned + at, other, count); }, true, 1, 300},
    {[](size_t at, size_t count) { std::memset(pinned + at, 0, count); }, true, 1, 300},
#if defined(__x86_64__)
    {LoadYmm, false, 32, 32},
    {StoreYmm, true, 32, 32},
    {MaskedLoad, false, 4, 28},
    {MaskedStore, true, 4, 28},
    {WidenedLoad, false, 8, 8},
    {RepeatedLoad, false, 1, 60},
    {RepeatedStore, true, 1, 60},
#endif
};

}  // namespace

int main(int argc, char** argv) {
  const uint64_t num_accesses = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 10000;
  std::mt19937_64 random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  const auto pick = [&](size_t least, size_t most) { return least + random() % (most - least + 1); };
  if (std::freopen("/dev/null", "w", stderr) == nullptr) return 2;  // the reports
  pinned = static_cast<char*>(emu::AllocatePinned(kSize));
  size_t num_kinds = std::size(kAccesses);
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2")) num_kinds = 10;
#endif
  for (uint64_t i = 1; i <= num_accesses; ++i) {
    const size_t kind = pick(0, num_kinds - 1);
    const Access& access = kAccesses[kind];
    const bool task_writes = pick(0, 2) != 0;
    const size_t begin = pick(0, 3) == 0 ? kPage - pick(0, 40) : pick(400, kSize - 500);
    const Bytes guarded{begin, begin + pick(1, 32)};
    size_t count = pick(access.least, access.most);
    if (access.most == 28) count = count / 4 * 4;  // masked in elements of 4 bytes
    const size_t at = begin + pick(0, 350) - 310;
    const bool overlap = at < guarded.end && guarded.begin < at + count;
    const uint64_t expected = overlap && (task_writes || access.writes) ? 1 : 0;
    Guard(guarded, task_writes, i);
    access.run(at, count);
    const uint64_t found = emu::races::NumReports();
    const auto base = reinterpret_cast<uintptr_t>(pinned);
    emu::races::DropGuards({base, base + kSize});
    emu::races::ClearReports();
    if (found == expected) continue;
    std::printf("access %llu of kind %zu, bytes [%zu, %zu), guard [%zu, %zu)%s: %llu reports instead of %llu\n",
                static_cast<unsigned long long>(i), kind, at, at + count, guarded.begin, guarded.end,
                task_writes ? " being written" : "", static_cast<unsigned long long>(found),
                static_cast<unsigned long long>(expected));
    std::fflush(stdout);
    std::_Exit(1);
  }
  std::printf("%llu accesses are told apart by their bytes\n", static_cast<unsigned long long>(num_accesses));
  return 0;
}
