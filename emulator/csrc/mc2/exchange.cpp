// SPDX-License-Identifier: Apache-2.0
#include "mc2/exchange.h"

#include <cstring>
#include <stdexcept>

#include "core/site.h"
#include "opapi/bodies.h"

namespace emu::mc2 {
namespace {

constexpr int64_t kOriginInts = 128, kOriginUsed = 4;

hccl::DataType TypeOf(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return hccl::DataType::kFp32;
    case at::kHalf:
      return hccl::DataType::kFp16;
    case at::kBFloat16:
      return hccl::DataType::kBf16;
    case at::kChar:
      return hccl::DataType::kInt8;
    default:
      opapi::not_emulated(std::string("MC2 of ") + at::toString(type));
  }
}

hccl::Post PostOf(const Layout& layout, const Terms& terms, at::ScalarType type) {
  hccl::Post post{};
  post.operation = static_cast<int32_t>(terms.operation);
  post.type = static_cast<int32_t>(TypeOf(type));
  post.count = static_cast<uint64_t>(layout.global_batch);
  post.recv_counts[hccl::kMoeExperts] = static_cast<uint64_t>(layout.num_experts);
  post.recv_counts[hccl::kMoeHidden] = static_cast<uint64_t>(terms.hidden);
  post.recv_counts[hccl::kMoeTopK] = static_cast<uint64_t>(terms.top_k);
  post.recv_counts[hccl::kMoeQuantMode] = static_cast<uint64_t>(terms.quant_mode);
  post.recv_counts[hccl::kMoeTokens] = static_cast<uint64_t>(terms.tokens);
  post.recv_counts[hccl::kMoeMasked] = terms.masked ? 1 : 0;
  std::strncpy(post.site, DescribeSite(layout.group.site).c_str(), hccl::kSiteBytes - 1);
  return post;
}

// "When the ranks' numbers of tokens differ, all tokens must be active."
void CheckMasks(hccl::Communicator& ranks, const hccl::Posts& posts) {
  bool uneven = false, masked = false;
  std::string tokens;
  for (int rank = 0; rank < ranks.num_ranks(); ++rank) {
    const uint64_t* numbers = posts[rank].recv_counts;
    uneven = uneven || numbers[hccl::kMoeTokens] != posts[0].recv_counts[hccl::kMoeTokens];
    masked = masked || numbers[hccl::kMoeMasked] != 0;
    tokens += (rank == 0 ? "" : ", ") + std::to_string(numbers[hccl::kMoeTokens]);
  }
  if (uneven && masked) {
    ranks.Fail(races::Kind::kMismatch, "the ranks have " + tokens + " tokens in " +
                                           NameOf(static_cast<hccl::Operation>(posts[0].operation)) +
                                           ", and x_active_mask hides some: where the numbers differ, all must be "
                                           "active");
  }
}

// Each rank's bytes, one after the other.
hccl::Parts PartsOf(const std::vector<uint64_t>& bytes) {
  hccl::Parts parts;
  uint64_t begin = 0;
  for (const uint64_t count : bytes) {
    parts.counts.push_back(count);
    parts.begins.push_back(begin);
    begin += count;
  }
  return parts;
}

uint64_t Total(const hccl::Parts& parts) { return parts.begins.back() + parts.counts.back(); }

}  // namespace

Rows Exchange(const Layout& layout, const Terms& terms, const Rows& rows, const Ints& to) {
  hccl::Communicator& ranks = *layout.group.communicator;
  const auto num_ranks = static_cast<size_t>(ranks.num_ranks());
  const auto values = rows.values.contiguous();
  const size_t row_bytes = static_cast<size_t>(terms.hidden * values.element_size());
  const size_t bytes = sizeof(Label) + row_bytes;

  std::vector<std::vector<char>> parcels(num_ranks);
  const char* row = static_cast<const char*>(values.const_data_ptr());
  for (size_t i = 0; i < rows.labels.size(); ++i, row += row_bytes) {
    std::vector<char>& parcel = parcels.at(static_cast<size_t>(to[i]));
    const char* label = reinterpret_cast<const char*>(&rows.labels[i]);
    parcel.insert(parcel.end(), label, label + sizeof(Label));
    parcel.insert(parcel.end(), row, row + row_bytes);
  }
  hccl::Post post = PostOf(layout, terms, values.scalar_type());
  std::vector<uint64_t> sent, received;
  std::vector<char> send, recv;
  for (size_t rank = 0; rank < num_ranks; ++rank) {
    post.send_counts[rank] = parcels[rank].size();
    sent.push_back(parcels[rank].size());
    send.insert(send.end(), parcels[rank].begin(), parcels[rank].end());
  }
  const hccl::Posts posts(ranks, post);
  CheckMasks(ranks, posts);
  for (size_t rank = 0; rank < num_ranks; ++rank) {
    received.push_back(posts[static_cast<int>(rank)].send_counts[ranks.rank()]);
  }
  hccl::Call call{};
  call.operation = hccl::Operation::kAlltoAllV;
  call.sends = PartsOf(sent);
  call.recvs = PartsOf(received);
  recv.resize(Total(call.recvs));
  call.send = send.data();
  call.recv = recv.data();
  Transfer(ranks, call, posts);

  Rows result;
  result.labels.resize(recv.size() / bytes);
  result.values = at::empty({static_cast<int64_t>(result.labels.size()), terms.hidden}, values.options());
  char* out = static_cast<char*>(result.values.mutable_data_ptr());
  for (size_t i = 0; i < result.labels.size(); ++i) {
    std::memcpy(&result.labels[i], recv.data() + i * bytes, sizeof(Label));
    std::memcpy(out + i * row_bytes, recv.data() + i * bytes + sizeof(Label), row_bytes);
  }
  return result;
}

Tensor ActiveChoices(const Tensor& active, const Tensor& experts) {
  if (!active.defined()) return at::ones(experts.sizes(), opapi::options(at::kBool));
  if (active.dim() == 2) return active.contiguous();
  const auto later = active.slice(0, 1), earlier = active.slice(0, 0, active.size(0) - 1);
  if (later.logical_and(earlier.logical_not()).any().item<bool>()) {
    throw std::runtime_error("x_active_mask has a true behind a false: active tokens come first");
  }
  return active.unsqueeze(1).expand(experts.sizes()).contiguous();
}

Tensor OriginsOf(const Tensor& origins, int64_t count) {
  return origins.slice(0, 0, count * kOriginInts).view({count, kOriginInts}).slice(1, 0, kOriginUsed);
}

}  // namespace emu::mc2
