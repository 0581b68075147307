// SPDX-License-Identifier: Apache-2.0
// One end of a ring, and the frames in it, without Python's API: whatever is unusual (a full ring, anything wrong)
// is left to the Python code, and tests compare the two. mtp_output/frames/frame.py defines the layout of a frame,
// mtp_output/ring/file.py the layout of the ring.
#pragma once

#include <cstdint>

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

// One end of a ring.
struct End {
  uint64_t* words;
  uint8_t* frames;
  State* state;
  // copies of the ring's header from the opening: what other processes store there later changes no limit
  uint64_t instance;
  uint64_t replica;
  uint64_t capacity;
  uint64_t num_descriptors;
  uint64_t max_frame_bytes;
  uint64_t roster_bytes;
};

constexpr uint64_t kDescriptorsAt = 4096 / 8;
constexpr uint64_t kHeaderBytes = 64, kSectionBytes = 8, kTrailerBytes = 8;
constexpr int kMaxSections = 3;  // of a roster, the target and the draft

// The fields of a frame that its reader gets.
struct Stamp {
  uint64_t step;
  uint64_t sequence;
  uint64_t sent_ns;
  uint64_t roster_sequence;
};

struct SectionPlace {
  uint16_t kind;
  uint32_t bytes;
  const uint8_t* body;
};

// A frame in the ring that is whole.
struct WholeFrame {
  Stamp stamp;
  int num_sections;
  SectionPlace sections[kMaxSections];
};

enum class Outcome { kRead, kNothing, kNoFastPath };

// Returns where a frame of up to `bound` bytes may be written, and its position; NULL when there is no room now.
uint8_t* Reserve(const End& end, uint64_t bound, uint64_t* position);

// Writes the head of a section; returns where its body begins.
uint8_t* WriteSectionHead(uint8_t* at, uint16_t kind, uint64_t bytes);

// Writes header and checksum of the frame at `frame` whose sections end at `stop`, and publishes it.
void Send(const End& end, uint8_t* frame, uint8_t* stop, uint64_t position, uint64_t step, uint16_t num_sections,
          uint64_t roster_sequence);

// Gives the frames before `state.sequence` back to the writer.
void Acknowledge(const End& end);

// Finds the next frame. `state.sequence` stays.
Outcome FindFrame(const End& end, WholeFrame* found);

// Sleeps until the next frame is published, for `timeout_ns` at most; may return early.
void AwaitFrame(const End& end, uint64_t timeout_ns);

// A place for a roster that a reader keeps: returns where its `bytes` belong, in the one of the two places in
// `rosters` that may be overwritten; `FinishRoster` makes it valid.
uint8_t* BeginRoster(const End& end, uint8_t* rosters);
void FinishRoster(uint8_t* text, uint64_t bytes, uint64_t sequence);
// Returns the bytes of one such place.
uint64_t RosterPlaceBytes(const End& end);

// Stores with release order, then fences fully: the loads that follow see what the other end stored before.
void Store(uint64_t* word, uint64_t value);

// Stores the value and wakes the other end if that waits for the value.
void Publish(uint64_t* word, uint64_t value, const uint64_t* waits);

uint64_t MonotonicNs();

}  // namespace ascend_ext
