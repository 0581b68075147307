// SPDX-License-Identifier: Apache-2.0
#include "kernel.h"

#include <string>

#include "core/failure.h"
#include "core/stream.h"
#include "memory/memory.h"

int emu::LaunchKernel(const char* name, void* stream, Accesses accesses, std::function<void()> run) {
  return Guarded(name, [&] {
    for (const Access& access : accesses) {
      if (!access.range.Empty()) CheckDeviceRange(access.range, std::string(name) + ": an argument");
    }
    Task task;
    task.name = name;
    task.accesses = std::move(accesses);
    task.run = std::move(run);
    Enqueue(StreamOf(stream), std::move(task));
  });
}
