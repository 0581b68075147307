// SPDX-License-Identifier: Apache-2.0
#include "hccl/p2p.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/failure.h"
#include "core/site.h"
#include "memory/memory.h"
#include "memory/rows.h"

namespace emu::hccl {
namespace {

std::string Describe(const Message& message) {
  return std::string(message.send ? "send to rank " : "receive from rank ") + std::to_string(message.peer) +
         " (count " + std::to_string(message.count) + ", " + NameOf(message.type) + ")";
}

// One message on its way. The two ends share a channel with room for two packets; a message has at least one
// packet, so that both ends see each other even when it is empty.
class Transit {
 public:
  // `whole`: the message is all that its task moves.
  Transit(Communicator& communicator, const Message& message, const std::string& where, bool whole)
      : communicator_(communicator),
        message_(message),
        whole_(whole),
        where_(where),
        channel_(message.send ? communicator.segment().channel(communicator.rank(), message.peer)
                              : communicator.segment().channel(message.peer, communicator.rank())),
        bytes_(message.count * SizeOf(message.type)),
        num_packets_(std::max<uint64_t>(1, (bytes_ + kPacketBytes - 1) / kPacketBytes)) {}

  bool done() const { return done_; }
  int peer() const { return message_.peer; }
  const Channel* channel() const { return &channel_; }
  bool sends() const { return message_.send; }

  // Moves what can be moved now; false if that is nothing.
  bool Advance() {
    if (!begun_) {  // not earlier: a message before this one may still be on the channel
      base_ = message_.send ? channel_.sent.load() : channel_.received.load();
      begun_ = true;
    }
    return message_.send ? Push() : Pull();
  }

 private:
  bool Push() {
    const uint64_t received = channel_.received.load() - base_;
    if (received == num_packets_) {
      done_ = true;
      return true;
    }
    if (next_ == num_packets_ || next_ >= received + 2) {
      return false;
    }
    if (next_ == 0) {
      channel_.count = message_.count;
      channel_.type = static_cast<int32_t>(message_.type);
      std::strncpy(channel_.note, (Describe(message_) + where_).c_str(), kNoteBytes - 1);
      races::Depart(whole_, &channel_.known);
    }
    if (bytes_ != 0) {
      std::memcpy(Packet(), message_.buffer + next_ * kPacketBytes, PacketBytes());
    }
    channel_.sent.store(base_ + ++next_);
    communicator_.segment().Ring();
    return true;
  }

  bool Pull() {
    if (channel_.sent.load() <= base_ + next_) {
      return false;
    }
    if (next_ == 0 && (channel_.count != message_.count || channel_.type != static_cast<int32_t>(message_.type))) {
      const std::string self = communicator_.DescribeRank(communicator_.rank());
      communicator_.Fail(races::Kind::kMismatch,
                         "a message does not fit its receiver:\n  " + communicator_.DescribeRank(message_.peer) +
                             ": " + channel_.note + "\n  " + self + ": " + Describe(message_) + where_);
    }
    if (next_ == 0) races::Arrive(channel_.known);  // the rest comes before this task ends
    if (bytes_ != 0) {
      std::memcpy(message_.buffer + next_ * kPacketBytes, Packet(), PacketBytes());
    }
    channel_.received.store(base_ + ++next_);
    communicator_.segment().Ring();
    done_ = next_ == num_packets_;
    return true;
  }

  char* Packet() const { return channel_.packets[(base_ + next_) % 2]; }
  uint64_t PacketBytes() const { return std::min<uint64_t>(kPacketBytes, bytes_ - next_ * kPacketBytes); }

  Communicator& communicator_;
  const Message message_;
  const bool whole_;
  const std::string& where_;
  Channel& channel_;
  const uint64_t bytes_;
  const uint64_t num_packets_;
  uint64_t base_ = 0;  // packets of earlier messages
  uint64_t next_ = 0;
  bool begun_ = false;
  bool done_ = false;
};

void Move(Communicator& communicator, const std::vector<Message>& messages, const std::string& where) {
  std::vector<Transit> transits;
  transits.reserve(messages.size());
  for (const Message& message : messages) {
    transits.emplace_back(communicator, message, where, messages.size() == 1);
  }
  // Of the messages with the same end on the same channel only the first unfinished one moves.
  const auto is_blocked_before = [&](size_t index) {
    for (size_t i = 0; i < index; ++i) {
      if (!transits[i].done() && transits[i].channel() == transits[index].channel() &&
          transits[i].sends() == transits[index].sends()) {
        return true;
      }
    }
    return false;
  };
  const auto is_done = [](const Transit& transit) { return transit.done(); };
  while (!std::all_of(transits.begin(), transits.end(), is_done)) {
    communicator.Wait([&] {
      bool moved = false;
      RankSet missing = 0;
      for (size_t i = 0; i < transits.size(); ++i) {
        if (!transits[i].done() && !is_blocked_before(i)) {
          moved |= transits[i].Advance();
          missing |= Bit(transits[i].peer());
        }
      }
      return moved ? 0 : missing;
    });
  }
}

struct Kept {
  std::shared_ptr<Communicator> communicator;
  Stream* stream;
  std::vector<Message> messages;
};
thread_local int group_depth = 0;
thread_local std::vector<Kept> kept;

}  // namespace

void IssueMessages(const std::shared_ptr<Communicator>& communicator, const std::string& name,
                   std::vector<Message> messages, Stream& stream) {
  Task task;
  task.name = name;
  std::string note = name + ":";
  for (const Message& message : messages) {
    if (message.peer < 0 || message.peer >= communicator->num_ranks()) {
      throw Error(kInvalidParam, name + ": the communicator has no rank " + std::to_string(message.peer));
    }
    const Range range = RangeOf(message.buffer, message.count * SizeOf(message.type));
    if (!range.Empty()) {
      CheckDeviceRange(range, name + (message.send ? "'s send buffer" : "'s receive buffer"));
      const Access access{range, !message.send};
      for (const Access& other : task.accesses) {
        Range shared;
        if ((access.write || other.write) && Meet(access, other, &shared)) task.torn.push_back(shared);
      }
      task.accesses.push_back(access);
    }
    note += (note.back() == ':' ? " " : ", ") + Describe(message);
  }
  task.site = CurrentSite();
  const std::string where = " at " + DescribeSite(task.site);
  Communicator* running = communicator.get();  // the task keeps it
  communicator->Issue(stream, std::move(task), note + where,
                      [running, messages = std::move(messages), where] { Move(*running, messages, where); });
}

void StartGroup() { ++group_depth; }

void EndGroup() {
  if (group_depth == 0) {
    throw Error(kInvalidParam, "HcclGroupEnd without HcclGroupStart");
  }
  if (--group_depth > 0) {
    return;
  }
  const std::vector<Kept> batches = std::exchange(kept, {});
  for (const Kept& batch : batches) {
    IssueMessages(batch.communicator, "HcclGroup", batch.messages, *batch.stream);
  }
}

void IssueMessage(const std::shared_ptr<Communicator>& communicator, const Message& message, Stream& stream) {
  if (group_depth == 0) {
    return IssueMessages(communicator, message.send ? "HcclSend" : "HcclRecv", {message}, stream);
  }
  for (Kept& batch : kept) {
    if (batch.communicator == communicator && batch.stream == &stream) {
      batch.messages.push_back(message);
      return;
    }
  }
  kept.push_back({communicator, &stream, {message}});
}

}  // namespace emu::hccl
