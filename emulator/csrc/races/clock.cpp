// SPDX-License-Identifier: Apache-2.0
#include "races/clock.h"

#include <algorithm>

namespace emu::races {

void Clock::Set(StreamId stream, uint64_t index) {
  if (stream >= last_.size()) last_.resize(stream + 1, 0);
  last_[stream] = index;
}

void Clock::Join(const Clock& other) {
  if (other.last_.size() > last_.size()) last_.resize(other.last_.size(), 0);
  for (size_t i = 0; i < other.last_.size(); ++i) last_[i] = std::max(last_[i], other.last_[i]);
}

}  // namespace emu::races
