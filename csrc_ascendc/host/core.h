// SPDX-License-Identifier: Apache-2.0
// One vector core: its unified buffer, pipes, flags and queues. A core is a thread; `Core::Current()` is its
// state.
#pragma once

#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "clocks.h"
#include "global_memory.h"
#include "violation.h"

namespace ascendc_host {

constexpr uint32_t kUnifiedBufferBytes = 188160;  // 192 KB less what the runtime reserves (256 B and 8 KB)
constexpr int kMaxBuffers = 64, kEventIds = 8, kUserEventIds = 6;
constexpr uint8_t kPoison = 0xA5;

// Counted over all cores of a launch. Read by tests and benchmarks through ctypes: the order is an interface.
struct Statistics {
  uint64_t gm_bytes_read, gm_bytes_written;
  uint64_t copies, small_copies, unaligned_copies;  // DMA copies; below 16 KB; GM address not on 512 B
  uint64_t vector_instructions, vector_repeats;     // a repeat is 256 B of one operand
  uint64_t vector_cycles;                           // vector_cycles.h
  uint64_t scalar_accesses;                         // loads and stores of single values
  // of the core that has most
  uint64_t most_unified_buffer_bytes, most_vector_repeats, most_scalar_accesses, most_copies, most_vector_cycles;
};

// When an instruction runs: at once, or as late as the flags allow. What no flag holds back then runs in the order
// of its pipes: loads first shows what overwrites too early, stores first what reads too early.
enum class Schedule : int32_t { kEager = 0, kLazyLoadsFirst = 1, kLazyStoresFirst = 2 };

// What all cores of a launch share.
struct LaunchState {
  std::string kernel;
  uint32_t num_cores = 0;
  Schedule schedule = Schedule::kEager;
  bool check_order = true;
  bool lazy() const { return schedule != Schedule::kEager; }
  std::vector<GmExtent> extents;
  std::mutex atomic_add;  // one atomic copy at a time
};

struct Event {
  Clock clock{};
  Pipe source{};
  uint64_t marker = 0;  // the source pipe's marker to run up to (lazy schedule)
  Here here{};
};

enum class BufferState : uint8_t { kFree, kAllocated, kQueued, kTaken };

struct Buffer {
  uint32_t offset, bytes;
  BufferState state = BufferState::kFree;
  uint32_t generation = 0;  // changes with every AllocTensor: old tensors are stale
  bool was_freed = false;
  Event freed;
  Here allocated{};
};

struct Queue {
  Pipe producer, consumer;
  int depth = 0;
  std::vector<Buffer> buffers;
  std::deque<std::pair<int, Event>> queued;
};

enum class AtomicMode : uint8_t { kNone, kAdd };

class Core {
 public:
  Core(LaunchState* launch, int64_t index) : launch_(*launch), index_(index) {}
  Core(const Core&) = delete;

  static Core& Current() { return *current_; }
  static void SetCurrent(Core* core) { current_ = core; }

  LaunchState& launch() { return launch_; }
  int64_t index() const { return index_; }

  // --- unified buffer -----------------------------------------------------------------------------------------
  uint32_t Reserve(uint32_t bytes, Here here);
  uint8_t* Bytes(uint32_t offset) { return memory_.data() + offset; }
  uint32_t reserved() const { return static_cast<uint32_t>(memory_.size()); }
  void MarkInitialised(uint32_t offset, uint32_t bytes) { std::memset(initialised_.data() + offset, 1, bytes); }
  void Poison(uint32_t offset, uint32_t bytes);
  void RequireInitialised(uint32_t offset, uint32_t bytes, Here here) const;

  // --- instructions -------------------------------------------------------------------------------------------
  Instruction Begin(Pipe pipe, Here here) { return clocks_.Begin(pipe, here); }
  void TouchUb(const Instruction& now, uint32_t offset, uint32_t bytes, bool write) {
    if (launch_.check_order) shadow_.Touch(clocks_, now, offset, bytes, write);
  }
  void TouchGm(const Instruction& now, uintptr_t address, uint64_t bytes, GmAccess access);
  // Runs `work` now (eager) or as late as the flags allow (lazy).
  void Issue(Pipe pipe, std::function<void()> work);

  // --- synchronisation ----------------------------------------------------------------------------------------
  Event Record(Pipe source, Here here);
  void Await(Pipe destination, const Event& event);
  void Barrier(Pipe pipe) { clocks_.Barrier(pipe); }
  void BarrierAll();
  void SetFlag(Pipe source, Pipe destination, int id, Here here);
  void WaitFlag(Pipe source, Pipe destination, int id, Here here);
  int FreeEventId(Pipe source, Pipe destination, bool reserve, Here here);
  void ReleaseEventId(Pipe source, Pipe destination, int id) { flags_[source][destination][id].reserved = false; }
  void CountQueueEvent(Pipe source, Pipe destination, int change, Here here);

  void Finish();  // runs what is pending and checks that nothing is left behind

  std::deque<Queue> queues;
  int num_buffers = 0, num_pipes = 0;
  void* current_pipe = nullptr;  // the TPipe alive
  AtomicMode atomic_mode = AtomicMode::kNone;
  const void* atomic_type = nullptr;  // identity of the type given to SetAtomicAdd
  Here atomic_here{};
  Statistics statistics{};
  GmTrace trace;
  ScalarCache scalar_cache;

 private:
  struct Step {  // of a pipe in the lazy schedule
    enum Kind { kWork, kMarker, kWait } kind;
    std::function<void()> work;
    Pipe source{};
    uint64_t marker = 0;
  };
  struct Flag {
    bool set = false, reserved = false;
    Event event;
  };
  void RunUntil(Pipe pipe, uint64_t marker);
  void RunOne(Pipe pipe);
  void Drain();

  static thread_local Core* current_;
  LaunchState& launch_;
  int64_t index_;
  std::vector<uint8_t> memory_, initialised_;
  PipeClocks clocks_;
  BlockShadow shadow_;
  std::array<std::deque<Step>, kNumPipes> pending_;
  std::array<uint64_t, kNumPipes> markers_{}, reached_{};
  Flag flags_[kNumPipes][kNumPipes][kEventIds]{};
  int queue_events_[kNumPipes][kNumPipes]{};
};

}  // namespace ascendc_host
