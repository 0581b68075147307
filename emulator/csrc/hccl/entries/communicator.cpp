// SPDX-License-Identifier: Apache-2.0
// The C functions that make, name, watch and end communicators. Prototypes from torch_npu
// csrc/distributed/HcclCompile.h, csrc/core/npu/interface/HcclInterface.cpp and
// csrc/framework/interface/HcclInterface.cpp (BSD-3), and vllm_ascend's pyhccl_wrapper.py (HcclGetErrorString).
//
// Left out on purpose, because torch_npu then takes a path that is here: HcclCommInitClusterInfoConfig (rank
// tables) and the Scalable pair (several roots). Left out because nothing here has the feature, which torch_npu
// then says: CommResume, CommWorkingDevNicSet, memory ranges, registration and windows (zero copy).
#include <cstdlib>
#include <cstring>
#include <functional>

#include "hccl/handles.h"
#include "hccl/p2p.h"

namespace {

using emu::Error;
using emu::hccl::Communicator;

// torch_npu stores HCCL_ROOT_INFO_BYTES of it in its store; the size is the documented 4108.
constexpr size_t kRootInfoBytes = 4108;
static_assert(sizeof(emu::hccl::SegmentName) <= kRootInfoBytes);

// HcclCommConfig begins with its size; up to 32 bytes there is no name, and from there on the name has 128
// (torch_npu csrc/distributed/ProcessGroupHCCL.cpp, getHcclCommConfig and MAX_GROUP_NAME_LEN).
constexpr size_t kNameOffset = 32;
constexpr size_t kNameBytes = 128;

std::string NameIn(const void* config) {
  size_t bytes = 0;
  if (config == nullptr) {
    return "";
  }
  std::memcpy(&bytes, config, sizeof(bytes));
  if (bytes < kNameOffset + kNameBytes) {
    return "";
  }
  const char* name = static_cast<const char*>(config) + kNameOffset;
  return std::string(name, strnlen(name, kNameBytes - 1));
}

// The window's size precedes determinism and the name: fields of four bytes (HcclGetCommConfigCapability below).
// Without a configuration it is the environment's, by default 200 MiB (op-plugin's documentation of
// npu_moe_distribute_dispatch_v2).
uint64_t WindowIn(const void* config) {
  constexpr size_t kOffset = kNameOffset - 8;
  size_t bytes = 0;
  uint32_t window_mib = 0;
  if (config != nullptr) std::memcpy(&bytes, config, sizeof(bytes));
  if (bytes >= kNameOffset) {
    std::memcpy(&window_mib, static_cast<const char*>(config) + kOffset, sizeof(window_mib));
  }
  if (window_mib != 0 && window_mib != UINT32_MAX) return window_mib;
  const char* value = std::getenv("HCCL_BUFFSIZE");
  const int from_environment = value == nullptr ? 0 : std::atoi(value);
  return from_environment > 0 ? static_cast<uint64_t>(from_environment) : 200;
}

void* Join(const emu::hccl::SegmentName& segment, uint32_t num_ranks, uint32_t rank, const void* config) {
  std::string name = NameIn(config);
  if (name.empty()) {
    name = std::string(segment.text + 1).substr(0, kNameBytes - 1);
  }
  auto communicator = Communicator::Create(segment, static_cast<int>(num_ranks), static_cast<int>(rank), name);
  communicator->window_mib = WindowIn(config);
  return AddCommunicator(std::move(communicator));
}

}  // namespace

extern "C" {

int HcclGetRootInfo(void* root_info) {
  return emu::hccl::Answer("HcclGetRootInfo", [&] {
    const emu::hccl::SegmentName segment = emu::hccl::NewSegmentName();
    std::memset(root_info, 0, kRootInfoBytes);
    std::memcpy(root_info, &segment, sizeof(segment));
  });
}

int HcclCommInitRootInfoConfig(uint32_t num_ranks, const void* root_info, uint32_t rank, const void* config,
                               void** communicator) {
  return emu::hccl::Answer("HcclCommInitRootInfoConfig", [&] {
    emu::hccl::SegmentName segment;
    std::memcpy(&segment, root_info, sizeof(segment));
    *communicator = Join(segment, num_ranks, rank, config);
  });
}

int HcclCommInitRootInfo(uint32_t num_ranks, const void* root_info, uint32_t rank, void** communicator) {
  return HcclCommInitRootInfoConfig(num_ranks, root_info, rank, nullptr, communicator);
}

// Ranks of the parent in `rank_ids` make a communicator of their own. They meet under a name that each can tell:
// the parent's, the identifier, and how many with this identifier there were before.
int HcclCreateSubCommConfig(void** parent_handle, uint32_t num_ranks, const uint32_t* rank_ids,
                            uint64_t identifier, uint32_t rank, const void* config, void** communicator) {
  return emu::hccl::Answer("HcclCreateSubCommConfig", [&] {
    *communicator = nullptr;
    if (rank_ids == nullptr || num_ranks == 0) {
      return;  // this rank is in none
    }
    const auto parent = emu::hccl::CommunicatorOf(*parent_handle);
    std::string key = parent->segment_name();
    for (uint32_t i = 0; i < num_ranks; ++i) {
      if (rank_ids[i] >= static_cast<uint32_t>(parent->num_ranks())) {
        throw Error(emu::kInvalidParam, "the parent communicator has no rank " + std::to_string(rank_ids[i]));
      }
      key += " " + std::to_string(rank_ids[i]);
    }
    key += " " + std::to_string(identifier) + " " + std::to_string(parent->CountSubCommunicator(identifier));
    const auto creator = parent->segment().rank(static_cast<int>(rank_ids[0])).process;
    const auto segment = emu::hccl::NameSegment(creator, std::hash<std::string>{}(key));
    *communicator = Join(segment, num_ranks, rank, config);
  });
}

int HcclCommDestroy(void* communicator) {
  return emu::hccl::Answer("HcclCommDestroy", [&] { emu::hccl::RemoveCommunicator(communicator); });
}

int HcclGetCommName(void* communicator, char* name) {
  return emu::hccl::Answer("HcclGetCommName", [&] {
    std::strncpy(name, emu::hccl::CommunicatorOf(communicator)->name().c_str(), kNameBytes);
  });
}

// torch_npu's watchdog asks this; an error makes it end the process.
int HcclGetCommAsyncError(void* communicator, int* error) {
  return emu::hccl::Answer("HcclGetCommAsyncError", [&] {
    const std::string failure = emu::hccl::CommunicatorOf(communicator)->Failure();
    *error = failure.empty() ? emu::hccl::kHcclSuccess : emu::hccl::kHcclRemote;
    if (!failure.empty()) {
      emu::SetRecentMessage(failure);
    }
  });
}

// How many fields of HcclCommConfig are read: buffer size, determinism, name.
uint32_t HcclGetCommConfigCapability() { return 3; }

// Determinism is the only setting, and sums are always in rank order.
int HcclSetConfig(int /*setting*/, int /*value*/) { return emu::hccl::kHcclSuccess; }

const char* HcclGetErrorString(int code) {
  switch (code) {
    case emu::hccl::kHcclSuccess:
      return "no error";
    case emu::hccl::kHcclParameter:
      return "parameter error";
    case emu::hccl::kHcclRemote:
      return "another rank failed";
    default:
      return "internal error";
  }
}

// Looked up in libhcomm.so, which holds nothing and links to this library.
int HcclGroupStart() {
  return emu::hccl::Answer("HcclGroupStart", [] { emu::hccl::StartGroup(); });
}
int HcclGroupEnd() {
  return emu::hccl::Answer("HcclGroupEnd", [] { emu::hccl::EndGroup(); });
}

}  // extern "C"
