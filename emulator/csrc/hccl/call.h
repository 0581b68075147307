// SPDX-License-Identifier: Apache-2.0
// A collective call: what it moves, and how the ranks agree on it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/stream.h"
#include "hccl/communicator.h"
#include "hccl/types.h"

namespace emu::hccl {

enum class Operation : int32_t {
  kAllReduce,
  kReduce,
  kBroadcast,
  kAllGather,
  kAllGatherV,
  kReduceScatter,
  kReduceScatterV,
  kScatter,
  kAlltoAll,
  kAlltoAllV,
  kBarrier,
  kMoeDispatch,  // mc2/: the rows of an all-to-all whose receivers learn from the posts how many come
  kMoeCombine,
};

// What recv_counts holds in the posts of these two; the ranks agree on those before kMoeAgreed.
enum MoeNumber {
  kMoeExperts,
  kMoeHidden,
  kMoeTopK,
  kMoeQuantMode,
  kMoeAgreed,
  kMoeTokens = kMoeAgreed,
  kMoeMasked,
};

const char* NameOf(Operation operation);  // "HcclAllReduce"

// For each rank, elements and where they begin.
struct Parts {
  std::vector<uint64_t> counts;
  std::vector<uint64_t> begins;
};

struct Call {
  Operation operation;
  DataType type = DataType::kInt8;
  ReduceOp reduce = ReduceOp::kSum;
  int root = 0;
  uint64_t count = 0;  // elements of this rank's own part, where the operation has one
  const char* send = nullptr;
  char* recv = nullptr;
  Parts sends;  // to each rank: the operations that send different parts
  Parts recvs;  // from each rank: the operations that receive different parts
};

// Puts the call on the stream. Throws Error for operands that are not live device memory and the like.
void Issue(const std::shared_ptr<Communicator>& communicator, Call call, Stream& stream);

// Publishes this rank's post and waits for all ranks' posts; fails the communicator when they disagree. The posts
// stay valid until the call's end. On the stream's thread.
class Posts {
 public:
  Posts(Communicator& communicator, const Post& mine);
  const Post& operator[](int rank) const;

 private:
  const Communicator& communicator_;
  const uint64_t number_;
};

// Moves the data of an agreed call. On the stream's thread.
void Transfer(Communicator& communicator, const Call& call, const Posts& posts);

// "HcclAllReduce(count 6, fp32, sum)"
std::string Describe(const Post& post, int num_ranks);
Post PostOf(const Call& call, SiteId site);

}  // namespace emu::hccl
