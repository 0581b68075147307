// SPDX-License-Identifier: Apache-2.0
// One piece of device work: an operator, a copy, a collective, a host function.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/site.h"
#include "memory/access.h"
#include "memory/choice.h"

namespace emu {

// A captured task, as reports of its replay name it.
struct Part {
  std::string name;
  SiteId site = 0;
};

struct Task {
  std::string name;   // as a report shows it: "aclnnAdd", "copy device to host", "HcclAllReduce"
  Accesses accesses;  // everything `run` reads and writes of device and pinned memory
  // Bytes that two of its parts touch without an order between them, one writing: messages of one batch, tensors
  // of one list, an input that begins inside of an output.
  std::vector<Range> torn;
  // The choices of its accesses, and what they come to: asked for on the stream's thread, before `run`.
  Choices choices;
  ReadIndices choose;
  std::function<void()> run;  // on the stream's thread, in order; an exception is an asynchronous failure
  SiteId site = 0;            // filled in by Enqueue
  // Optional, called under the issue lock each time the task takes its place: when it is pushed, and again at
  // every replay of a graph that holds it (nodes in the order of capture, before the replay is pushed).
  // Collectives take their tickets here. Nodes that have it also run in the order of capture, whatever the seed:
  // two collectives run the other way round on another rank would wait for each other.
  std::function<void()> issued;
  // Of a replay: the captured task that touches these bytes.
  std::function<std::optional<Part>(Range range, bool writes)> part;
  bool always = false;      // runs even when the device has failed: others wait for it
  bool replays = false;     // a graph: several tasks in one
  bool calls_host = false;  // runs code of the program, which may touch what is complete by then
};

}  // namespace emu
