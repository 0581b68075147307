// SPDX-License-Identifier: Apache-2.0
// Which calls a capture under way forbids to the calling thread.
#pragma once

namespace emu {

void CaptureBegan(int mode);
void CaptureEnded(int mode);
// Exchanges the calling thread's mode.
int ExchangeCaptureMode(int mode);
// Throws Error when a capture forbids `call`, which works outside streams, to the calling thread.
void CheckCaptureMode(const char* call);

}  // namespace emu
