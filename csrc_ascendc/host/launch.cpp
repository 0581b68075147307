// SPDX-License-Identifier: Apache-2.0
#include "launch.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>

namespace ascendc_host {
namespace {

struct {
  std::mutex mutex;
  Schedule schedule = Schedule::kEager;
  bool check_order = true, abort_on_violation = true;
  std::string violation;
  Statistics statistics{};
  std::map<std::string, uint64_t> num_launches;
} g_host;

struct Failure {
  Violation violation;
  int64_t core = -1;
  bool found = false;
};

void RunCore(Core* core, const std::function<void()>& body, Failure* failure) {
  Core::SetCurrent(core);
  try {
    body();
    core->Finish();
  } catch (const Violation& violation) {
    *failure = {violation, core->index(), true};
  }
  Core::SetCurrent(nullptr);
}

Statistics Sum(const std::vector<std::unique_ptr<Core>>& cores) {
  Statistics sum{};
  for (const auto& core : cores) {
    const Statistics& s = core->statistics;
    sum.gm_bytes_read += s.gm_bytes_read;
    sum.gm_bytes_written += s.gm_bytes_written;
    sum.copies += s.copies;
    sum.small_copies += s.small_copies;
    sum.unaligned_copies += s.unaligned_copies;
    sum.vector_instructions += s.vector_instructions;
    sum.vector_repeats += s.vector_repeats;
    sum.vector_cycles += s.vector_cycles;
    sum.scalar_accesses += s.scalar_accesses;
    sum.most_unified_buffer_bytes = std::max(sum.most_unified_buffer_bytes, s.most_unified_buffer_bytes);
    sum.most_vector_repeats = std::max(sum.most_vector_repeats, s.vector_repeats);
    sum.most_scalar_accesses = std::max(sum.most_scalar_accesses, s.scalar_accesses);
    sum.most_copies = std::max(sum.most_copies, s.copies);
    sum.most_vector_cycles = std::max(sum.most_vector_cycles, s.vector_cycles);
  }
  return sum;
}

// Rules that concern several cores.
Failure BetweenCores(const std::vector<std::unique_ptr<Core>>& cores) {
  std::vector<const GmTrace*> traces;
  for (const auto& core : cores) traces.push_back(&core->trace);
  GmTrace::Entry first{}, second{};
  if (CrossCoreConflict(traces, &first, &second)) {
    return {{"cross-core",
             "touches global memory that another core touches at " + Name(first.instruction.here) +
                 ", and one of them writes",
             second.instruction.here},
            -1,
            true};
  }
  std::map<uintptr_t, Here> lines;
  for (const auto& core : cores) {
    for (const auto& [line, here] : core->scalar_cache.written) {
      const auto [it, inserted] = lines.emplace(line, here);
      if (!inserted) {
        return {
            {"cache-line", "stores from two cores into one 64-byte line: one of them is lost", here}, -1, true};
      }
    }
  }
  return {};
}

// The first broken rule of any core, else one between cores.
Failure FirstFailure(const char* kernel, const std::vector<Failure>& of_cores,
                     const std::vector<std::unique_ptr<Core>>& cores) {
  if (cores.empty()) return {{"launch", "a launch on no core", {kernel, 0}}, -1, true};
  for (const Failure& failure : of_cores) {
    if (failure.found) return failure;
  }
  return BetweenCores(cores);
}

}  // namespace

std::string BrokenRule::Sentence() const {
  return "kernel " + kernel + ", core " + core + ", " + line + ": [" + rule + "] " + what;
}

std::optional<BrokenRule> Run(const char* kernel, uint32_t num_cores, const std::vector<GmExtent>& extents,
                              const std::function<void()>& body) {
  LaunchState state;
  state.kernel = kernel;
  state.num_cores = num_cores;
  state.extents = extents;
  {
    std::lock_guard<std::mutex> lock(g_host.mutex);
    state.schedule = g_host.schedule;
    state.check_order = g_host.check_order;
  }
  std::vector<std::unique_ptr<Core>> cores;
  std::vector<Failure> failures(num_cores);
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < num_cores; ++i) cores.push_back(std::make_unique<Core>(&state, i));
  for (uint32_t i = 0; i < num_cores; ++i) threads.emplace_back(RunCore, cores[i].get(), body, &failures[i]);
  for (auto& thread : threads) thread.join();

  const Failure failure = FirstFailure(kernel, failures, cores);
  std::lock_guard<std::mutex> lock(g_host.mutex);
  g_host.statistics = Sum(cores);
  g_host.violation.clear();
  ++g_host.num_launches[kernel];
  if (!failure.found) return std::nullopt;
  const Violation& broken = failure.violation;
  const std::string core = failure.core < 0 ? "all" : std::to_string(failure.core);
  const BrokenRule rule{kernel, core, Name(broken.here), broken.rule, broken.what};
  g_host.violation = rule.kernel + "\t" + rule.core + "\t" + rule.line + "\t" + rule.rule + "\t" + rule.what;
  return rule;
}

int32_t Launch(const char* kernel, uint32_t num_cores, const std::vector<GmExtent>& extents,
               const std::function<void()>& body) {
  const auto broken = Run(kernel, num_cores, extents, body);
  if (!broken) return 0;
  std::lock_guard<std::mutex> lock(g_host.mutex);
  if (!g_host.abort_on_violation) return -1;
  std::fprintf(stderr, "AscendC on the host: %s\n", broken->Sentence().c_str());
  std::abort();
}

}  // namespace ascendc_host

void ascend_ext_host_configure(int32_t schedule, int32_t check_order, int32_t abort_on_violation) {
  using ascendc_host::g_host;
  std::lock_guard<std::mutex> lock(g_host.mutex);
  g_host.schedule = static_cast<ascendc_host::Schedule>(schedule);
  g_host.check_order = check_order != 0;
  g_host.abort_on_violation = abort_on_violation != 0;
}

const char* ascend_ext_host_violation() { return ascendc_host::g_host.violation.c_str(); }

void ascend_ext_host_statistics(ascendc_host::Statistics* statistics) {
  std::lock_guard<std::mutex> lock(ascendc_host::g_host.mutex);
  *statistics = ascendc_host::g_host.statistics;
}

uint64_t ascend_ext_host_num_launches(const char* kernel) {
  std::lock_guard<std::mutex> lock(ascendc_host::g_host.mutex);
  const auto found = ascendc_host::g_host.num_launches.find(kernel);
  return found == ascendc_host::g_host.num_launches.end() ? 0 : found->second;
}
