// SPDX-License-Identifier: Apache-2.0
// Point-to-point messages: matched by source and destination in the order of issue. A send ends when its receiver
// has taken the message, as on the device; the messages of one batch move together, in whatever order they are
// listed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/stream.h"
#include "hccl/communicator.h"
#include "hccl/types.h"

namespace emu::hccl {

struct Message {
  bool send = false;
  char* buffer = nullptr;
  uint64_t count = 0;
  DataType type = DataType::kInt8;
  int peer = 0;
};

// One task that moves all messages. `name` as reports show it.
void IssueMessages(const std::shared_ptr<Communicator>& communicator, const std::string& name,
                   std::vector<Message> messages, Stream& stream);

// Between StartGroup and the matching EndGroup the calling thread's messages are kept; EndGroup issues those of
// one communicator and stream as one batch. Collectives are not held back.
void StartGroup();
void EndGroup();
// Issues the message at once, or keeps it for the group.
void IssueMessage(const std::shared_ptr<Communicator>& communicator, const Message& message, Stream& stream);

}  // namespace emu::hccl
