// SPDX-License-Identifier: Apache-2.0
// How the data of a collective moves: in rounds, in each of which every rank fills its slot and then reads the
// others'.
#include <algorithm>
#include <cstring>
#include <functional>

#include "hccl/call.h"

namespace emu::hccl {
namespace {

// Elements [begin, end) of `count` that piece `round` of `size` elements holds.
struct Piece {
  uint64_t begin;
  uint64_t end;
  Piece(uint64_t round, uint64_t size, uint64_t count)
      : begin(std::min(round * size, count)), end(std::min(begin + size, count)) {}
  uint64_t size() const { return end - begin; }
};

// One round after the other, with two slots for each rank: a round's slot is free again when all ranks have read
// the round before the last.
void RunRounds(Communicator& communicator, uint64_t num_rounds,
               const std::function<void(uint64_t round, char* slot)>& pack,
               const std::function<void(uint64_t round, const char* const* slots)>& unpack) {
  const Segment& segment = communicator.segment();
  const int num_ranks = communicator.num_ranks();
  for (uint64_t round = 0; round < num_rounds; ++round) {
    const uint64_t number = ++communicator.num_rounds;
    communicator.WaitForAll(&RankBlock::consumed, number - std::min<uint64_t>(number, 2));
    pack(round, communicator.mine().slots[number % 2]);
    communicator.mine().written.store(number);
    segment.Ring();
    communicator.WaitForAll(&RankBlock::written, number);
    const char* slots[kMaxRanks];
    for (int rank = 0; rank < num_ranks; ++rank) {
      slots[rank] = segment.rank(rank).slots[number % 2];
    }
    unpack(round, slots);
    communicator.mine().consumed.store(number);
    segment.Ring();
  }
}

// From each rank's slot the piece of what it sends, to where that begins in the receive buffer.
void UnpackFromAll(const Call& call, uint64_t round, uint64_t size, const char* const* slots) {
  const uint64_t bytes = SizeOf(call.type);
  for (size_t rank = 0; rank < call.recvs.counts.size(); ++rank) {
    const Piece piece(round, size, call.recvs.counts[rank]);
    if (piece.size() != 0) {
      char* to = call.recv + (call.recvs.begins[rank] + piece.begin) * bytes;
      std::memcpy(to, slots[rank], piece.size() * bytes);
    }
  }
}

uint64_t NumPieces(uint64_t count, uint64_t size) { return (count + size - 1) / size; }

// A slot holds a piece of the whole: all-reduce, reduce, broadcast and the all-gathers.
void TransferWhole(Communicator& communicator, const Call& call, const Posts& posts) {
  const uint64_t bytes = SizeOf(call.type);
  const uint64_t size = kSlotBytes / bytes;
  const int num_ranks = communicator.num_ranks();
  const bool gathers = call.operation == Operation::kAllGather || call.operation == Operation::kAllGatherV;
  const bool is_root = communicator.rank() == call.root;
  uint64_t longest = 0;
  for (int rank = 0; rank < num_ranks; ++rank) {
    longest = std::max(longest, posts[rank].count);
  }
  const auto pack = [&](uint64_t round, char* slot) {
    const Piece piece(round, size, call.count);
    if (piece.size() != 0 && (call.operation != Operation::kBroadcast || is_root)) {
      std::memcpy(slot, call.send + piece.begin * bytes, piece.size() * bytes);
    }
  };
  const auto unpack = [&](uint64_t round, const char* const* slots) {
    if (gathers) {
      return UnpackFromAll(call, round, size, slots);
    }
    const Piece piece(round, size, call.count);
    char* to = call.recv + piece.begin * bytes;
    if (call.operation == Operation::kBroadcast) {
      if (!is_root) {
        std::memcpy(to, slots[call.root], piece.size() * bytes);
      }
    } else if (call.operation == Operation::kAllReduce || is_root) {
      Reduce(call.type, call.reduce, slots, num_ranks, piece.size(), to);
    }
  };
  RunRounds(communicator, NumPieces(longest, size), pack, unpack);
}

// A slot is divided into a piece for each rank: the scatters and all-to-alls.
void TransferParts(Communicator& communicator, const Call& call, const Posts& posts) {
  const uint64_t bytes = SizeOf(call.type);
  const int num_ranks = communicator.num_ranks();
  const uint64_t stride = kSlotBytes / static_cast<uint64_t>(num_ranks) / sizeof(uint64_t) * sizeof(uint64_t);
  const uint64_t size = stride / bytes;
  const bool all_to_all = call.operation == Operation::kAlltoAll || call.operation == Operation::kAlltoAllV;
  uint64_t longest = 0;
  for (int rank = 0; rank < num_ranks; ++rank) {
    longest = std::max(longest, posts[rank].count);
    longest = std::max(longest, *std::max_element(posts[rank].send_counts, posts[rank].send_counts + num_ranks));
  }
  const auto pack = [&](uint64_t round, char* slot) {
    for (int rank = 0; rank < static_cast<int>(call.sends.counts.size()); ++rank) {
      const Piece piece(round, size, call.sends.counts[rank]);
      if (piece.size() != 0) {
        const char* from = call.send + (call.sends.begins[rank] + piece.begin) * bytes;
        std::memcpy(slot + rank * stride, from, piece.size() * bytes);
      }
    }
  };
  const auto unpack = [&](uint64_t round, const char* const* slots) {
    const char* own[kMaxRanks];
    for (int rank = 0; rank < num_ranks; ++rank) {
      own[rank] = slots[rank] + communicator.rank() * stride;
    }
    if (all_to_all) {
      return UnpackFromAll(call, round, size, own);
    }
    const Piece piece(round, size, call.count);
    char* to = call.recv + piece.begin * bytes;
    if (call.operation == Operation::kScatter) {
      std::memcpy(to, own[call.root], piece.size() * bytes);
    } else {
      Reduce(call.type, call.reduce, own, num_ranks, piece.size(), to);
    }
  };
  RunRounds(communicator, NumPieces(longest, size), pack, unpack);
}

}  // namespace

void Transfer(Communicator& communicator, const Call& call, const Posts& posts) {
  switch (call.operation) {
    case Operation::kBarrier:
      return;  // that all ranks have come is all there is to it
    case Operation::kReduceScatter:
    case Operation::kReduceScatterV:
    case Operation::kScatter:
    case Operation::kAlltoAll:
    case Operation::kAlltoAllV:
      return TransferParts(communicator, call, posts);
    default:
      return TransferWhole(communicator, call, posts);
  }
}

}  // namespace emu::hccl
