// SPDX-License-Identifier: Apache-2.0
#include "memory/pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "core/failure.h"
#include "core/settings.h"

namespace emu {
namespace {

constexpr int kPoison = 0xff;  // NaN in every floating point type, -1 in integers
constexpr size_t kPoisonBytes = 16u << 20;

// A file of poison; private mappings of it are fresh memory that takes no pages until it is written.
int PoisonFile() {
  static const int file = [] {
    const int created = memfd_create("emulator_poison", MFD_CLOEXEC);
    if (created < 0 || ftruncate(created, kPoisonBytes) != 0) Fatal("cannot create the poison pages");
    void* view = mmap(nullptr, kPoisonBytes, PROT_READ | PROT_WRITE, MAP_SHARED, created, 0);
    if (view == MAP_FAILED) Fatal("cannot map the poison pages");
    std::memset(view, kPoison, kPoisonBytes);
    munmap(view, kPoisonBytes);
    return created;
  }();
  return file;
}

void* Map(void* address, size_t bytes, int protection, int flags, int file) {
  if (address != nullptr) flags |= MAP_FIXED;
  void* mapped = mmap(address, bytes, protection, MAP_PRIVATE | MAP_NORESERVE | flags, file, 0);
  if (mapped == MAP_FAILED) {
    throw Error(kMemoryAllocation,
                "EL0004: Failed to allocate " + std::to_string(bytes) + " bytes of host memory");
  }
  return mapped;
}

}  // namespace

size_t PageSize() {
  static const auto size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

size_t WholePages(size_t bytes) { return (bytes + PageSize() - 1) & ~(PageSize() - 1); }

void* MapFresh(void* address, size_t bytes) {
  if (!GetSettings().poison) return Map(address, bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS, -1);
  char* begin = static_cast<char*>(address != nullptr ? address : MapNothing(nullptr, bytes));
  for (size_t done = 0; done < bytes; done += kPoisonBytes) {
    Map(begin + done, std::min(kPoisonBytes, bytes - done), PROT_READ | PROT_WRITE, 0, PoisonFile());
  }
  return begin;
}

void* MapNothing(void* address, size_t bytes) { return Map(address, bytes, PROT_NONE, MAP_ANONYMOUS, -1); }

void UnmapPages(void* address, size_t bytes) { munmap(address, bytes); }

}  // namespace emu
