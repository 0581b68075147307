// SPDX-License-Identifier: Apache-2.0
#include "races/fork.h"

#include <pthread.h>

#include <vector>

namespace emu::races {
namespace {

std::vector<std::function<void()>>& Actions() {
  static auto* actions = new std::vector<std::function<void()>>;
  return *actions;
}

void RunInChild() {
  for (const auto& action : Actions()) action();
}

}  // namespace

void OnForkedChild(std::function<void()> action) {
  static const int registered = pthread_atfork(nullptr, nullptr, RunInChild);
  static_cast<void>(registered);
  Actions().push_back(std::move(action));
}

}  // namespace emu::races
