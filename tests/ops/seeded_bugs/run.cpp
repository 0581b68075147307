// SPDX-License-Identifier: Apache-2.0
#include "bugs.h"

namespace {

const bugs::Bug* Find(int32_t index) {
  for (const bugs::Bug* table : {bugs::kMemoryBugs, bugs::kQueueBugs, bugs::kOrderBugs}) {
    for (; table->name != nullptr; ++table) {
      if (index-- == 0) return table;
    }
  }
  return nullptr;
}

}  // namespace

extern "C" {

// "rule" or "rule/variant" of bug `index`, null past the last.
const char* bug_name(int32_t index) {
  const bugs::Bug* bug = Find(index);
  return bug == nullptr ? nullptr : bug->name;
}

int32_t run_bug(int32_t index, int32_t broken, uint32_t num_cores, uint8_t* in, uint8_t* out) {
  const bugs::Bug* bug = Find(index);
  const uint64_t bytes = bugs::kWords * sizeof(int32_t);
  return ascendc_host::Launch(bug->name, num_cores, {{in, bytes, false}, {out, bytes, true}},
                              [=] { bug->kernel(broken != 0, in, out); });
}
}
