// SPDX-License-Identifier: Apache-2.0
// The C functions that move data. Prototypes from torch_npu csrc/distributed/HcclCompile.h (BSD-3); the items of
// HcclBatchSendRecv from ProcessGroupHCCL.cpp, batch_isend_irecv_inner.
#include <utility>
#include <vector>

#include "hccl/call.h"
#include "hccl/handles.h"
#include "hccl/p2p.h"

namespace {

using emu::hccl::Call;
using emu::hccl::Communicator;
using emu::hccl::DataType;
using emu::hccl::Message;
using emu::hccl::Operation;
using emu::hccl::Parts;
using emu::hccl::ReduceOp;

struct SendRecvItem {
  int32_t kind;  // 0 sends, 1 receives
  void* buffer;
  uint64_t count;
  int32_t type;
  uint32_t remote_rank;
};

// Equal parts, one after the other.
Parts EqualParts(const Communicator& communicator, uint64_t count) {
  Parts parts;
  for (int rank = 0; rank < communicator.num_ranks(); ++rank) {
    parts.counts.push_back(count);
    parts.begins.push_back(count * static_cast<uint64_t>(rank));
  }
  return parts;
}

Parts GivenParts(const Communicator& communicator, const void* counts, const void* begins) {
  const auto* first_count = static_cast<const uint64_t*>(counts);
  const auto* first_begin = static_cast<const uint64_t*>(begins);
  const int num_ranks = communicator.num_ranks();
  return {{first_count, first_count + num_ranks}, {first_begin, first_begin + num_ranks}};
}

// The frame of a collective: `fill` sets what the operation has beyond its kind, type and buffers.
template <typename Fill>
int Collective(Operation operation, void* handle, void* stream, int type, const void* send, const void* recv,
               Fill&& fill) {
  return emu::hccl::Answer(NameOf(operation), [&] {
    const auto communicator = emu::hccl::CommunicatorOf(handle);
    Call call{};
    call.operation = operation;
    call.type = static_cast<DataType>(type);
    call.send = static_cast<const char*>(send);
    call.recv = static_cast<char*>(const_cast<void*>(recv));
    fill(call, *communicator);
    Issue(communicator, std::move(call), emu::StreamOf(stream));
  });
}

ReduceOp CheckedReduction(int op, int type) {
  const auto reduction = static_cast<ReduceOp>(op);
  emu::hccl::NameOf(reduction);
  emu::hccl::Reduce(static_cast<DataType>(type), reduction, nullptr, 0, 0, nullptr);  // throws if it cannot
  return reduction;
}

void CheckSameType(int send_type, int recv_type) {
  if (send_type != recv_type) {
    throw emu::Error(emu::kInvalidParam, "an all-to-all sends and receives the same data type");
  }
}

Message MessageOf(bool send, void* buffer, uint64_t count, int type, uint32_t peer) {
  return {send, static_cast<char*>(buffer), count, static_cast<DataType>(type), static_cast<int>(peer)};
}

}  // namespace

extern "C" {

int HcclAllReduce(void* send, void* recv, uint64_t count, int type, int op, void* communicator, void* stream) {
  return Collective(Operation::kAllReduce, communicator, stream, type, send, recv, [&](Call& call, auto&) {
    call.count = count;
    call.reduce = CheckedReduction(op, type);
  });
}

int HcclReduce(void* send, void* recv, uint64_t count, int type, int op, uint32_t root, void* communicator,
               void* stream) {
  return Collective(Operation::kReduce, communicator, stream, type, send, recv, [&](Call& call, auto&) {
    call.count = count;
    call.reduce = CheckedReduction(op, type);
    call.root = static_cast<int>(root);
  });
}

int HcclBroadcast(void* buffer, uint64_t count, int type, uint32_t root, void* communicator, void* stream) {
  return Collective(Operation::kBroadcast, communicator, stream, type, buffer, buffer, [&](Call& call, auto&) {
    call.count = count;
    call.root = static_cast<int>(root);
  });
}

int HcclAllGather(void* send, void* recv, uint64_t count, int type, void* communicator, void* stream) {
  return Collective(Operation::kAllGather, communicator, stream, type, send, recv, [&](Call& call, auto& ranks) {
    call.count = count;
    call.recvs = EqualParts(ranks, count);
  });
}

int HcclAllGatherV(const void* send, uint64_t count, const void* recv, const void* recv_counts,
                   const void* recv_begins, int type, void* communicator, void* stream) {
  return Collective(Operation::kAllGatherV, communicator, stream, type, send, recv, [&](Call& call, auto& ranks) {
    call.count = count;
    call.recvs = GivenParts(ranks, recv_counts, recv_begins);
  });
}

int HcclReduceScatter(void* send, void* recv, uint64_t count, int type, int op, void* communicator, void* stream) {
  return Collective(Operation::kReduceScatter, communicator, stream, type, send, recv,
                    [&](Call& call, auto& ranks) {
                      call.count = count;
                      call.reduce = CheckedReduction(op, type);
                      call.sends = EqualParts(ranks, count);
                    });
}

int HcclReduceScatterV(const void* send, const void* send_counts, const void* send_begins, const void* recv,
                       uint64_t count, int type, int op, void* communicator, void* stream) {
  return Collective(Operation::kReduceScatterV, communicator, stream, type, send, recv,
                    [&](Call& call, auto& ranks) {
                      call.count = count;
                      call.reduce = CheckedReduction(op, type);
                      call.sends = GivenParts(ranks, send_counts, send_begins);
                    });
}

int HcclScatter(void* send, void* recv, uint64_t count, int type, uint32_t root, void* communicator,
                void* stream) {
  return Collective(Operation::kScatter, communicator, stream, type, send, recv, [&](Call& call, auto& ranks) {
    call.count = count;
    call.root = static_cast<int>(root);
    if (ranks.rank() == call.root) {
      call.sends = EqualParts(ranks, count);
    }
  });
}

int HcclAlltoAll(const void* send, uint64_t send_count, int send_type, const void* recv, uint64_t recv_count,
                 int recv_type, void* communicator, void* stream) {
  return Collective(Operation::kAlltoAll, communicator, stream, send_type, send, recv,
                    [&](Call& call, auto& ranks) {
                      CheckSameType(send_type, recv_type);
                      call.count = send_count;
                      call.sends = EqualParts(ranks, send_count);
                      call.recvs = EqualParts(ranks, recv_count);
                    });
}

int HcclAlltoAllV(const void* send, const void* send_counts, const void* send_begins, int send_type,
                  const void* recv, const void* recv_counts, const void* recv_begins, int recv_type,
                  void* communicator, void* stream) {
  return Collective(Operation::kAlltoAllV, communicator, stream, send_type, send, recv,
                    [&](Call& call, auto& ranks) {
                      CheckSameType(send_type, recv_type);
                      call.sends = GivenParts(ranks, send_counts, send_begins);
                      call.recvs = GivenParts(ranks, recv_counts, recv_begins);
                    });
}

int HcclBarrier(void* communicator, void* stream) {
  return Collective(Operation::kBarrier, communicator, stream, static_cast<int>(DataType::kInt8), nullptr, nullptr,
                    [](Call&, auto&) {});
}

int HcclSend(void* buffer, uint64_t count, int type, uint32_t destination, void* communicator, void* stream) {
  return emu::hccl::Answer("HcclSend", [&] {
    IssueMessage(emu::hccl::CommunicatorOf(communicator), MessageOf(true, buffer, count, type, destination),
                 emu::StreamOf(stream));
  });
}

int HcclRecv(void* buffer, uint64_t count, int type, uint32_t source, void* communicator, void* stream) {
  return emu::hccl::Answer("HcclRecv", [&] {
    IssueMessage(emu::hccl::CommunicatorOf(communicator), MessageOf(false, buffer, count, type, source),
                 emu::StreamOf(stream));
  });
}

int HcclBatchSendRecv(const void* items, uint32_t num_items, void* communicator, void* stream) {
  return emu::hccl::Answer("HcclBatchSendRecv", [&] {
    std::vector<Message> messages;
    for (uint32_t i = 0; i < num_items; ++i) {
      const SendRecvItem& item = static_cast<const SendRecvItem*>(items)[i];
      if (item.kind != 0 && item.kind != 1) {
        throw emu::Error(emu::kInvalidParam, "item " + std::to_string(i) + " neither sends nor receives");
      }
      messages.push_back(MessageOf(item.kind == 0, item.buffer, item.count, item.type, item.remote_rank));
    }
    IssueMessages(emu::hccl::CommunicatorOf(communicator), "HcclBatchSendRecv", std::move(messages),
                  emu::StreamOf(stream));
  });
}

}  // extern "C"
