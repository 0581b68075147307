// SPDX-License-Identifier: Apache-2.0
// Devices: which one a thread uses, the streams each has.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/stream.h"

namespace emu {

// Throws Error unless the device exists.
void CheckDevice(int device);
// Of the calling thread; throws Error when it has set none and there is no default.
int CurrentDevice();
bool HasCurrentDevice();
void SetCurrentDevice(int device);
void SetDefaultDevice(int device);  // for threads that set none
void ResetDevice(int device);       // drains it; no thread counts as using it any more
bool DeviceActive(int device);      // some thread has set it and nobody has reset it

// Stream handles are the addresses of streams.
void* CreateStream(int device);
void DestroyStream(void* handle);  // drains
// The stream on which copies run that the program waits for; the program has no handle of it.
Stream& CopyStream(int device);
std::vector<std::shared_ptr<Stream>> StreamsOf(int device);

// Waits until everything issued on the device has finished. Does not order it before the host.
void DrainDevice(int device);
// The same, and orders it: throws like Synchronize.
void SynchronizeDevice(int device, int64_t timeout_ms);

}  // namespace emu
