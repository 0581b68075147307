// SPDX-License-Identifier: Apache-2.0
// Which instructions of a core are ordered: vector clocks of its four pipes, and what each 32-byte block of its
// unified buffer was last touched by.
//
// The model, from the public rules: the scalar unit S runs in program order. V, MTE2 and MTE3 run beside it and
// beside each other; inside one of them a later instruction waits for an earlier one only across a PipeBarrier.
// SetFlag waits for everything before it on its source pipe; WaitFlag holds back everything after it on its
// destination pipe. Issue order alone orders nothing.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "violation.h"

namespace ascendc_host {

enum Pipe : uint8_t { kScalar, kVector, kMte2, kMte3, kNumPipes };
inline const char* const kPipeNames[] = {"S", "V", "MTE2", "MTE3"};

using Clock = std::array<uint32_t, kNumPipes>;

constexpr uint32_t kBlock = 32;

// One instruction: its pipe, its number on that pipe (from 1) and its line.
struct Instruction {
  Pipe pipe;
  uint32_t number;
  Here here;
};

class PipeClocks {
 public:
  Instruction Begin(Pipe pipe, Here here) {
    const uint32_t number = ++issued_[pipe];
    if (pipe == kScalar) known_[pipe][pipe] = number;
    return {pipe, number, here};
  }

  // What is complete once everything issued to `pipe` so far is.
  Clock Completed(Pipe pipe) const {
    Clock clock = known_[pipe];
    clock[pipe] = issued_[pipe];
    return clock;
  }

  void Join(Pipe pipe, const Clock& clock) {
    for (int i = 0; i < kNumPipes; ++i) {
      if (clock[i] > known_[pipe][i]) known_[pipe][i] = clock[i];
    }
  }

  void Barrier(Pipe pipe) { known_[pipe][pipe] = issued_[pipe]; }

  void BarrierAll() {
    for (auto& clock : known_) clock = issued_;
  }

  // Whether `before` is complete when `now` starts.
  bool Ordered(const Instruction& before, const Instruction& now) const {
    return before.number == 0 || before.number <= known_[now.pipe][before.pipe] ||
           (before.pipe == now.pipe && before.number == now.number);
  }

 private:
  Clock issued_{};
  std::array<Clock, kNumPipes> known_{};
};

inline const char* BarrierFor(Pipe pipe) { return pipe == kVector ? "V" : kPipeNames[pipe]; }

[[noreturn]] inline void FailRace(const char* memory, const Instruction& before, const char* did,
                                  const Instruction& now, const char* does) {
  const std::string mend = before.pipe == now.pipe
                               ? std::string("PipeBarrier<PIPE_") + BarrierFor(now.pipe) + ">"
                               : std::string("HardEvent ") + kPipeNames[before.pipe] + "_" + kPipeNames[now.pipe];
  Fail("race", now.here,
       std::string(kPipeNames[now.pipe]) + " " + does + " " + memory + " that " + kPipeNames[before.pipe] + " " +
           did + " at " + Name(before.here) + " with nothing ordering them: " + mend + " is missing");
}

// The unified buffer in 32-byte blocks.
class BlockShadow {
 public:
  void Grow(uint32_t bytes) { blocks_.resize((bytes + kBlock - 1) / kBlock); }

  void Touch(const PipeClocks& clocks, const Instruction& now, uint32_t offset, uint32_t bytes, bool write) {
    if (bytes == 0) return;
    for (uint32_t b = offset / kBlock; b <= (offset + bytes - 1) / kBlock; ++b) {
      Block& block = blocks_[b];
      if (!clocks.Ordered(block.write, now)) {
        FailRace("unified-buffer data", block.write, "writes", now, write ? "overwrites" : "reads");
      }
      if (!write) {
        block.reads[now.pipe] = now;
        continue;
      }
      for (const Instruction& read : block.reads) {
        if (!clocks.Ordered(read, now)) FailRace("unified-buffer data", read, "reads", now, "overwrites");
      }
      block = Block{};
      block.write = now;
    }
  }

 private:
  struct Block {
    Instruction write{};
    std::array<Instruction, kNumPipes> reads{};
  };
  std::vector<Block> blocks_;
};

}  // namespace ascendc_host
