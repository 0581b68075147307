// SPDX-License-Identifier: Apache-2.0
// How ranks agree on a collective before any data moves.
#include <algorithm>
#include <cstring>

#include "core/site.h"
#include "hccl/call.h"

namespace emu::hccl {
namespace {

bool Reduces(Operation operation) {
  return operation == Operation::kAllReduce || operation == Operation::kReduce ||
         operation == Operation::kReduceScatter || operation == Operation::kReduceScatterV;
}

bool HasRoot(Operation operation) {
  return operation == Operation::kReduce || operation == Operation::kBroadcast || operation == Operation::kScatter;
}

std::string Numbers(const uint64_t* values, int num_values) {
  std::string text = "[";
  for (int i = 0; i < num_values; ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(values[i]);
  }
  return text + "]";
}

// Whether what `left` (rank i) and `right` (rank k) say about themselves and each other fits together.
bool Agree(const Post& left, int i, const Post& right, int k) {
  if (left.operation != right.operation || left.type != right.type || left.reduce != right.reduce ||
      left.root != right.root) {
    return false;
  }
  switch (static_cast<Operation>(left.operation)) {
    case Operation::kAllGatherV:
      return left.recv_counts[k] == right.count && right.recv_counts[i] == left.count;
    case Operation::kReduceScatterV:
      return left.send_counts[k] == right.count && right.send_counts[i] == left.count;
    case Operation::kAlltoAllV:
      return left.send_counts[k] == right.recv_counts[i] && left.recv_counts[k] == right.send_counts[i];
    case Operation::kMoeDispatch:
    case Operation::kMoeCombine:
      return left.count == right.count &&
             std::equal(left.recv_counts, left.recv_counts + kMoeAgreed, right.recv_counts);
    default:
      return left.count == right.count;
  }
}

// A rank may disagree with itself: it gathers 3 elements from itself and sends 4.
bool AllAgree(const Posts& posts, int num_ranks) {
  for (int i = 0; i < num_ranks; ++i) {
    for (int k = i; k < num_ranks; ++k) {
      if (!Agree(posts[i], i, posts[k], k)) {
        return false;
      }
    }
  }
  return true;
}

// Whether rank `to` cannot end the call before rank `from` has begun it, on a device as well: something comes from
// there.
bool Reaches(const Post& post, int from, int to) {
  if (from == to) return false;
  switch (static_cast<Operation>(post.operation)) {
    case Operation::kBarrier:
    case Operation::kMoeDispatch:  // how many rows come from each rank
      return true;
    case Operation::kMoeCombine:
      return false;
    case Operation::kBroadcast:
    case Operation::kScatter:
      return from == post.root && post.count > 0;
    case Operation::kReduce:
      return to == post.root && post.count > 0;
    case Operation::kAlltoAll:
    case Operation::kAlltoAllV:
    case Operation::kReduceScatterV:
      return post.send_counts[to] > 0;
    default:
      return post.count > 0;
  }
}

}  // namespace

const char* NameOf(Operation operation) {
  static constexpr const char* kNames[] = {"HcclAllReduce",
                                           "HcclReduce",
                                           "HcclBroadcast",
                                           "HcclAllGather",
                                           "HcclAllGatherV",
                                           "HcclReduceScatter",
                                           "HcclReduceScatterV",
                                           "HcclScatter",
                                           "HcclAlltoAll",
                                           "HcclAlltoAllV",
                                           "HcclBarrier",
                                           "aclnnMoeDistributeDispatchV2",
                                           "aclnnMoeDistributeCombineV2"};
  return kNames[static_cast<int>(operation)];
}

Post PostOf(const Call& call, SiteId site) {
  Post post{};
  post.operation = static_cast<int32_t>(call.operation);
  post.type = static_cast<int32_t>(call.type);
  post.reduce = Reduces(call.operation) ? static_cast<int32_t>(call.reduce) : 0;
  post.root = HasRoot(call.operation) ? call.root : 0;
  post.count = call.count;
  std::copy(call.sends.counts.begin(), call.sends.counts.end(), post.send_counts);
  std::copy(call.recvs.counts.begin(), call.recvs.counts.end(), post.recv_counts);
  std::strncpy(post.site, DescribeSite(site).c_str(), kSiteBytes - 1);
  return post;
}

std::string Describe(const Post& post, int num_ranks) {
  const auto operation = static_cast<Operation>(post.operation);
  std::string text = std::string(NameOf(operation)) + "(";
  if (operation == Operation::kBarrier) {
    return text + ")";
  }
  if (operation == Operation::kMoeDispatch || operation == Operation::kMoeCombine) {
    const uint64_t* numbers = post.recv_counts;
    return text + "global batch " + std::to_string(post.count) + ", experts " +
           std::to_string(numbers[kMoeExperts]) + ", hidden " + std::to_string(numbers[kMoeHidden]) + ", top " +
           std::to_string(numbers[kMoeTopK]) + ", quant mode " + std::to_string(numbers[kMoeQuantMode]) + ", " +
           NameOf(static_cast<DataType>(post.type)) + ")";
  }
  if (operation == Operation::kAlltoAllV || operation == Operation::kReduceScatterV) {
    text += "send counts " + Numbers(post.send_counts, num_ranks) + ", ";
  }
  if (operation == Operation::kAlltoAllV || operation == Operation::kAllGatherV) {
    text += "receive counts " + Numbers(post.recv_counts, num_ranks) + ", ";
  }
  if (operation != Operation::kAlltoAllV) {
    text += "count " + std::to_string(post.count) + ", ";
  }
  text += NameOf(static_cast<DataType>(post.type));
  if (Reduces(operation)) {
    text += std::string(", ") + NameOf(static_cast<ReduceOp>(post.reduce));
  }
  if (HasRoot(operation)) {
    text += ", root " + std::to_string(post.root);
  }
  return text + ")";
}

Posts::Posts(Communicator& communicator, const Post& mine)
    : communicator_(communicator), number_(++communicator.num_posts) {
  const int num_ranks = communicator.num_ranks();
  // Nobody still reads the post before last: this rank finished the call after it, so all ranks had come to that.
  Post& post = communicator.mine().posts[number_ % 2];
  post = mine;
  races::Depart(false, &post.known);
  communicator.mine().posted.store(number_);
  communicator.segment().Ring();
  communicator.WaitForAll(&RankBlock::posted, number_);
  if (AllAgree(*this, num_ranks)) {
    for (int rank = 0; rank < num_ranks; ++rank) {
      if (Reaches((*this)[rank], rank, communicator.rank())) races::Arrive((*this)[rank].known);
    }
    return;
  }
  std::string text = "the ranks disagree on collective call " + std::to_string(number_) + ":";
  for (int rank = 0; rank < num_ranks; ++rank) {
    const Post& post = (*this)[rank];
    text += "\n  " + communicator.DescribeRank(rank) + ": " + Describe(post, num_ranks) + " at " + post.site;
  }
  communicator.Fail(races::Kind::kMismatch, text);
}

const Post& Posts::operator[](int rank) const { return communicator_.segment().rank(rank).posts[number_ % 2]; }

}  // namespace emu::hccl
