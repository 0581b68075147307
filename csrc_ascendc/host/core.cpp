// SPDX-License-Identifier: Apache-2.0
#include "core.h"

#include <cstring>

namespace ascendc_host {

thread_local Core* Core::current_ = nullptr;

uint32_t Core::Reserve(uint32_t bytes, Here here) {
  const uint32_t offset = reserved();
  if (static_cast<uint64_t>(offset) + bytes > kUnifiedBufferBytes) {
    Fail("ub-capacity", here,
         Text("the unified buffer has %u bytes; %u are taken and %u more asked for", kUnifiedBufferBytes, offset,
              bytes));
  }
  memory_.resize(offset + bytes, kPoison);
  initialised_.resize(offset + bytes, 0);
  shadow_.Grow(offset + bytes);
  statistics.most_unified_buffer_bytes = reserved();
  return offset;
}

void Core::Poison(uint32_t offset, uint32_t bytes) {
  std::memset(memory_.data() + offset, kPoison, bytes);
  std::memset(initialised_.data() + offset, 0, bytes);
}

void Core::RequireInitialised(uint32_t offset, uint32_t bytes, Here here) const {
  const void* hole = bytes == 0 ? nullptr : std::memchr(initialised_.data() + offset, 0, bytes);
  if (hole == nullptr) return;
  const auto at = static_cast<const uint8_t*>(hole) - initialised_.data() - offset;
  Fail("uninitialised", here,
       Text("reads byte %lld of an operand, which nothing has written", static_cast<long long>(at)));
}

void Core::TouchGm(const Instruction& now, uintptr_t address, uint64_t bytes, GmAccess access) {
  if (bytes == 0) return;
  const bool write = access != GmAccess::kRead;
  const GmExtent* extent = nullptr;
  for (const GmExtent& candidate : launch_.extents) {
    const auto begin = reinterpret_cast<uintptr_t>(candidate.address);
    if (address < begin || address >= begin + candidate.bytes) continue;
    if (extent == nullptr || (candidate.writable && !extent->writable)) extent = &candidate;
  }
  if (extent == nullptr) {
    Fail("gm-bounds", now.here,
         Text("%s %llu bytes of global memory outside every argument of the launch", write ? "writes" : "reads",
              static_cast<unsigned long long>(bytes)));
  }
  const uint64_t offset = address - reinterpret_cast<uintptr_t>(extent->address);
  if (bytes > extent->bytes - offset) {
    Fail("gm-bounds", now.here,
         Text("%s [%llu, %llu) of an argument of %llu bytes", write ? "writes" : "reads",
              static_cast<unsigned long long>(offset), static_cast<unsigned long long>(offset + bytes),
              static_cast<unsigned long long>(extent->bytes)));
  }
  if (write && !extent->writable) Fail("gm-read-only", now.here, "writes an input argument");
  (write ? statistics.gm_bytes_written : statistics.gm_bytes_read) += bytes;
  trace.Add(clocks_, launch_.check_order, {address, address + bytes, access, now});
}

void Core::Issue(Pipe pipe, std::function<void()> work) {
  if (launch_.lazy() && pipe != kScalar) {
    pending_[pipe].push_back({Step::kWork, std::move(work)});
  } else {
    work();
  }
}

Event Core::Record(Pipe source, Here here) {
  Event event{clocks_.Completed(source), source, ++markers_[source], here};
  if (launch_.lazy() && source != kScalar) {
    pending_[source].push_back({Step::kMarker, {}, source, event.marker});
  } else {
    reached_[source] = event.marker;
  }
  return event;
}

void Core::Await(Pipe destination, const Event& event) {
  clocks_.Join(destination, event.clock);
  if (!launch_.lazy()) return;
  if (destination == kScalar) {
    RunUntil(event.source, event.marker);
  } else {
    pending_[destination].push_back({Step::kWait, {}, event.source, event.marker});
  }
}

void Core::BarrierAll() {
  Drain();
  clocks_.BarrierAll();
}

void Core::SetFlag(Pipe source, Pipe destination, int id, Here here) {
  if (id < 0 || id >= kUserEventIds) {
    Fail("flag-id", here, Text("event id %d: kernels may use 0 to %d", id, kUserEventIds - 1));
  }
  Flag& flag = flags_[source][destination][id];
  if (flag.set) {
    Fail("flag-doubled", here,
         Text("sets %s_%s %d, which is set already (", kPipeNames[source], kPipeNames[destination], id) +
             Name(flag.event.here) + ")");
  }
  flag.set = true;
  flag.event = Record(source, here);
}

void Core::WaitFlag(Pipe source, Pipe destination, int id, Here here) {
  if (id < 0 || id >= kUserEventIds) {
    Fail("flag-id", here, Text("event id %d: kernels may use 0 to %d", id, kUserEventIds - 1));
  }
  Flag& flag = flags_[source][destination][id];
  if (!flag.set) {
    Fail("flag-unset", here,
         Text("waits for %s_%s %d, which nothing has set: the core would hang", kPipeNames[source],
              kPipeNames[destination], id));
  }
  flag.set = false;
  Await(destination, flag.event);
}

int Core::FreeEventId(Pipe source, Pipe destination, bool reserve, Here here) {
  for (int id = 0; id < kUserEventIds; ++id) {
    Flag& flag = flags_[source][destination][id];
    if (flag.set || flag.reserved) continue;
    flag.reserved = reserve;
    return id;
  }
  Fail("event-ids", here, Text("no event id of %s_%s is left", kPipeNames[source], kPipeNames[destination]));
}

void Core::CountQueueEvent(Pipe source, Pipe destination, int change, Here here) {
  int& live = queue_events_[source][destination];
  live += change;
  if (live > kEventIds) {
    Fail("event-ids", here,
         Text("the queues need more than %d events %s_%s at once", kEventIds, kPipeNames[source],
              kPipeNames[destination]));
  }
}

void Core::RunOne(Pipe pipe) {
  Step step = std::move(pending_[pipe].front());
  pending_[pipe].pop_front();
  if (step.kind == Step::kWait) {
    RunUntil(step.source, step.marker);
  } else if (step.kind == Step::kMarker) {
    reached_[pipe] = step.marker;
  } else {
    step.work();
  }
}

void Core::RunUntil(Pipe pipe, uint64_t marker) {
  while (reached_[pipe] < marker) RunOne(pipe);  // a Set is always issued before its Wait
}

void Core::Drain() {
  const bool loads_first = launch_.schedule == Schedule::kLazyLoadsFirst;
  for (const Pipe pipe : {loads_first ? kMte2 : kMte3, kVector, loads_first ? kMte3 : kMte2}) {
    while (!pending_[pipe].empty()) RunOne(pipe);
  }
}

void Core::Finish() {
  Drain();
  const Here none{launch_.kernel.c_str(), 0};
  for (int s = 0; s < kNumPipes; ++s) {
    for (int d = 0; d < kNumPipes; ++d) {
      for (int id = 0; id < kEventIds; ++id) {
        const Flag& flag = flags_[s][d][id];
        if (!flag.set) continue;
        Fail("flag-unpaired", flag.event.here,
             Text("sets %s_%s %d, and the kernel ends without a wait", kPipeNames[s], kPipeNames[d], id));
      }
    }
  }
  for (const Queue& queue : queues) {
    for (const Buffer& buffer : queue.buffers) {
      if (buffer.state == BufferState::kFree) continue;
      Fail("queue-leak", buffer.allocated, "allocates a tensor that the kernel never frees");
    }
  }
  if (atomic_mode != AtomicMode::kNone) {
    Fail("atomic-left-on", atomic_here, "turns atomic adds on, and the kernel ends without SetAtomicNone");
  }
  if (!scalar_cache.dirty.empty()) {
    Fail("scalar-gm-store", scalar_cache.dirty.begin()->second,
         "stores to global memory from the scalar unit, and DataCacheCleanAndInvalid never follows");
  }
  if (num_pipes != 0) Fail("pipe-count", none, "a TPipe outlives its kernel");
}

}  // namespace ascendc_host
