// SPDX-License-Identifier: Apache-2.0
// Waiting for other ranks, with an eye on them.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>

#include "core/failure.h"
#include "core/settings.h"
#include "hccl/communicator.h"

namespace emu::hccl {
namespace {

using SteadyClock = std::chrono::steady_clock;
constexpr int kCheckMs = 100;
constexpr int kSpins = 20;
constexpr uint64_t kLooksToBelieve = 2;

std::string Seconds(double seconds) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g s", seconds);
  return text;
}

}  // namespace

// A rank that waits for us and has looked again, twice and in the same wait, since our own wait began, saw all
// that we have published. When we wait for it too, neither can go on.
struct Communicator::Watch {
  SteadyClock::time_point begin = SteadyClock::now();
  struct Peer {
    uint64_t wait_number;
    uint64_t looks;
  } peers[kMaxRanks];

  Watch(const Segment& segment, int num_ranks) {
    for (int rank = 0; rank < num_ranks; ++rank) {
      const RankBlock& block = segment.rank(rank);
      peers[rank].wait_number = block.wait_number.load();
      peers[rank].looks = block.looks.load();
    }
  }
  double Waited() const { return std::chrono::duration<double>(SteadyClock::now() - begin).count(); }
  bool IsStuckOn(int peer, int rank, const Segment& segment) const {
    const RankBlock& block = segment.rank(peer);
    const uint64_t looks = block.looks.load();
    const bool waits = (block.waits_for.load() & Bit(rank)) != 0;
    return waits && looks >= peers[peer].looks + kLooksToBelieve &&
           block.wait_number.load() == peers[peer].wait_number;
  }
};

void Communicator::Wait(const std::function<RankSet()>& missing) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (missing() == 0) {
      return;
    }
    std::this_thread::yield();
  }
  RankBlock& block = mine();
  block.waits_for.store(0);
  block.wait_number.fetch_add(1);
  const Watch watch(segment_, num_ranks_);
  auto checked = watch.begin;
  for (;;) {
    const uint32_t heard = segment_.Listen();
    const RankSet waits_for = missing();
    block.waits_for.store(waits_for);
    block.looks.fetch_add(1);
    if (waits_for == 0) {
      return;
    }
    ThrowIfFailed();
    emu::ThrowIfFailed();  // another stream of this process: no use in waiting on
    segment_.Sleep(heard, kCheckMs);
    if (SteadyClock::now() - checked >= std::chrono::milliseconds(kCheckMs)) {
      if (!CheckPeers(missing, watch)) {
        return;
      }
      checked = SteadyClock::now();
    }
  }
}

Communicator::Finding Communicator::Inspect(int rank, const Watch& watch) const {
  const RankBlock& peer = segment_.rank(rank);
  const Presence presence = peer.presence.load();
  const bool late = watch.Waited() >= GetSettings().hccl_timeout_s;
  const std::string name = DescribeRank(rank);
  if (presence < Presence::kAttached) {
    const std::string text = "rank " + std::to_string(rank) + " has not joined within " + Seconds(watch.Waited());
    return {late ? Trouble::kLate : Trouble::kNone, text};
  }
  const std::string activity = DescribeActivity(rank);
  if (!IsAlive(peer.process)) {
    return {Trouble::kGone, name + " is gone: its process has ended. It " + activity};
  }
  if (presence == Presence::kLeft) {
    return {Trouble::kGone, name + " has destroyed the communicator. It " + activity};
  }
  if (watch.IsStuckOn(rank, rank_, segment_)) {
    return {Trouble::kStuck, name + " waits for rank " + std::to_string(rank_) + ": it " + activity};
  }
  const std::string text = name + " did not come within " + Seconds(watch.Waited()) + ": it " + activity;
  return {late ? Trouble::kLate : Trouble::kNone, text};
}

bool Communicator::CheckPeers(const std::function<RankSet()>& missing, const Watch& watch) {
  const RankSet before = mine().waits_for.load();
  Finding findings[kMaxRanks];
  Trouble worst = Trouble::kNone;
  for (int rank = 0; rank < num_ranks_; ++rank) {
    if ((before & Bit(rank)) != 0) {
      findings[rank] = Inspect(rank, watch);
      worst = std::max(worst, findings[rank].trouble);
    }
  }
  if (worst == Trouble::kNone) {
    return true;
  }
  const RankSet after = missing();  // what a rank published just before it ended or left still counts
  if (after == 0) {
    return false;
  }
  std::string text;
  for (int rank = 0; rank < num_ranks_; ++rank) {
    if ((after & Bit(rank)) != 0 && findings[rank].trouble == worst) {
      text += "\n  " + findings[rank].text;
    }
  }
  if (text.empty()) {
    return true;
  }
  text += "\n  " + DescribeRank(rank_) + " " + DescribeActivity(rank_);
  if (worst == Trouble::kStuck) {
    Fail(races::Kind::kMismatch, "two ranks wait for each other:" + text);
  }
  Fail(races::Kind::kSilentPeer, (worst == Trouble::kGone ? "a rank is gone:" : "a rank is late:") + text);
}

std::string Communicator::DescribeActivity(int rank) const {
  const RankBlock& block = segment_.rank(rank);
  const uint64_t number = block.noted.load();
  if (number == 0) {
    return "has made no call on this communicator";
  }
  const std::string note = block.notes[number % 2];
  const std::string state = block.in_call.load() != 0 ? "is in its call " : "has finished its call ";
  return state + std::to_string(number) + ", " + note;
}

}  // namespace emu::hccl
