// SPDX-License-Identifier: Apache-2.0
// State that a forked child must not inherit: another thread may have been changing it, or holding its lock.
#pragma once

#include <functional>

namespace emu::races {

void OnForkedChild(std::function<void()> action);

// A T that a forked child starts anew, and that is never destroyed, as threads may outlive static objects.
template <typename T>
class Resettable {
 public:
  Resettable() : value_(new T) {
    OnForkedChild([this] { value_ = new T; });
  }
  T& get() { return *value_; }

 private:
  T* value_;
};

}  // namespace emu::races
