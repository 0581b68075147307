// SPDX-License-Identifier: Apache-2.0
// A call of the single-operator interface (aclop), as libascendcl takes it from torch_npu and gives it to
// libopapi, which knows the operators.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace emu::aclop {

// One operand. type: of ACL, negative for one that is not given. On the host only what the operator reads at once.
struct Operand {
  int type = -1;
  std::vector<int64_t> shape;
  void* data = nullptr;
  size_t bytes = 0;
  bool on_host = false;
};

using Attribute = std::variant<bool, int64_t, float, std::string, std::vector<int64_t>>;

struct Call {
  std::string name;
  std::vector<Operand> inputs, outputs;
  std::map<std::string, Attribute> attributes;
};

// Puts the operator onto the stream and returns its ACL code in `code`; false: there is none of this name.
using Runner = bool (*)(const Call& call, void* stream, int& code);

// Called by libopapi when it is loaded.
void SetRunner(Runner runner);

}  // namespace emu::aclop
