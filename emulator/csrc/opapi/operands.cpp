// SPDX-License-Identifier: Apache-2.0
#include "opapi/operands.h"

#include <memory>
#include <string>
#include <utility>

#include "memory/memory.h"
#include "memory/rows.h"
#include "opapi/choosing.h"
#include "opapi/ranges.h"
#include "races/checker.h"

namespace emu::opapi {
namespace {

struct Operand {
  const Tensor* tensor;
  const Parameter* parameter;
  size_t place;  // in a list
  Range span;

  bool Writes() const { return parameter->use != Use::kRead; }
  bool Listed() const { return parameter->type == Type::kTensors; }
};

void Add(const Operator& op, const Parameter& parameter, const Tensor& tensor, size_t place,
         std::vector<Operand>& operands) {
  if (!tensor.defined() || tensor.numel() == 0) return;
  const Range span = SpanOf(tensor);
  CheckDeviceRange(span, std::string(op.name) + ": operand '" + parameter.name + "'");
  operands.push_back({&tensor, &parameter, place, span});
}

std::vector<Operand> OperandsOf(const Operator& op, const Arguments& arguments) {
  std::vector<Operand> operands;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto& parameter = op.parameters[i];
    if (const auto* tensor = std::get_if<Tensor>(&arguments[i])) Add(op, parameter, *tensor, 0, operands);
    if (const auto* resized = std::get_if<Resized>(&arguments[i])) {
      Add(op, parameter, resized->memory, 0, operands);
    }
    if (const auto* tensors = std::get_if<Tensors>(&arguments[i])) {
      for (size_t place = 0; place < tensors->size(); ++place) {
        Add(op, parameter, (*tensors)[place], place, operands);
      }
    }
  }
  return operands;
}

// In place: each element is read before it is written. Of lists that holds for the tensors at one place.
bool InPlace(const Operand& a, const Operand& b) {
  const bool same_view = a.span.begin == b.span.begin && a.tensor->sizes() == b.tensor->sizes() &&
                         a.tensor->strides() == b.tensor->strides() &&
                         a.tensor->element_size() == b.tensor->element_size();
  if (!same_view || a.parameter == b.parameter) return false;
  if (a.parameter->use == Use::kWrite && b.parameter->use == Use::kWrite) return false;
  return !a.Listed() || !b.Listed() || a.place == b.place;
}

bool Meet(const Operand& a, const Operand& b, Range* shared) {
  Accesses of_a;
  Accesses of_b;
  AddAccesses(*a.tensor, a.Writes(), of_a);
  AddAccesses(*b.tensor, b.Writes(), of_b);
  for (const Access& first : of_a) {
    for (const Access& second : of_b) {
      if (emu::Meet(first, second, shared)) return true;
    }
  }
  return false;
}

// Null: the operator touches all of the operand. Copies of an argument share its implementation.
std::shared_ptr<Choice> ChoiceOf(const Tensor& tensor, const std::vector<Choosing::Named>& named,
                                 const Choices& choices) {
  for (size_t i = 0; i < named.size(); ++i) {
    if (named[i].operand.is_same(tensor)) return choices[i];
  }
  return nullptr;
}

Access InOne(const Tensor& tensor, bool write, std::shared_ptr<Choice> choice) {
  const Rows rows = RowsOf(tensor);
  return {SpanOf(tensor), write, rows.dims.empty() ? nullptr : std::make_shared<const Rows>(rows),
          std::move(choice)};
}

}  // namespace

Touched TouchedBy(const Operator& op, const Arguments& arguments) {
  const std::vector<Operand> operands = OperandsOf(op, arguments);
  Touched touched;
  Choosing choosing(false);
  if (op.choose != nullptr && races::Checking()) op.choose(arguments, choosing);
  touched.choices = ChoicesOf(choosing.named());
  for (size_t i = 0; i < operands.size(); ++i) {
    const Operand& a = operands[i];
    if (auto choice = ChoiceOf(*a.tensor, choosing.named(), touched.choices)) {
      touched.accesses.push_back(InOne(*a.tensor, a.Writes(), std::move(choice)));
    } else {
      AddAccesses(*a.tensor, a.Writes(), touched.accesses);
    }
    for (size_t k = 0; k < i; ++k) {
      const Operand& b = operands[k];
      Range shared;
      const bool apart = a.span.begin >= b.span.end || b.span.begin >= a.span.end;
      if (apart || (!a.Writes() && !b.Writes()) || InPlace(a, b)) continue;
      if (Meet(a, b, &shared)) touched.torn.push_back(shared);
    }
  }
  return touched;
}

}  // namespace emu::opapi
