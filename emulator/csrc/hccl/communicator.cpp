// SPDX-License-Identifier: Apache-2.0
#include "hccl/communicator.h"

#include <chrono>
#include <cstring>
#include <utility>

#include "core/failure.h"

namespace emu::hccl {

// Tickets of one task, taken when it is issued (each replay of a graph issues it again), used when it runs.
struct Communicator::Tickets {
  std::mutex mutex;
  std::deque<uint64_t> taken;
};

// A call's turn on the communicator, in the order of tickets.
class Communicator::Turn {
 public:
  Turn(Communicator& communicator, Tickets& tickets) : communicator_(communicator) {
    uint64_t ticket;
    {
      const std::lock_guard<std::mutex> lock(tickets.mutex);
      ticket = tickets.taken.front();
      tickets.taken.pop_front();
    }
    std::unique_lock<std::mutex> lock(communicator.mutex_);
    const auto here = [&] { return communicator.serving_ == ticket; };
    // Earlier calls have deadlines of their own, but after a failure they may never run.
    while (!communicator.turn_changed_.wait_for(lock, std::chrono::milliseconds(100), here)) {
      communicator.ThrowIfFailed();
      emu::ThrowIfFailed();
    }
  }
  ~Turn() {
    {
      const std::lock_guard<std::mutex> lock(communicator_.mutex_);
      ++communicator_.serving_;
    }
    communicator_.turn_changed_.notify_all();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  Communicator& communicator_;
};

Communicator::Communicator(Segment segment, std::string segment_name, int num_ranks, int rank, std::string name)
    : segment_(std::move(segment)),
      segment_name_(std::move(segment_name)),
      num_ranks_(num_ranks),
      rank_(rank),
      name_(std::move(name)) {}

Communicator::~Communicator() {
  Leave(*this);
  mine().presence.store(Presence::kLeft);
  segment_.Ring();
}

std::string Communicator::DescribeRank(int rank) const {
  return "rank " + std::to_string(rank) + " (pid " + std::to_string(segment_.rank(rank).process.pid) + ")";
}

void Communicator::Issue(Stream& stream, Task task, std::string note, std::function<void()> body) {
  Issue(stream, std::move(task), std::move(note), std::move(body), false);
}

void Communicator::IssueCollective(Stream& stream, Task task, std::string note, std::function<void()> body) {
  Issue(stream, std::move(task), std::move(note), std::move(body), true);
}

void Communicator::Issue(Stream& stream, Task task, std::string note, std::function<void()> body,
                         bool is_collective) {
  ThrowIfFailed();
  auto self = shared_from_this();
  auto tickets = std::make_shared<Tickets>();
  task.issued = [self, tickets, launched = is_collective ? note : ""] {
    if (!launched.empty()) PublishLaunch(*self, launched);
    const std::lock_guard<std::mutex> lock(tickets->mutex);
    tickets->taken.push_back(self->next_ticket_.fetch_add(1));
  };
  task.run = [self, tickets, note = std::move(note), body = std::move(body)] {
    const Turn turn(*self, *tickets);
    self->ThrowIfFailed();
    self->Note(note);
    body();
    self->mine().in_call.store(0);
  };
  Enqueue(stream, std::move(task));
}

void Communicator::Note(const std::string& text) {
  RankBlock& block = mine();
  const uint64_t number = block.noted.load() + 1;
  std::strncpy(block.notes[number % 2], text.c_str(), kNoteBytes - 1);
  block.noted.store(number);
  block.in_call.store(1);
}

void Communicator::Fail(races::Kind kind, const std::string& text) {
  RankBlock& block = mine();
  const std::string whole = "HCCL communicator " + name_ + " of " + std::to_string(num_ranks_) + " ranks: " + text;
  if (block.failed.load() == 0) {
    std::strncpy(block.failure, whole.c_str(), kFailureBytes - 1);
    block.failed.store(1 + static_cast<uint32_t>(kind));
    segment_.header().num_failed.fetch_add(1);
    segment_.Ring();
  }
  ReportOnce(kind, whole);
  throw Error(kDeviceError, whole);
}

void Communicator::ReportOnce(races::Kind kind, const std::string& text) {
  if (!reported_.exchange(true)) {
    races::ReportFinding(kind, text);
  }
}

int Communicator::FailedRank() const {
  const bool any = segment_.header().num_failed.load() != 0;  // counted after `failed` is set
  for (int rank = 0; any && rank < num_ranks_; ++rank) {
    if (segment_.rank(rank).failed.load() != 0) {
      return rank;
    }
  }
  return -1;
}

std::string Communicator::Failure() const {
  const int rank = FailedRank();
  return rank < 0 ? "" : std::string(segment_.rank(rank).failure) + "\n  found by " + DescribeRank(rank);
}

void Communicator::ThrowIfFailed() {
  const int rank = FailedRank();
  if (rank < 0) {
    return;
  }
  const std::string failure = Failure();
  ReportOnce(static_cast<races::Kind>(segment_.rank(rank).failed.load() - 1), failure);
  throw Error(kDeviceError, failure);
}

uint64_t Communicator::CountSubCommunicator(uint64_t identifier) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return num_sub_communicators_[identifier]++;
}

}  // namespace emu::hccl
