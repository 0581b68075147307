// SPDX-License-Identifier: Apache-2.0
#include "opapi/ranges.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

namespace emu::opapi {
namespace {

// A view of few rows is as many ranges: what is contiguous is compared fastest.
constexpr int64_t kFewRows = 4;

}  // namespace

// Sorts dimensions by step and joins those that continue, or overlap, the bytes before them, or that together have
// one step.
Rows RowsOf(const at::Tensor& tensor) {
  auto bytes = static_cast<int64_t>(tensor.element_size());
  std::vector<Dim> dims;
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    if (tensor.size(i) > 1 && tensor.stride(i) != 0) dims.push_back({tensor.size(i), tensor.stride(i) * bytes});
  }
  std::sort(dims.begin(), dims.end(), [](const Dim& a, const Dim& b) { return a.step > b.step; });
  while (!dims.empty() && dims.back().step <= bytes) {
    bytes += dims.back().step * (dims.back().size - 1);
    dims.pop_back();
  }
  for (size_t i = dims.size(); i-- > 1;) {
    if (dims[i - 1].step != dims[i].step * dims[i].size) continue;
    dims[i - 1] = {dims[i - 1].size * dims[i].size, dims[i].step};
    dims.erase(dims.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return {bytes, std::move(dims)};
}

Range SpanOf(const at::Tensor& tensor) {
  const auto begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  if (tensor.numel() == 0) return {begin, begin};
  int64_t last = 0;
  for (int64_t i = 0; i < tensor.dim(); ++i) last += (tensor.size(i) - 1) * tensor.stride(i);
  return {begin, begin + static_cast<uintptr_t>(last + 1) * tensor.element_size()};
}

void AddAccesses(const at::Tensor& tensor, bool write, Accesses& accesses) {
  if (tensor.numel() == 0) return;
  const Rows rows = RowsOf(tensor);
  if (rows.count > kFewRows) {
    accesses.push_back({SpanOf(tensor), write, std::make_shared<const Rows>(rows)});
    return;
  }
  const auto base = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  std::vector<int64_t> index(rows.dims.size(), 0);
  for (int64_t row = 0; row < rows.count; ++row) {
    uintptr_t begin = base;
    for (size_t i = 0; i < index.size(); ++i) begin += static_cast<uintptr_t>(index[i] * rows.dims[i].step);
    const uintptr_t end = begin + static_cast<uintptr_t>(rows.bytes);
    Range* last = row == 0 ? nullptr : &accesses.back().range;
    if (last != nullptr && begin >= last->begin && begin <= last->end) {
      last->end = std::max(last->end, end);
    } else {
      accesses.push_back({{begin, end}, write, nullptr});
    }
    for (size_t i = index.size(); i-- > 0;) {
      if (++index[i] < rows.dims[i].size) break;
      index[i] = 0;
    }
  }
}

}  // namespace emu::opapi
