// SPDX-License-Identifier: Apache-2.0
// Launches go onto a stream of the emulated NPU (emulator/csrc/kernel.h): its race checker sees what the kernel
// reads and writes, its graphs capture it, and a broken rule is a failure of the device.
#include "kernel.h"
#include "launch.h"

int32_t ascendc_host::LaunchOn(void* stream, const char* kernel, uint32_t num_cores,
                               const std::vector<GmExtent>& extents, const std::function<void()>& body) {
  emu::Accesses accesses;
  for (const GmExtent& extent : extents) {
    accesses.push_back({emu::RangeOf(extent.address, extent.bytes), extent.writable});
  }
  return emu::LaunchKernel(kernel, stream, std::move(accesses), [=, name = std::string(kernel)] {
    const auto broken = Run(name.c_str(), num_cores, extents, body);
    if (broken) throw std::runtime_error(broken->Sentence());
  });
}
