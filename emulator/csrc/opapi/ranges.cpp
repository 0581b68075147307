// SPDX-License-Identifier: Apache-2.0
#include "opapi/ranges.h"

#include <algorithm>
#include <vector>

namespace emu::opapi {
namespace {

// A view of more rows than this counts as all bytes between its first and last one.
constexpr int64_t kMostRows = 1 << 16;

struct Dim {
  int64_t size;
  int64_t step;  // bytes
};

struct Rows {
  int64_t bytes;          // of each row
  std::vector<Dim> dims;  // over the rows, largest step first
  int64_t count;
};

// Sorts dimensions by step and merges those that continue, or overlap, the bytes before them.
Rows RowsOf(const at::Tensor& tensor) {
  const auto item = static_cast<int64_t>(tensor.element_size());
  std::vector<Dim> dims;
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    if (tensor.size(i) > 1 && tensor.stride(i) != 0) dims.push_back({tensor.size(i), tensor.stride(i) * item});
  }
  std::sort(dims.begin(), dims.end(), [](const Dim& a, const Dim& b) { return a.step > b.step; });
  Rows rows{item, {}, 1};
  while (!dims.empty() && dims.back().step <= rows.bytes) {
    rows.bytes += dims.back().step * (dims.back().size - 1);
    dims.pop_back();
  }
  for (const auto& dim : dims) rows.count *= dim.size;
  rows.dims = std::move(dims);
  return rows;
}

}  // namespace

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
  if (rows.count > kMostRows) {
    accesses.push_back({SpanOf(tensor), write});
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
      accesses.push_back({{begin, end}, write});
    }
    for (size_t i = index.size(); i-- > 0;) {
      if (++index[i] < rows.dims[i].size) break;
      index[i] = 0;
    }
  }
}

}  // namespace emu::opapi
