// SPDX-License-Identifier: Apache-2.0
// Runs a kernel on emulated cores, and what tests and benchmarks may set and ask.
#pragma once

#include <functional>
#include <optional>

#include "core.h"

namespace ascendc_host {

// One thread a core; returns 0. On a broken rule it prints "kernel, core, line, rule" and aborts the process,
// or, after ascend_ext_host_configure(.., abort_on_violation = 0), returns -1.
int32_t Launch(const char* kernel, uint32_t num_cores, const std::vector<GmExtent>& extents,
               const std::function<void()>& body);

struct BrokenRule {
  std::string kernel, core, line, rule, what;  // core: its number, or "all"
  std::string Sentence() const;
};

// The same, for callers that decide themselves what follows.
std::optional<BrokenRule> Run(const char* kernel, uint32_t num_cores, const std::vector<GmExtent>& extents,
                              const std::function<void()>& body);

// What an operator's launch.cpp calls. The library that is linked decides: run_now.cpp launches in the call,
// emulated_stream.cpp puts the launch onto a stream of the emulated NPU.
int32_t LaunchOn(void* stream, const char* kernel, uint32_t num_cores, const std::vector<GmExtent>& extents,
                 const std::function<void()>& body);

}  // namespace ascendc_host

extern "C" {
// schedule: see ascendc_host::Schedule. check_order: 0 leaves the vector clocks out (to see what a lazy schedule
// finds by itself). For launches from now on, in this process.
void ascend_ext_host_configure(int32_t schedule, int32_t check_order, int32_t abort_on_violation);
// "kernel\tcore\tfile:line\trule\twhat" of the last launch that broke a rule, "" when none has. Until the next
// launch.
const char* ascend_ext_host_violation();
// Of the last launch.
void ascend_ext_host_statistics(ascendc_host::Statistics* statistics);
// How often the kernel of this name has run in this process.
uint64_t ascend_ext_host_num_launches(const char* kernel);
}
