// SPDX-License-Identifier: Apache-2.0
// The operators of the single-operator interface: what torch_npu calls so because it has no aclnn function.
#pragma once

#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "aclop/call.h"

namespace emu::aclop {

// What a body gets: inputs that are not given are undefined. Outputs are dense, as they were made.
struct Operands {
  std::vector<at::Tensor> in, out;
  std::map<std::string, Attribute> attributes;

  template <typename T>
  T Get(const std::string& name, T missing) const {
    const auto found = attributes.find(name);
    return found == attributes.end() ? missing : std::get<T>(found->second);
  }
};

using Body = void (*)(const Operands& call);

// The body of an operator; null: there is none of this name.
Body BodyOf(const std::string& name);

}  // namespace emu::aclop
