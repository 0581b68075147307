// SPDX-License-Identifier: Apache-2.0
#include "hccl/handles.h"

#include <map>
#include <mutex>

namespace emu::hccl {
namespace {

struct Handles {
  std::mutex mutex;
  std::map<void*, std::shared_ptr<Communicator>> communicators;
};

Handles& AllHandles() {
  static auto* handles = new Handles;  // torch_npu's threads still ask at exit
  return *handles;
}

}  // namespace

void* AddCommunicator(std::shared_ptr<Communicator> communicator) {
  Handles& handles = AllHandles();
  const std::lock_guard<std::mutex> lock(handles.mutex);
  void* handle = communicator.get();
  handles.communicators.emplace(handle, std::move(communicator));
  return handle;
}

std::shared_ptr<Communicator> CommunicatorOf(void* handle) {
  Handles& handles = AllHandles();
  const std::lock_guard<std::mutex> lock(handles.mutex);
  const auto found = handles.communicators.find(handle);
  if (found == handles.communicators.end()) {
    throw Error(kInvalidParam, "not a live HCCL communicator");
  }
  return found->second;
}

std::shared_ptr<Communicator> CommunicatorNamed(const std::string& name) {
  Handles& handles = AllHandles();
  const std::lock_guard<std::mutex> lock(handles.mutex);
  std::shared_ptr<Communicator> found;
  for (const auto& [handle, communicator] : handles.communicators) {
    if (communicator->name() != name) continue;
    if (found != nullptr) throw Error(kInvalidParam, "two HCCL communicators have the name " + name);
    found = communicator;
  }
  if (found == nullptr) throw Error(kInvalidParam, "no live HCCL communicator has the name " + name);
  return found;
}

void RemoveCommunicator(void* handle) {
  std::shared_ptr<Communicator> removed = CommunicatorOf(handle);  // its end is not under the lock
  Handles& handles = AllHandles();
  const std::lock_guard<std::mutex> lock(handles.mutex);
  handles.communicators.erase(handle);
}

}  // namespace emu::hccl
