// SPDX-License-Identifier: Apache-2.0
#include "core/word.h"

#include <chrono>
#include <map>

#include "core/failure.h"
#include "core/graph.h"
#include "core/settings.h"
#include "memory/memory.h"
#include "races/checker.h"

namespace emu {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(50);

struct Words {
  std::mutex mutex;
  std::map<uintptr_t, std::shared_ptr<Word>> all;  // by address
};

Words& Known() {
  static auto* words = new Words;
  return *words;
}

std::shared_ptr<Word> WordAt(uint64_t* address) {
  CheckDeviceRange(RangeOf(address, sizeof *address), "the word to wait for");
  Words& words = Known();
  const std::lock_guard<std::mutex> lock(words.mutex);
  std::shared_ptr<Word>& word = words.all[reinterpret_cast<uintptr_t>(address)];
  if (!word) word = std::make_shared<Word>();
  return word;
}

void Await(Word& word, const uint64_t* address, const std::function<bool(uint64_t)>& reached) {
  const std::chrono::duration<double> limit(GetSettings().hccl_timeout_s);
  const auto deadline = std::chrono::steady_clock::now() + limit;
  std::unique_lock<std::mutex> lock(word.mutex);
  while (!word.changed.wait_for(lock, kPoll, [&] { return reached(*address); })) {
    if (Failed()) return;
    if (std::chrono::steady_clock::now() > deadline) {
      throw Error(kEventSyncTimeout, "waited " + std::to_string(limit.count()) +
                                         " s for an external event that no stream has recorded");
    }
  }
}

}  // namespace

void WriteWord(uint64_t* address, uint64_t value, Stream& stream) {
  const std::shared_ptr<Word> word = WordAt(address);
  {
    const std::lock_guard<std::mutex> lock(IssueLock());
    if (!stream.capture) word->clock = races::ProcessChecker().ClockOf(stream.id());
  }
  Task task;
  task.name = "record external event";
  task.always = true;
  task.run = [word, address, value] {
    {
      const std::lock_guard<std::mutex> lock(word->mutex);
      *address = value;
    }
    word->changed.notify_all();
  };
  Enqueue(stream, std::move(task));
}

void WaitWord(uint64_t* address, std::function<bool(uint64_t)> reached, Stream& stream) {
  const std::shared_ptr<Word> word = WordAt(address);
  {
    const std::lock_guard<std::mutex> lock(IssueLock());
    if (stream.capture) {
      stream.capture->NoteWord(word);
    } else {
      races::ProcessChecker().Wait(stream.id(), word->clock);
    }
  }
  Task task;
  task.name = "wait for external event";
  task.run = [word, address, reached = std::move(reached)] { Await(*word, address, reached); };
  Enqueue(stream, std::move(task));
}

void ForgetWords(Range range) {
  Words& words = Known();
  const std::lock_guard<std::mutex> lock(words.mutex);
  words.all.erase(words.all.lower_bound(range.begin), words.all.lower_bound(range.end));
}

}  // namespace emu
