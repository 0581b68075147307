// SPDX-License-Identifier: Apache-2.0
// Vector clocks over streams.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace emu::races {

using StreamId = uint32_t;

// For each stream the index (from 1) of its last task that is ordered before; 0 is none.
class Clock {
 public:
  uint64_t Of(StreamId stream) const { return stream < last_.size() ? last_[stream] : 0; }
  size_t num_streams() const { return last_.size(); }
  void Set(StreamId stream, uint64_t index);
  void Join(const Clock& other);

 private:
  std::vector<uint64_t> last_;
};

}  // namespace emu::races
