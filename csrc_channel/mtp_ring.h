// SPDX-License-Identifier: Apache-2.0
// The fast path of vllm_ascend_ext/mtp_output: sends and receives a frame whose request ids and shapes equal those
// of the frame before, while the ring has room and nothing is wrong. Every other frame is left to the Python code,
// and tests compare the two. This file does not use Python's API. mtp_output/frames/frame.py defines the layout of
// a frame, mtp_output/ring/file.py the layout of the ring.
#pragma once

#include <cstdint>

#include "mtp_rows.h"

namespace ascend_ext {

// The words that Python reads and writes, too: `State` in mtp_output/ring/end_state.py.
struct State {
  uint64_t sequence;  // of the next frame
  uint64_t head;      // position at which the writer puts the next frame
  uint64_t num_sent;
  uint64_t bytes_sent;
  uint64_t send_ns;
  uint64_t waited_ns;  // by the last receive that returned no frame
};
constexpr uint64_t kStateWords = sizeof(State) / 8;

// The next frame as the fast path expects it: like the frame before.
struct Expected {
  uint64_t roster_sequence = 0;
  Shape shapes[2] = {};  // of the target and of the draft; a draft shape of 0 slots stands for no draft
  uint64_t bound = 0;    // longest possible frame, in bytes
};

// One end of a ring.
struct End {
  uint64_t* words;
  uint8_t* frames;
  State* state;
  Expected expected;
  // copies of the ring's header from the opening: what other processes store there later changes no limit
  uint64_t instance;
  uint64_t replica;
  uint64_t capacity;
  uint64_t num_descriptors;
  uint64_t max_frame_bytes;
};

// The fields of a frame's header that the receiver's caller gets.
struct Stamp {
  uint64_t step;
  uint64_t sequence;
  uint64_t sent_ns;
};

enum class Outcome { kRead, kNothing, kNoFastPath };

constexpr uint64_t kDescriptorsAt = 4096 / 8;

// Sends a frame of records of the expected shapes. Returns false, having changed nothing, when the frame has no
// fast path.
bool Send(const End& end, uint64_t step, const int32_t* const records[2]);

// Gives the frames before `state.sequence` back to the writer.
void Acknowledge(const End& end);

// Reads the next frame into the records. `state.sequence` stays. The records are undefined after kNoFastPath.
Outcome Receive(const End& end, int32_t* const records[2], Stamp* stamp);

// Sleeps until the next frame is published, for `timeout_ns` at most; may return early.
void AwaitFrame(const End& end, uint64_t timeout_ns);

// Stores with release order, then fences fully: the loads that follow see what the other end stored before.
void Store(uint64_t* word, uint64_t value);

// Stores the value and wakes the other end if that waits for the value.
void Publish(uint64_t* word, uint64_t value, const uint64_t* waits);

uint64_t MonotonicNs();

}  // namespace ascend_ext
