// SPDX-License-Identifier: Apache-2.0
// The usual case of vllm_ascend_ext/mtp: request ids and shapes are those of the frame before, there is room in
// the ring, and nothing is wrong. Whatever else is the case is left to the code in Python, which this is held to
// by tests. Knows nothing of Python; the layout of frames is in mtp_output/frames/frame.py, the ring's in
// mtp_output/ring/file.py.
#pragma once

#include <cstdint>

#include "mtp_rows.h"

namespace ascend_ext {

// What Python reads and writes as well: `State` in mtp_output/ring/end_state.py.
struct State {
  uint64_t sequence;  // of the next frame
  uint64_t head;      // where it goes; the writer's
  uint64_t num_sent;
  uint64_t bytes_sent;
  uint64_t send_ns;
  uint64_t waited_ns;  // by the last receive that came back with nothing
};
constexpr uint64_t kStateWords = sizeof(State) / 8;

// What the next frame is taken to be like.
struct Usual {
  uint64_t roster_sequence = 0;
  Shape shapes[2] = {};  // of the target and of the draft, which has no slots when there is none
  uint64_t bound = 0;    // bytes that it takes at most
};

// One end of a ring.
struct End {
  uint64_t* words;
  uint8_t* frames;
  State* state;
  Usual usual;
  // the ring's header as it was when the end was opened: what others store there later changes no limit
  uint64_t instance;
  uint64_t replica;
  uint64_t capacity;
  uint64_t num_descriptors;
  uint64_t max_frame_bytes;
};

// What the fields of a frame's header say of it.
struct Stamp {
  uint64_t step;
  uint64_t sequence;
  uint64_t sent_ns;
};

enum class Outcome { kRead, kNothing, kUnusual };

constexpr uint64_t kDescriptorsAt = 4096 / 8;

// Sends a frame of records of the usual shapes. False when it is not usual; nothing has happened then.
bool Send(const End& end, uint64_t step, const int32_t* const records[2]);

// Gives up the frames before `state.sequence`.
void Acknowledge(const End& end);

// Reads the next frame into the records, which are undefined when it is not usual. It stays the next one.
Outcome Receive(const End& end, int32_t* const records[2], Stamp* stamp);

// Sleeps until the next frame is published, for `timeout_ns` at most; may return early.
void AwaitFrame(const End& end, uint64_t timeout_ns);

// A release store and a full fence: what follows looks at the other end after it.
void Store(uint64_t* word, uint64_t value);

// Stores, and wakes the other end if it waits for that.
void Publish(uint64_t* word, uint64_t value, const uint64_t* waits);

uint64_t MonotonicNs();

}  // namespace ascend_ext
