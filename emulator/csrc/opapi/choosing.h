// SPDX-License-Identifier: Apache-2.0
// What an operator touches by its indices, as its table entry says behind `chooses`. The entry runs twice: at the
// call, to name the operands and where their indices lie, and on the stream's thread just before the operator, to
// read the indices. So what it asks of data it asks inside of the functions below.
// Indices that name nothing of the operand leave it touched in whole.
#pragma once

#include <functional>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

#include "memory/choice.h"
#include "opapi/operator.h"

namespace emu::opapi {

class Choosing {
 public:
  explicit Choosing(bool reads) : reads_(reads) {}

  // As index_select: whole rows of a dimension.
  void rows(const Tensor& operand, int64_t dim, const Tensor& index);
  void rows(const Tensor& operand, int64_t dim, const Ints& index);
  // As gather and scatter_: one element for each index.
  void elements(const Tensor& operand, int64_t dim, const Tensor& index);
  // As take and put_: one element for each index into the whole.
  void anywhere(const Tensor& operand, const Tensor& index);
  // As x[i, :, j]: a list with an entry for each dimension, which may have none.
  void places(const Tensor& operand, const Tensors& indices);
  // The same with the indices of an element or a part, one for each of the first dimensions, in a row [..., K].
  void places_in_rows(const Tensor& operand, const Tensor& indices);
  // Slots of a paged cache: `read` gives it as [blocks, block size, ...], and the slots; none is below zero.
  using Slotted = std::pair<Tensor, Tensor>;
  void slots(const Tensor& operand, const Tensor& slots, const std::function<Slotted()>& read);
  // Any other: views of the operand, which `read` finds in `indices`; without a value: all of it.
  using Views = std::optional<Tensors>;
  void views(const Tensor& operand, std::initializer_list<Tensor> indices, const std::function<Views()>& read);
  // Rows of the first dimension, which `read` finds in `indices`. Blocks of paged caches are such.
  void blocks(const Tensor& operand, std::initializer_list<Tensor> indices, const std::function<Tensor()>& read);

  // Of the operands in the order of the entry.
  struct Named {
    Tensor operand;
    std::vector<Tensor> indices;
  };
  const std::vector<Named>& named() const { return named_; }
  Chosen TakeChosen() { return std::move(chosen_); }

 private:
  void Name(const Tensor& operand, std::vector<Tensor> indices,
            const std::function<std::optional<Accesses>()>& read);

  const bool reads_;
  std::vector<Named> named_;
  Chosen chosen_;
};

// At the call: a choice for each operand that the entry names.
Choices ChoicesOf(const std::vector<Choosing::Named>& named);
// What they come to now. On the stream's thread.
Chosen ReadChosen(const Operator& op, const Arguments& arguments);

}  // namespace emu::opapi
