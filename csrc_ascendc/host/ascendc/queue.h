// SPDX-License-Identifier: Apache-2.0
// AscendC's TPipe, TQue, TQueBind and TBuf.
#pragma once

#include "synchronisation.h"

namespace AscendC {

enum class TPosition : uint8_t { GM, VECIN, VECOUT, VECCALC };
using QuePosition = TPosition;

// A queue of buffers that `source` fills and `destination` empties.
template <TPosition source, TPosition destination, int32_t depth>
class TQueBind {
  static_assert(source == TPosition::GM || source == TPosition::VECIN || source == TPosition::VECOUT,
                "TQueBind: the path is none of GM->VECIN, VECOUT->GM, VECIN->VECOUT");
  static constexpr auto kProducer = source == TPosition::VECOUT ? ascendc_host::kVector : ascendc_host::kMte2;
  static constexpr auto kConsumer = source == TPosition::GM ? ascendc_host::kVector : ascendc_host::kMte3;

 public:
  template <typename T>
  LocalTensor<T> AllocTensor(ASCENDC_HERE) {
    Core& core = Core::Current();
    auto& buffers = Require(here).buffers;
    for (size_t i = 0; i < buffers.size(); ++i) {
      auto& buffer = buffers[(next_ + i) % buffers.size()];
      if (buffer.state != ascendc_host::BufferState::kFree) continue;
      const size_t index = (next_ + i) % buffers.size();
      next_ = index + 1;
      if (buffer.was_freed) {
        core.Await(kProducer, buffer.freed);
        core.CountQueueEvent(kConsumer, kProducer, -1, here);
      }
      buffer.state = ascendc_host::BufferState::kAllocated;
      buffer.was_freed = false;
      buffer.allocated = here;
      ++buffer.generation;
      core.Issue(kProducer, [&core, buffer] { core.Poison(buffer.offset, buffer.bytes); });
      return LocalTensor<T>(buffer.offset, buffer.bytes, queue_, static_cast<int>(index));
    }
    ascendc_host::Fail("queue-capacity", here,
                       Text("allocates a tensor while all %zu of the queue are in use", buffers.size()));
  }

  template <typename T>
  bool EnQue(const LocalTensor<T>& tensor, ASCENDC_HERE) {
    auto& buffer = Own(tensor, here);
    if (buffer.state != ascendc_host::BufferState::kAllocated) {
      ascendc_host::Fail("queue-order", here, "EnQue of a tensor that AllocTensor has not just given");
    }
    if (static_cast<int>(queue_->queued.size()) >= depth) {
      ascendc_host::Fail("queue-depth", here, Text("EnQue beyond the queue's depth of %d", depth));
    }
    Core& core = Core::Current();
    buffer.state = ascendc_host::BufferState::kQueued;
    core.CountQueueEvent(kProducer, kConsumer, 1, here);
    queue_->queued.emplace_back(tensor.buffer(), core.Record(kProducer, here));
    return true;
  }

  template <typename T>
  LocalTensor<T> DeQue(ASCENDC_HERE) {
    auto& queue = Require(here);
    if (queue.queued.empty()) ascendc_host::Fail("queue-empty", here, "DeQue from an empty queue");
    const auto [index, event] = queue.queued.front();
    queue.queued.pop_front();
    auto& buffer = queue.buffers[index];
    buffer.state = ascendc_host::BufferState::kTaken;
    Core::Current().Await(kConsumer, event);
    Core::Current().CountQueueEvent(kProducer, kConsumer, -1, here);
    return LocalTensor<T>(buffer.offset, buffer.bytes, queue_, index);
  }

  template <typename T>
  void FreeTensor(const LocalTensor<T>& tensor, ASCENDC_HERE) {
    auto& buffer = Own(tensor, here);
    if (buffer.state == ascendc_host::BufferState::kFree || buffer.state == ascendc_host::BufferState::kQueued) {
      ascendc_host::Fail("queue-order", here, "FreeTensor of a tensor that is free already or still in the queue");
    }
    Core& core = Core::Current();
    core.CountQueueEvent(kConsumer, kProducer, 1, here);
    buffer.freed = core.Record(kConsumer, here);
    buffer.was_freed = true;
    buffer.state = ascendc_host::BufferState::kFree;
  }

  // For TPipe::InitBuffer.
  void Initialise(ascendc_host::Queue* queue) {
    queue_ = queue;
    queue_->producer = kProducer;
    queue_->consumer = kConsumer;
    queue_->depth = depth;
  }
  bool initialised() const { return queue_ != nullptr; }

 private:
  ascendc_host::Queue& Require(Here here) const {
    if (queue_ == nullptr) ascendc_host::Fail("queue-order", here, "a queue without InitBuffer");
    return *queue_;
  }

  template <typename T>
  ascendc_host::Buffer& Own(const LocalTensor<T>& tensor, Here here) const {
    Require(here);
    if (tensor.queue() != queue_) ascendc_host::Fail("queue-order", here, "a tensor of another queue");
    return queue_->buffers[tensor.buffer()];
  }

  ascendc_host::Queue* queue_ = nullptr;
  size_t next_ = 0;
};

template <TPosition position, int32_t depth>
class TQue : public TQueBind<position == TPosition::VECIN ? TPosition::GM : position,
                             position == TPosition::VECIN ? TPosition::VECIN : TPosition::GM, depth> {
  static_assert(position == TPosition::VECIN || position == TPosition::VECOUT,
                "TQue: the emulation knows VECIN and VECOUT");
};

template <TPosition position = TPosition::VECCALC>
class TBuf {
 public:
  template <typename T>
  LocalTensor<T> Get(ASCENDC_HERE) const {
    if (bytes_ == 0) ascendc_host::Fail("queue-order", here, "a TBuf without InitBuffer");
    return LocalTensor<T>(offset_, bytes_, nullptr, 0);
  }
  void Initialise(uint32_t offset, uint32_t bytes) {
    offset_ = offset;
    bytes_ = bytes;
  }

 private:
  uint32_t offset_ = 0, bytes_ = 0;
};

class TPipe {
 public:
  TPipe(ASCENDC_HERE) {
    if (++Core::Current().num_pipes > 1) {
      --Core::Current().num_pipes;
      ascendc_host::Fail("pipe-count", here, "a second TPipe while one is alive");
    }
    Core::Current().current_pipe = this;
  }
  ~TPipe() { --Core::Current().num_pipes; }
  TPipe(const TPipe&) = delete;

  template <TPosition source, TPosition destination, int32_t depth>
  bool InitBuffer(TQueBind<source, destination, depth>& queue, uint8_t num, uint32_t len, ASCENDC_HERE) {
    Core& core = Core::Current();
    if (queue.initialised()) ascendc_host::Fail("queue-order", here, "InitBuffer of a queue that has buffers");
    if (num == 0) ascendc_host::Fail("queue-capacity", here, "InitBuffer with no buffer");
    core.queues.emplace_back();
    queue.Initialise(&core.queues.back());
    for (int i = 0; i < num; ++i) core.queues.back().buffers.push_back(Reserve(core, len, here));
    return true;
  }

  template <TPosition position>
  bool InitBuffer(TBuf<position>& buffer, uint32_t len, ASCENDC_HERE) {
    const auto reserved = Reserve(Core::Current(), len, here);
    buffer.Initialise(reserved.offset, reserved.bytes);
    return true;
  }

  TEventID FetchEventID(HardEvent event, ASCENDC_HERE) { return EventId(event, false, here); }
  template <HardEvent event>
  TEventID AllocEventID(ASCENDC_HERE) {
    return EventId(event, true, here);
  }
  template <HardEvent event>
  void ReleaseEventID(TEventID id) {
    Core::Current().ReleaseEventId(SourceOf(event), DestinationOf(event), id);
  }

 private:
  static ascendc_host::Buffer Reserve(Core& core, uint32_t len, Here here) {
    if (++core.num_buffers > ascendc_host::kMaxBuffers) {
      ascendc_host::Fail("buffer-count", here,
                         Text("more than %d buffers in one kernel", ascendc_host::kMaxBuffers));
    }
    const uint32_t bytes = (len + ascendc_host::kBlock - 1) / ascendc_host::kBlock * ascendc_host::kBlock;
    if (bytes == 0) ascendc_host::Fail("ub-capacity", here, "a buffer of no bytes");
    ascendc_host::Buffer buffer{};
    buffer.offset = core.Reserve(bytes, here);
    buffer.bytes = bytes;
    return buffer;
  }
  static TEventID EventId(HardEvent event, bool reserve, Here here) {
    return static_cast<TEventID>(
        Core::Current().FreeEventId(SourceOf(event), DestinationOf(event), reserve, here));
  }
};

inline TPipe* GetTPipePtr() { return static_cast<TPipe*>(Core::Current().current_pipe); }

}  // namespace AscendC
