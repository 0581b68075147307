// SPDX-License-Identifier: Apache-2.0
// One rank's end of a communicator: attaching, the order of its calls, waiting for other ranks, and failing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "core/stream.h"
#include "hccl/segment.h"
#include "races/report.h"

namespace emu::hccl {

using RankSet = uint64_t;  // one bit a rank
static_assert(kMaxRanks <= 64);
constexpr RankSet Bit(int rank) { return RankSet{1} << rank; }

class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  // Blocks until all ranks have attached; rank 0 creates the segment. Throws Error that names who is missing or
  // gone.
  static std::shared_ptr<Communicator> Create(const SegmentName& segment, int num_ranks, int rank,
                                              const std::string& name);
  ~Communicator();

  int rank() const { return rank_; }
  int num_ranks() const { return num_ranks_; }
  const std::string& name() const { return name_; }
  const std::string& segment_name() const { return segment_name_; }
  const Segment& segment() const { return segment_; }
  RankBlock& mine() const { return segment_.rank(rank_); }
  std::string DescribeRank(int rank) const;  // "rank 1 (pid 7)"

  // Issues `task` with `body` as what it runs: one call at a time and in the order of issue, whatever their
  // streams. `note` is the call as other ranks' messages show it.
  void Issue(Stream& stream, Task task, std::string note, std::function<void()> body);
  // The same for a call that all ranks make.
  void IssueCollective(Stream& stream, Task task, std::string note, std::function<void()> body);

  // Blocks until `missing` returns no rank. It may do work, and then returns none. Meanwhile looks after the ranks
  // it names: one that is gone, that left, that waits for this rank in turn, or that does not come before the
  // deadline fails the communicator.
  void Wait(const std::function<RankSet()>& missing);
  // The same until `state` of every rank has come to `value`.
  template <typename Value>
  void WaitForAll(std::atomic<Value> RankBlock::* state, Value value) {
    Wait([&] {
      RankSet missing = 0;
      for (int rank = 0; rank < num_ranks_; ++rank) {
        if ((segment_.rank(rank).*state).load() < value) {
          missing |= Bit(rank);
        }
      }
      return missing;
    });
  }

  // Marks the communicator as failed for all ranks, reports the finding and throws Error. `text` says what
  // happened.
  [[noreturn]] void Fail(races::Kind kind, const std::string& text);
  // Throws Error with the reason once any rank has failed it.
  void ThrowIfFailed();
  std::string Failure() const;  // "" while it works

  // The window that the ranks' operators share (HCCL_BUFFSIZE); set once, when it is made.
  uint64_t window_mib = 200;

  // Counters of the collectives done so far, the same on all ranks; touched only by the call whose turn it is.
  uint64_t num_posts = 0;
  uint64_t num_rounds = 0;

  // Sub-communicators made so far with one identifier: part of their segment's name.
  uint64_t CountSubCommunicator(uint64_t identifier);

 private:
  class Turn;
  struct Tickets;                                      // of one task, which may be replayed
  struct Watch;                                        // what the peers' waits looked like when ours began
  enum class Trouble { kNone, kLate, kStuck, kGone };  // from bad to worse
  struct Finding {
    Trouble trouble = Trouble::kNone;
    std::string text;
  };

  Communicator(Segment segment, std::string segment_name, int num_ranks, int rank, std::string name);
  void Attach();
  void Issue(Stream& stream, Task task, std::string note, std::function<void()> body, bool is_collective);
  void Note(const std::string& text);
  int FailedRank() const;  // the first that failed the communicator; -1 while it works
  Finding Inspect(int rank, const Watch& watch) const;
  bool CheckPeers(const std::function<RankSet()>& missing, const Watch& watch);  // false: nothing is missing now
  std::string DescribeActivity(int rank) const;
  void ReportOnce(races::Kind kind, const std::string& text);

  const Segment segment_;
  const std::string segment_name_;
  const int num_ranks_;
  const int rank_;
  const std::string name_;
  std::atomic<bool> reported_{false};

  std::atomic<uint64_t> next_ticket_{0};
  std::mutex mutex_;
  std::condition_variable turn_changed_;
  uint64_t serving_ = 0;
  std::map<uint64_t, uint64_t> num_sub_communicators_;
};

}  // namespace emu::hccl
