// SPDX-License-Identifier: Apache-2.0
#include "hccl/segment.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <utility>

#include "core/failure.h"

namespace emu::hccl {
namespace {

constexpr uint64_t kReady = 0x6c6363682d756d65;
constexpr const char* kPrefix = "ascend-hccl.";

constexpr size_t RoundUp(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }
constexpr size_t kHeaderBytes = RoundUp(sizeof(Header));
constexpr size_t kBlockBytes = RoundUp(sizeof(RankBlock));
constexpr size_t kChannelBytes = RoundUp(sizeof(Channel));

size_t BytesFor(size_t num_ranks) {
  return kHeaderBytes + num_ranks * kBlockBytes + num_ranks * num_ranks * kChannelBytes;
}

[[noreturn]] void ThrowErrno(const std::string& what) {
  throw Error(kDeviceError, "HCCL: " + what + ": " + std::strerror(errno));
}

// The start time in ticks since boot and the state letter; false when there is no such process.
bool ReadStat(int32_t pid, uint64_t* start_time, char* state) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(file, line)) {
    return false;
  }
  const size_t end = line.rfind(')');  // the name in parentheses may hold anything
  if (end == std::string::npos) {
    return false;
  }
  std::istringstream fields(line.substr(end + 1));
  std::string field;
  constexpr int kStartTime = 22;  // proc(5) counts fields from 1; the state is field 3
  fields >> *state;
  for (int i = 4; i <= kStartTime; ++i) {
    fields >> field;
  }
  *start_time = std::stoull(field);
  return true;
}

uint64_t PidNamespace() {
  struct stat status;
  return stat("/proc/self/ns/pid", &status) == 0 ? status.st_ino : 0;
}

void* Map(int file, size_t bytes) {
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  const int error = errno;
  close(file);
  errno = error;
  if (base == MAP_FAILED) {
    ThrowErrno("mapping a communicator's shared memory");
  }
  return base;
}

}  // namespace

ProcessId ThisProcess() {
  ProcessId process;
  char state;
  process.pid = getpid();
  if (!ReadStat(process.pid, &process.start_time, &state)) {
    throw Error(kDeviceError, "HCCL: /proc is not mounted");
  }
  return process;
}

bool IsAlive(const ProcessId& process) {
  uint64_t start_time;
  char state;
  return ReadStat(process.pid, &start_time, &state) && start_time == process.start_time && state != 'Z' &&
         state != 'X';
}

SegmentName NewSegmentName() {
  std::random_device random;
  return NameSegment(ThisProcess(), uint64_t{random()} << 32 | random());
}

SegmentName NameSegment(const ProcessId& creator, uint64_t unique) {
  SegmentName name{};
  name.creator = creator;
  std::snprintf(name.text, sizeof(name.text), "/%s%llu.%d.%llu.%016llx", kPrefix,
                static_cast<unsigned long long>(PidNamespace()), creator.pid,
                static_cast<unsigned long long>(creator.start_time), static_cast<unsigned long long>(unique));
  return name;
}

void RemoveOrphans() {
  const uint64_t mine = PidNamespace();
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm", error)) {
    const std::string name = entry.path().filename();
    unsigned long long pid_namespace;
    unsigned long long start_time;
    ProcessId creator;
    const std::string format = std::string(kPrefix) + "%llu.%d.%llu.";
    if (std::sscanf(name.c_str(), format.c_str(), &pid_namespace, &creator.pid, &start_time) != 3) {
      continue;
    }
    creator.start_time = start_time;
    if (pid_namespace == mine && !IsAlive(creator)) {
      shm_unlink(("/" + name).c_str());
    }
  }
}

Segment::Segment(void* base, size_t bytes) : base_(base), bytes_(bytes) {}

Segment::Segment(Segment&& other) noexcept { *this = std::move(other); }

Segment& Segment::operator=(Segment&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Segment::~Segment() {
  if (base_ != nullptr) {
    munmap(base_, bytes_);
  }
}

Segment Segment::Create(const std::string& name, int num_ranks) {
  RemoveOrphans();
  const size_t bytes = BytesFor(num_ranks);
  const int file = shm_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  if (file < 0) {
    ThrowErrno("creating shared memory " + name);
  }
  if (ftruncate(file, static_cast<off_t>(bytes)) != 0) {  // pages come with their first use
    close(file);
    shm_unlink(name.c_str());
    ThrowErrno("sizing shared memory " + name);
  }
  Segment segment(Map(file, bytes), bytes);
  segment.header().num_ranks = static_cast<uint32_t>(num_ranks);
  segment.header().ready.store(kReady, std::memory_order_release);
  return segment;
}

bool Segment::TryOpen(const std::string& name, Segment* segment) {
  const int file = shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0);
  if (file < 0) {
    if (errno == ENOENT) {
      return false;
    }
    ThrowErrno("opening shared memory " + name);
  }
  struct stat status;
  if (fstat(file, &status) != 0 || static_cast<size_t>(status.st_size) < kHeaderBytes) {
    close(file);  // just created
    return false;
  }
  const size_t bytes = static_cast<size_t>(status.st_size);
  Segment opened(Map(file, bytes), bytes);
  if (opened.header().ready.load(std::memory_order_acquire) != kReady) {
    return false;
  }
  *segment = std::move(opened);
  return true;
}

void Segment::Unlink(const std::string& name) { shm_unlink(name.c_str()); }

RankBlock& Segment::rank(int rank) const {
  return *reinterpret_cast<RankBlock*>(static_cast<char*>(base_) + kHeaderBytes + rank * kBlockBytes);
}

Channel& Segment::channel(int source, int destination) const {
  const size_t num_ranks = header().num_ranks;
  const size_t index = static_cast<size_t>(source) * num_ranks + static_cast<size_t>(destination);
  char* channels = static_cast<char*>(base_) + kHeaderBytes + num_ranks * kBlockBytes;
  return *reinterpret_cast<Channel*>(channels + index * kChannelBytes);
}

void Segment::Ring() const {
  Header& shared = header();
  shared.bell.fetch_add(1);
  if (shared.sleepers.load() != 0) {
    syscall(SYS_futex, &shared.bell, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  }
}

uint32_t Segment::Listen() const { return header().bell.load(); }

void Segment::Sleep(uint32_t heard, int milliseconds) const {
  Header& shared = header();
  const timespec timeout{milliseconds / 1000, (milliseconds % 1000) * 1000000L};
  shared.sleepers.fetch_add(1);
  syscall(SYS_futex, &shared.bell, FUTEX_WAIT, heard, &timeout, nullptr, 0);
  shared.sleepers.fetch_sub(1);
}

}  // namespace emu::hccl
