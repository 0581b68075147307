// SPDX-License-Identifier: Apache-2.0
#include "launch.h"

int32_t ascendc_host::LaunchOn(void*, const char* kernel, uint32_t num_cores, const std::vector<GmExtent>& extents,
                               const std::function<void()>& body) {
  return Launch(kernel, num_cores, extents, body);
}
