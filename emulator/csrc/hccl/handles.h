// SPDX-License-Identifier: Apache-2.0
// Communicators behind HcclComm handles, and the frame of every entry point.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "core/failure.h"
#include "hccl/communicator.h"
#include "hccl/types.h"

namespace emu::hccl {

// A handle is the communicator's address.
void* AddCommunicator(std::shared_ptr<Communicator> communicator);
std::shared_ptr<Communicator> CommunicatorOf(void* handle);  // throws Error for anything that is not a live handle
// By the name that HcclGetCommName tells. Throws Error when no live communicator, or more than one, has it.
std::shared_ptr<Communicator> CommunicatorNamed(const std::string& name);
void RemoveCommunicator(void* handle);

// Body of an entry point: an HcclResult, with the message where torch_npu looks for it (aclGetRecentErrMsg).
template <typename Body>
int Answer(const char* function, Body&& body) {
  const int code = Guarded(function, std::forward<Body>(body));
  if (code == kSuccess) {
    return kHcclSuccess;
  }
  return code == kInvalidParam ? kHcclParameter : kHcclInternal;
}

}  // namespace emu::hccl
