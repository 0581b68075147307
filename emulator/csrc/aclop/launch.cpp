// SPDX-License-Identifier: Apache-2.0
// Puts an operator of the single-operator interface onto a stream. All of each operand counts for the checker.
#include <utility>

#include <ATen/core/LegacyTypeDispatch.h>

#include "aclop/operators.h"
#include "core/failure.h"
#include "kernel.h"
#include "opapi/operator.h"

namespace emu::aclop {
namespace {

at::Tensor TensorOf(const Operand& operand) {
  if (operand.type < 0 || operand.data == nullptr) return {};
  const auto type = opapi::ScalarTypeOf(operand.type);
  const auto tensor = at::from_blob(operand.data, operand.shape, at::TensorOptions(type).device(at::kCPU));
  return operand.on_host ? tensor.clone() : tensor;  // the caller may end its life
}

bool Run(const Call& call, void* stream, int& code) {
  const Body body = BodyOf(call.name);
  if (body == nullptr) return false;
  Operands operands{{}, {}, call.attributes};
  Accesses accesses;
  for (const auto& operand : call.inputs) {
    operands.in.push_back(TensorOf(operand));
    if (!operand.on_host && operand.data != nullptr) {
      accesses.push_back({RangeOf(operand.data, operands.in.back().nbytes()), false});
    }
  }
  for (const auto& operand : call.outputs) {
    operands.out.push_back(TensorOf(operand));
    if (operand.data != nullptr) {
      accesses.push_back({RangeOf(operand.data, operands.out.back().nbytes()), true});
    }
  }
  code = LaunchKernel(call.name.c_str(), stream, std::move(accesses),
                      [body, operands = std::move(operands)] { opapi::RunGuarded([&] { body(operands); }); });
  return true;
}

[[maybe_unused]] const bool registered = (SetRunner(Run), true);

}  // namespace
}  // namespace emu::aclop
