// SPDX-License-Identifier: Apache-2.0
// Words of device memory that streams write and wait for. torch_npu builds external events
// (torch.npu.ExternalEvent) from them: graphs are held up with one until another stream has updated them.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "core/stream.h"
#include "memory/access.h"
#include "races/clock.h"

namespace emu {

struct Word {
  races::Clock clock;  // of the last write that was issued outside captures; under the issue lock
  std::mutex mutex;    // the word itself
  std::condition_variable changed;
};

void WriteWord(uint64_t* address, uint64_t value, Stream& stream);
// `reached` tells from the word's value whether the stream may go on. There is a deadline.
void WaitWord(uint64_t* address, std::function<bool(uint64_t)> reached, Stream& stream);
// Memory that went back to the runtime.
void ForgetWords(Range range);

}  // namespace emu
