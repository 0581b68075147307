// SPDX-License-Identifier: Apache-2.0
#include "opapi/choosing.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <utility>

#include "opapi/bodies.h"
#include "opapi/ranges.h"

namespace emu::opapi {
namespace {

using Pieces = std::optional<Accesses>;

bool Within(const Tensor& index, int64_t size) {
  return index.numel() == 0 || (index.min().item<int64_t>() >= 0 && index.max().item<int64_t>() < size);
}

int64_t DimOf(const Tensor& operand, int64_t dim) { return dim < 0 ? dim + operand.dim() : dim; }

// The view `piece`, moved by each of so many elements. Pieces that continue each other become one.
Accesses Moved(const Tensor& piece, const Tensor& moves) {
  if (piece.numel() == 0 || moves.numel() == 0) return {};
  const auto flat = moves.to(at::kLong).contiguous();
  std::vector<int64_t> sorted(flat.data_ptr<int64_t>(), flat.data_ptr<int64_t>() + flat.numel());
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  const Rows shape = RowsOf(piece);
  const auto rows = shape.dims.empty() ? nullptr : std::make_shared<const Rows>(shape);
  const auto base = reinterpret_cast<uintptr_t>(piece.const_data_ptr());
  Accesses pieces;
  for (const int64_t move : sorted) {
    const auto begin = base + static_cast<uintptr_t>(move * static_cast<int64_t>(piece.element_size()));
    const auto end = begin + static_cast<uintptr_t>(shape.span[0]);
    if (!rows && !pieces.empty() && begin <= pieces.back().range.end) {
      pieces.back().range.end = std::max(pieces.back().range.end, end);
    } else {
      pieces.push_back({{begin, end}, false, rows});
    }
  }
  return pieces;
}

Pieces RowsAt(const Tensor& operand, int64_t dim, const Tensor& index) {
  if (operand.dim() == 0 || !Within(index, operand.size(dim))) return std::nullopt;
  if (index.numel() == 0) return Accesses();
  return Moved(operand.select(dim, 0), index * operand.stride(dim));
}

Tensor OneElement(const Tensor& operand) { return operand.as_strided({}, {}); }

Pieces ElementsAt(const Tensor& operand, int64_t dim, const Tensor& index) {
  if (operand.dim() == 0 || index.dim() != operand.dim() || !Within(index, operand.size(dim))) return std::nullopt;
  auto moves = index * operand.stride(dim);
  for (int64_t i = 0; i < index.dim(); ++i) {
    if (i == dim) continue;
    Ints shape(static_cast<size_t>(index.dim()), 1);
    shape[static_cast<size_t>(i)] = index.size(i);
    moves = moves + at::arange(index.size(i), options(at::kLong)).mul_(operand.stride(i)).view(shape);
  }
  return Moved(OneElement(operand), moves);
}

Pieces Anywhere(const Tensor& operand, const Tensor& index) {
  const auto from_front = at::where(index < 0, index + operand.numel(), index);
  if (!operand.is_contiguous() || !Within(from_front, operand.numel())) return std::nullopt;
  return Moved(OneElement(operand), from_front);
}

Pieces Places(const Tensor& operand, const Tensors& indices) {
  if (!any_index(indices)) return Accesses();
  std::vector<std::pair<int64_t, Tensor>> of_dims;
  int64_t dim = 0;
  for (const std::optional<Tensor> entry : indices_of(indices)) {
    if (!entry) {
      ++dim;
    } else if (entry->scalar_type() == at::kLong) {
      of_dims.emplace_back(dim++, *entry);
    } else {
      for (const auto& column : entry->nonzero().unbind(1)) of_dims.emplace_back(dim++, column);
    }
  }
  if (dim > operand.dim()) return std::nullopt;
  auto piece = operand;
  auto moves = at::zeros({}, options(at::kLong));
  for (auto at = of_dims.rbegin(); at != of_dims.rend(); ++at) {  // from behind, so that places stay
    const auto& [of_dim, index] = *at;
    const auto from_front = at::where(index < 0, index + operand.size(of_dim), index);
    if (!Within(from_front, operand.size(of_dim))) return std::nullopt;
    if (from_front.numel() == 0) return Accesses();
    piece = piece.select(of_dim, 0);
    moves = moves + from_front * operand.stride(of_dim);
  }
  return Moved(piece, moves);
}

Pieces Slots(const Tensor& view, const Tensor& slots) {
  const auto flat = i64(slots).flatten();
  const auto kept = flat.index_select(0, flat.ge(0).nonzero().flatten());
  if (!Within(kept, view.size(0) * view.size(1))) return std::nullopt;
  if (kept.numel() == 0) return Accesses();
  const auto block = kept.div(view.size(1), "floor");
  const auto offset = kept.remainder(view.size(1));
  return Moved(view.select(1, 0).select(0, 0), block * view.stride(0) + offset * view.stride(1));
}

}  // namespace

void Choosing::Name(const Tensor& operand, std::vector<Tensor> indices, const std::function<Pieces()>& read) {
  if (!operand.defined() || operand.numel() == 0) return;
  indices.erase(
      std::remove_if(indices.begin(), indices.end(), [](const Tensor& index) { return !index.defined(); }),
      indices.end());
  named_.push_back({operand, std::move(indices)});
  if (!reads_) return;
  try {
    chosen_.push_back(read());
  } catch (const std::exception&) {  // the operator itself will say what is wrong with its operands
    chosen_.push_back(std::nullopt);
  }
}

void Choosing::rows(const Tensor& operand, int64_t dim, const Tensor& index) {
  Name(operand, {index}, [&] { return RowsAt(operand, DimOf(operand, dim), i64(index)); });
}

void Choosing::rows(const Tensor& operand, int64_t dim, const Ints& index) {
  Name(operand, {}, [&] { return RowsAt(operand, DimOf(operand, dim), at::tensor(index, options(at::kLong))); });
}

void Choosing::elements(const Tensor& operand, int64_t dim, const Tensor& index) {
  Name(operand, {index}, [&] { return ElementsAt(operand, DimOf(operand, dim), i64(index)); });
}

void Choosing::anywhere(const Tensor& operand, const Tensor& index) {
  Name(operand, {index}, [&] { return Anywhere(operand, i64(index)); });
}

void Choosing::places(const Tensor& operand, const Tensors& indices) {
  Name(operand, indices, [&] { return Places(operand, indices); });
}

void Choosing::places_in_rows(const Tensor& operand, const Tensor& indices) {
  Name(operand, {indices}, [&] { return Places(operand, i64(indices).unbind(-1)); });
}

void Choosing::slots(const Tensor& operand, const Tensor& slots, const std::function<Slotted()>& read) {
  Name(operand, {slots}, [&] {
    const auto [view, of_view] = read();
    return Slots(view, of_view);
  });
}

void Choosing::views(const Tensor& operand, std::initializer_list<Tensor> indices,
                     const std::function<Views()>& read) {
  Name(operand, indices, [&]() -> Pieces {
    const Views found = read();
    if (!found) return std::nullopt;
    Accesses pieces;
    for (const Tensor& view : *found) AddAccesses(view, false, pieces);
    std::sort(pieces.begin(), pieces.end(),
              [](const Access& a, const Access& b) { return a.range.begin < b.range.begin; });
    return pieces;
  });
}

void Choosing::blocks(const Tensor& operand, std::initializer_list<Tensor> indices,
                      const std::function<Tensor()>& read) {
  Name(operand, indices, [&] { return RowsAt(operand, 0, i64(read())); });
}

Choices ChoicesOf(const std::vector<Choosing::Named>& named) {
  Choices choices;
  for (const auto& [operand, indices] : named) {
    choices.push_back(std::make_shared<Choice>());
    for (const Tensor& index : indices) choices.back()->indices.push_back(SpanOf(index));
  }
  return choices;
}

Chosen ReadChosen(const Operator& op, const Arguments& arguments) {
  Choosing choosing(true);
  op.choose(arguments, choosing);
  return choosing.TakeChosen();
}

}  // namespace emu::opapi
