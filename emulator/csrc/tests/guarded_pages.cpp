// SPDX-License-Identifier: Apache-2.0
// Test of the guards on pinned memory alone: what a program may touch while copies are pending, and the ways in
// which one instruction, other threads, a forked child and other fault handlers can get between.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "memory/memory.h"
#include "races/host_guard.h"
#include "races/report.h"

namespace {

using emu::Range;
using emu::races::ActingClock;
using emu::races::Clock;
using emu::races::DropGuards;
using emu::races::GuardPinned;
using emu::races::NumReports;
using emu::races::Operation;
using emu::races::ReleaseGuards;

constexpr size_t kPage = 4096;
constexpr size_t kSize = 3 * kPage;

char* pinned = nullptr;
volatile int sink = 0;

void Read(size_t at) { sink = sink + *const_cast<volatile char*>(pinned + at); }
void Write(size_t at) { *const_cast<volatile char*>(pinned + at) = 1; }

Range Bytes(size_t begin, size_t end) {
  const auto base = reinterpret_cast<uintptr_t>(pinned);
  return {base + begin, base + end};
}

void Guard(size_t begin, size_t end, bool task_writes, emu::races::StreamId stream, uint64_t index) {
  Operation operation;
  operation.name = task_writes ? "copy device to host" : "copy host to device";
  operation.stream = "stream " + std::to_string(stream);
  operation.stream_id = stream;
  operation.index = index;
  GuardPinned(Bytes(begin, end), task_writes, std::make_shared<const Operation>(operation));
}

void HostSaw(emu::races::StreamId stream, uint64_t index) {
  Clock host;
  host.Set(stream, index);
  ReleaseGuards(host);
}

// Reports since the last call must be `expected`.
void Expect(uint64_t expected, const char* what) {
  if (NumReports() != expected) {
    std::printf("%s: %llu reports instead of %llu\n", what, static_cast<unsigned long long>(NumReports()),
                static_cast<unsigned long long>(expected));
    std::fflush(stdout);
    std::_Exit(1);
  }
  emu::races::ClearReports();
}

void PendingWrite() {
  char copy[kPage] = {};
  Guard(100, 200, true, 1, 1);
  Read(50);
  Write(60);
  Read(200);
  std::memcpy(copy, pinned + 200, kPage - 200);
  std::memcpy(pinned + 300, copy, 1500);
#if defined(__x86_64__)
  const char* from = pinned + 200;
  char* to = copy;
  size_t count = 2000;
  asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count) : : "memory");
#endif
  Expect(0, "beside a pending write");
  std::memcpy(copy, pinned, kPage);
  Expect(1, "reading through a pending write");
  Read(150);
  Expect(0, "reported once");
  Guard(100, 200, true, 1, 2);
  Guard(100, 200, true, 1, 3);
  HostSaw(1, 2);
  Write(150);
  Expect(1, "the later of two copies is pending");
  Guard(100, 200, true, 1, 4);
  HostSaw(1, 4);
  Read(150);
  Expect(0, "after the wait");
}

void PendingRead() {
  Guard(0, 2 * kPage, false, 2, 1);
  Read(10);
  Expect(0, "reading what a copy reads");
  Write(10);
  Expect(1, "writing what a copy reads");
  Guard(0, 2 * kPage, false, 2, 2);
  Guard(kPage - 96, kPage + 4, true, 3, 1);
  Read(10);
  Read(2 * kPage - 1);
  HostSaw(2, 2);
  Write(10);
  Write(2 * kPage - 1);
  Expect(0, "beside a narrower guard that stays");
  Read(kPage);
  Expect(1, "the narrower guard");
}

void OneInstructionTwoPages() {
  Guard(kPage - 16, kPage - 6, true, 1, 10);
  Guard(kPage + 14, kPage + 16, true, 1, 11);
  long value = 0;
  std::memcpy(&value, pinned + kPage - 4, sizeof(value));
  sink = sink + static_cast<int>(value);
  Expect(0, "across two pages");
  Clock clock;
  clock.Set(1, 10);
  {
    const ActingClock acting(clock);
    Read(kPage - 10);
    Expect(0, "a host function after the copy");
    Read(kPage + 15);
    Expect(1, "a host function before the copy");
  }
  Read(kPage - 10);
  Expect(1, "the program itself");
  DropGuards(Bytes(0, kSize));
}

void Threads() {
  Guard(100, 200, true, 1, 12);
  std::thread reader([] {
    for (size_t i = 0; i < 5000; ++i) Read(300 + i % 100);
  });
  std::thread writer([] {
    for (size_t i = 0; i < 5000; ++i) Write(500 + i % 100);
  });
  for (uint64_t i = 20; i < 200; ++i) {
    Guard(1000, 1100, true, 2, i);
    HostSaw(2, i);
  }
  reader.join();
  writer.join();
  Expect(0, "threads beside guards that come and go");
}

void ForkedChild() {
  const pid_t child = fork();
  if (child == 0) {
    Read(150);
    std::_Exit(NumReports() == 0 ? 0 : 1);
  }
  int status = 1;
  waitpid(child, &status, 0);
  if (status != 0) std::_Exit(1);
  Read(150);
  Expect(1, "the parent of a forked child");
}

// Every second page has a guard of its own: more pieces of memory than a process may have.
void ManyPending() {
  constexpr size_t kGuards = 33000;
  char* few = pinned;
  pinned = static_cast<char*>(emu::AllocatePinned(2 * kGuards * kPage));
  for (size_t i = 0; i < kGuards; ++i) Guard(2 * i * kPage + 100, 2 * i * kPage + 200, true, 4, i + 1);
  for (size_t i = 0; i < kGuards; i += 1000) {
    Read(2 * i * kPage + 50);
    Write((2 * i + 1) * kPage + 50);
  }
  Expect(0, "beside more guards than there are pieces of memory");
  Read(2 * 7000 * kPage + 150);
  Expect(1, "inside one of them");
  HostSaw(4, kGuards);
  Write(150);
  Expect(0, "after the wait for all of them");
  emu::FreePinned(pinned);
  pinned = few;
}

sigjmp_buf recovery;

void OtherHandlers() {
  struct sigaction other = {};
  other.sa_handler = [](int) { siglongjmp(recovery, 1); };
  sigaction(SIGSEGV, &other, nullptr);
  Guard(100, 200, true, 1, 13);
  void* closed = mmap(nullptr, kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 5; ++i) {
    if (sigsetjmp(recovery, 1) == 0) {
      static_cast<volatile char*>(closed)[i] = 1;
      std::_Exit(1);
    }
  }
  Write(250);
  Expect(0, "beside, after other faults");
  Write(150);
  Expect(1, "inside, after other faults");
}

}  // namespace

int main() {
  if (std::freopen("/dev/null", "w", stderr) == nullptr) return 2;  // the reports
  pinned = static_cast<char*>(emu::AllocatePinned(kSize));
  PendingWrite();
  PendingRead();
  OneInstructionTwoPages();
  Threads();
  ForkedChild();
  ManyPending();
  OtherHandlers();
  std::printf("pinned pages are guarded\n");
  return 0;
}
