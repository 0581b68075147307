// SPDX-License-Identifier: Apache-2.0
// For libraries of kernels that are no aclnn operators: puts one onto a stream, as torch_npu's own operators are.
#pragma once

#include <functional>

#include "memory/access.h"

namespace emu {

// Issues `run` on the stream (null: the current device's default stream), or into the graph that the stream is
// being captured into, which then runs it at each replay. It runs later, on the stream's thread, so it holds what
// it needs by value. `accesses` is all that it reads and writes of device memory: the race checker goes by it, and
// by nothing else. What `run` throws becomes the device's asynchronous failure. `name` is what reports call it.
// Returns 0 or an ACL code: no such stream, not live device memory, an earlier failure of the device.
int LaunchKernel(const char* name, void* stream, Accesses accesses, std::function<void()> run);

}  // namespace emu
