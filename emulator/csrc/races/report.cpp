// SPDX-License-Identifier: Apache-2.0
#include "races/report.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <vector>

#include "core/settings.h"
#include "memory/memory.h"
#include "races/blocks.h"
#include "races/fork.h"
#include "races/history.h"

namespace emu::races {
namespace {

constexpr size_t kMaxReports = 200;
constexpr int kExitStatus = 66;

struct Findings {
  std::mutex mutex;
  std::vector<std::string> texts;
  std::set<std::string> seen;  // pairs of places
};

Resettable<Findings> findings;

void WriteAll(int file, const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t written = write(file, text.data() + done, text.size() - done);
    if (written <= 0) return;
    done += static_cast<size_t>(written);
  }
}

void AppendToLog(const char* ending, const std::string& text) {
  const std::string& folder = GetSettings().race_log;
  if (folder.empty()) return;
  mkdir(folder.c_str(), 0777);
  const std::string path = folder + "/" + std::to_string(getpid()) + ending;
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file < 0) {
    WriteAll(STDERR_FILENO, "[emulator] cannot write " + path + " (EMULATOR_RACE_LOG)\n");
    return;
  }
  WriteAll(file, text);
  close(file);
}

// One write, so that the processes of a run do not mix their lines.
// `parts`: tells further members of the JSON object, for the page.
void Keep(const std::string& key, const std::string& body, const std::function<std::string()>& parts) {
  Findings& all = findings.get();
  std::lock_guard<std::mutex> lock(all.mutex);
  if (all.texts.size() >= kMaxReports || !all.seen.insert(key).second) return;
  all.texts.push_back(body);
  std::string text = "[emulator] race " + std::to_string(all.texts.size()) + " in process " +
                     std::to_string(getpid()) + ": " + body + "\n";
  if (all.texts.size() == kMaxReports) text += "[emulator] further races of this process are not shown\n";
  WriteAll(STDERR_FILENO, text);
  AppendToLog(".txt", text);
  if (GetSettings().race_log.empty()) return;
  AppendToLog(".jsonl", "{\"pid\": " + std::to_string(getpid()) + ", \"text\": " + Quoted(body) + parts() + "}\n");
}

std::string KeyOf(const Operation& operation) {
  return operation.name + "@" + std::to_string(operation.site) + "|";
}

constexpr char kCalledFrom[] = " < ";

// One line for each Python line.
std::string Lines(SiteId site) {
  std::string text = "\n          at " + DescribeSite(site);
  for (size_t at = text.find(kCalledFrom); at != std::string::npos; at = text.find(kCalledFrom, at)) {
    text.replace(at, sizeof(kCalledFrom) - 1, "\n          from ");
  }
  return text;
}

std::string Line(SiteId site) {
  const std::string text = DescribeSite(site);
  return text.substr(0, text.find(kCalledFrom));
}

std::string Party(const char* which, const Operation& operation, const char* does) {
  return std::string("\n  ") + which + operation.name + " on " + operation.stream + " " + does +
         Lines(operation.site);
}

// The same for the page.
std::string Drawn(const char* which, const Operation& operation, const char* does) {
  return std::string(", \"") + which + "\": {\"task\": " + Quoted(operation.name) +
         ", \"stream\": " + Quoted(operation.stream) + ", \"lane\": " + History::Lane(operation.stream_id) +
         ", \"index\": " + std::to_string(operation.index) + ", \"does\": " + Quoted(does) +
         ", \"at\": " + Quoted(Line(operation.site)) + "}";
}

// Which task of a graph it was.
std::string Captured(const Operation& operation, Range range, bool writes) {
  if (!operation.part) return "";
  const std::optional<Part> part = operation.part(range, writes);
  return part ? "\n          in it " + part->name + ", captured" + Lines(part->site) : "";
}

std::string Bytes(Range range, uintptr_t base) {
  const uintptr_t size = range.end - range.begin;
  return std::to_string(size) + (size == 1 ? " byte" : " bytes") + " (" + std::to_string(range.begin - base) +
         " to " + std::to_string(range.end - base - 1) + ")";
}

// `order`: of the operation whose memory it is.
std::string Memory(Range range, uint64_t order) {
  BlockLife block;
  if (!FindBlockAt(range.begin, order, &block)) {
    return "\n  memory: " + Bytes(range, range.begin) + " from address " + Hex(range.begin);
  }
  return "\n  memory: " + Bytes(range, block.begin) + " of the block " + Hex(block.begin) +
         "\n          allocated at " + Line(block.allocated_site);
}

// "freed at ..., handed out again at ..."
std::string Reuse(const Operation& first, const Operation& second, Range range) {
  BlockLife old_block;
  BlockLife new_block;
  std::string text;
  if (FindFreedBlock(range.begin, first.order, &old_block)) {
    text += "\n  memory: allocated at " + Line(old_block.allocated_site) + "\n          freed at " +
            Line(old_block.freed_site);
  }
  if (FindBlockAt(range.begin, second.order, &new_block)) {
    text += "\n          handed out again at " + Line(new_block.allocated_site);
  }
  return text + "\n          " + Bytes(range, new_block.begin) + " of the block " + Hex(new_block.begin);
}

// "aclnnAdd on stream 3 of npu:0"
std::string Name(const Operation& operation) {
  return operation.name + " on " + operation.stream.substr(0, operation.stream.find(", captured"));
}

std::string Headline(Kind kind, const Operation& first, bool first_writes, const Operation& second) {
  if (kind == Kind::kBlockReused) {
    return "the memory of a freed tensor was handed out again while " + Name(first) + " may still be " +
           (first_writes ? "writing" : "reading") + " it.\n" +
           "  To mend it, call tensor.record_stream(stream) with the stream of " + first.name +
           " before the tensor is freed, or let\n" +
           "  the stream that the tensor was allocated on wait for that stream before then.";
  }
  return Name(second) + " does not wait for " + Name(first) + ", and both use the same memory.\n" +
         "  To mend it, let the second stream wait for the first before the call (wait_stream, or an event\n" +
         "  recorded after the first call), or let the program synchronise the first stream in between.";
}

// A process that fails by itself keeps its own status.
void LeaveWithFindings(int status, void*) {
  if (status != 0 || NumReports() == 0) return;
  std::fflush(nullptr);
  WriteAll(STDERR_FILENO, "[emulator] races were found (" + std::to_string(NumReports()) +
                              "): the process ends with status " + std::to_string(kExitStatus) + "\n");
  _exit(kExitStatus);
}

// Registered when the library is loaded, so that it runs after what the program registers.
[[maybe_unused]] const int registered = on_exit(LeaveWithFindings, nullptr);

}  // namespace

void ReportRace(Kind kind, const Operation& first, bool first_writes, const Operation& second, bool second_writes,
                Range range, bool by_indices, const ExcerptPtr& history) {
  const char* const first_does = first_writes ? "writes it" : "reads it";
  const char* const second_does = second_writes ? "writes it" : "reads it";
  std::string text = Headline(kind, first, first_writes, second);
  text += Party("first:  ", first, first_does) + Captured(first, range, first_writes);
  text += Party("second: ", second, second_does) + Captured(second, range, second_writes);
  text += kind == Kind::kBlockReused ? Reuse(first, second, range) : Memory(range, second.order);
  if (by_indices) text += "\n          as the indices say that were read when it ran";
  Keep(KeyOf(first) + KeyOf(second), text, [&] {
    return Drawn("first", first, first_does) + Drawn("second", second, second_does) +
           ", \"history\": " + (history ? history->Json() : "[]");
  });
}

void ReportTorn(const Operation& operation, Range range) {
  std::string text = Name(operation) +
                     " uses the same memory twice, and writes it: which comes first is not defined.\n" +
                     "  To mend it, give each of its operands memory of its own, or split the call in two.";
  text += Party("in:     ", operation, "reads or writes it twice");
  text += Memory(range, operation.order);
  Keep(KeyOf(operation) + "torn", text, [&] { return Drawn("first", operation, "reads or writes it twice"); });
}

void ReportHostAccess(Kind kind, const Operation& pending, SiteId site, Range range) {
  const bool reads = kind == Kind::kHostRead;
  std::string text =
      std::string("the program ") + (reads ? "reads pinned memory before " : "overwrites pinned memory while ") +
      Name(pending) + (reads ? " is known to have written it.\n" : " may still use it.\n") +
      "  To mend it, synchronise that stream, or an event recorded on it after the call, before\n" +
      "  the program touches the memory" + (reads ? "." : ", or give the next copy another buffer.");
  const char* const first_does = reads ? "writes it" : "uses it";
  const char* const second_does = reads ? "reads it" : "writes it";
  text += Party("first:  ", pending, first_does) + Captured(pending, range, reads);
  text += std::string("\n  second: the program ") + second_does + Lines(site);
  text += "\n  memory: " + Bytes(range, range.begin) + " of pinned memory from address " + Hex(range.begin);
  const Operation program{"the program", "the program", site, History::kHost, 0, 0, {}, nullptr};
  Keep(KeyOf(pending) + "host@" + std::to_string(site), text,
       [&] { return Drawn("first", pending, first_does) + Drawn("second", program, second_does); });
}

void ReportFinding(Kind kind, const std::string& text) {
  std::string mend;
  if (kind == Kind::kUnjoined) {
    mend = "\n  To mend it, let the capture's stream wait for each of them (wait_stream) before the capture ends.";
  } else if (kind == Kind::kMismatch) {
    mend = "\n  To mend it, let every rank of the group make the same calls in the same order.";
  } else if (kind == Kind::kSilentPeer) {
    mend = "\n  The cause is on that rank: see what it printed last.";
  }
  Keep(std::to_string(static_cast<int>(kind)) + text, text + mend, [] { return std::string(); });
}

uint64_t NumReports() {
  Findings& all = findings.get();
  std::lock_guard<std::mutex> lock(all.mutex);
  return all.texts.size();
}

std::string ReportText(uint64_t index) {
  Findings& all = findings.get();
  std::lock_guard<std::mutex> lock(all.mutex);
  return index < all.texts.size() ? all.texts[index] : "";
}

void ClearReports() {
  Findings& all = findings.get();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.texts.clear();
  all.seen.clear();
}

}  // namespace emu::races
