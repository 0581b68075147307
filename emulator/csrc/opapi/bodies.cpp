// SPDX-License-Identifier: Apache-2.0
#include "opapi/bodies.h"

#include <algorithm>

#include <ATen/CPUGeneratorImpl.h>

namespace emu::opapi {

void put(const Tensor& out, const Tensor& value) {
  if (out.sizes() == value.sizes()) {
    out.copy_(value);
    return;
  }
  if (out.numel() != value.numel()) {
    throw std::runtime_error(c10::str("the result has shape ", value.sizes(), ", the output ", out.sizes()));
  }
  out.copy_(value.reshape(out.sizes()));
}

void put_if(const Tensor& out, const Tensor& value) {
  if (out.defined()) put(out, value);
}

void put_resized(const Resized& out, const Tensor& value) {
  if (out.handle == nullptr) return;
  if (value.numel() > out.memory.numel()) {
    throw std::runtime_error(
        c10::str("the result has ", value.numel(), " elements, the output ", out.memory.numel()));
  }
  out.memory.flatten().slice(0, 0, value.numel()).copy_(value.flatten());
  out.handle->view_dims = value.sizes().vec();
}

void put_both(const Tensor& first, const Tensor& second, const std::tuple<Tensor, Tensor>& values) {
  put(first, std::get<0>(values));
  put_if(second, std::get<1>(values));
}

at::OptionalIntArrayRef dims(const Ints& dim) {
  return dim.empty() ? at::OptionalIntArrayRef() : at::OptionalIntArrayRef(at::IntArrayRef(dim));
}

Tensor f32(const Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  const auto type = tensor.scalar_type();
  return type == at::kHalf || type == at::kBFloat16 ? tensor.to(at::kFloat) : tensor;
}

std::optional<int64_t> positive(int64_t value) { return value > 0 ? std::optional(value) : std::nullopt; }

std::optional<double> positive(double value) { return value > 0 ? std::optional(value) : std::nullopt; }

Tensor of_channels(const Tensor& values, const Tensor& x) {
  Ints shape(x.dim(), 1);
  shape[1] = -1;
  return f32(values).reshape(shape);
}

Tensor over_channels(const Tensor& x) { return x.transpose(0, 1).flatten(1).sum(1); }

std::optional<Tensor> opt(const Tensor& tensor) {
  return tensor.defined() ? std::optional<Tensor>(tensor) : std::nullopt;
}

Tensor i64(const Tensor& tensor) { return tensor.to(at::kLong); }

namespace {

// torch_npu passes an empty one-dimensional tensor for a dimension without an index.
bool is_index(const Tensor& tensor) { return tensor.defined() && (tensor.numel() > 0 || tensor.dim() != 1); }

}  // namespace

bool any_index(const Tensors& tensors) { return std::any_of(tensors.begin(), tensors.end(), is_index); }

c10::List<std::optional<Tensor>> indices_of(const Tensors& tensors) {
  c10::List<std::optional<Tensor>> indices;
  for (const auto& tensor : tensors) {
    if (!is_index(tensor)) {
      indices.push_back(std::nullopt);
    } else {
      const bool mask = tensor.scalar_type() == at::kBool || tensor.scalar_type() == at::kByte;
      indices.push_back(mask ? tensor : i64(tensor));
    }
  }
  return indices;
}

at::TensorOptions options(at::ScalarType type) { return at::TensorOptions(type).device(at::kCPU); }

at::Generator gen(int64_t seed, int64_t offset) {
  const auto mixed = static_cast<uint64_t>(seed) + static_cast<uint64_t>(offset) * 0x9e3779b97f4a7c15ULL;
  return at::detail::createCPUGenerator(mixed);
}

at::Generator gen(const Tensor& seed, const Tensor& offset, int64_t offset_in_graph) {
  return gen(seed.item().to<int64_t>(), offset.item().to<int64_t>() + offset_in_graph);
}

at::ScalarType wider(const Tensor& input, const Tensor& out) {
  const auto type = out.scalar_type();
  return static_cast<int64_t>(c10::elementSize(type)) >= input.element_size() ? type : input.scalar_type();
}

// As op-plugin's API documentation of npu_top_k_top_p defines it: sorted upwards, the last one always stays.
Tensor keep_top_k_top_p(const Tensor& logits, const Tensor& p, const Tensor& k) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  auto [sorted, order] = at::sort(f32(logits), /*stable=*/true, -1, /*descending=*/false);
  const int64_t count = sorted.size(-1);
  if (k.defined()) {
    const auto threshold = sorted.gather(-1, (count - i64(k)).clamp(0, count - 1).unsqueeze(-1));
    sorted = sorted.masked_fill(sorted.lt(threshold), -kInfinity);
  }
  if (p.defined()) {
    auto dropped = at::softmax(sorted, -1).cumsum(-1).le(1 - f32(p).unsqueeze(-1));
    dropped.select(-1, count - 1).fill_(false);
    sorted = sorted.masked_fill(dropped, -kInfinity);
  }
  return at::empty_like(sorted).scatter_(-1, order, sorted);
}

void put_dropout_mask(const Tensor& mask, const Ints& shape, double p, at::Generator generator) {
  int64_t count = 1;
  for (const auto size : shape) count *= size;
  auto bits = at::zeros({mask.numel() * 8}, options(at::kByte));
  bits.slice(0, 0, count).bernoulli_(1 - p, generator);
  const auto places = at::arange(8, options(at::kByte));
  put(mask, at::bitwise_left_shift(bits.view({-1, 8}), places).sum(1));
}

Tensor apply_dropout_mask(const Tensor& x, const Tensor& mask, double p) {
  const auto places = at::arange(8, options(at::kByte));
  const auto bits = at::bitwise_right_shift(mask.unsqueeze(1), places).bitwise_and(1).flatten();
  return x * bits.slice(0, 0, x.numel()).view(x.sizes()) * (p < 1 ? 1 / (1 - p) : 0.0);
}

std::optional<c10::string_view> rounding(int64_t mode) {
  if (mode == 0) return std::nullopt;
  return mode == 1 ? c10::string_view("trunc") : c10::string_view("floor");
}

void scatter_into(const Tensor& self, int64_t dim, const Tensor& index, const Tensor& source, int64_t reduction) {
  if (reduction == 0) {
    self.scatter_(dim, i64(index), source.to(self.scalar_type()));
  } else {
    self.scatter_(dim, i64(index), source.to(self.scalar_type()), reduction == 1 ? "add" : "multiply");
  }
}

void scatter_into(const Tensor& self, int64_t dim, const Tensor& index, const Scalar& value, int64_t reduction) {
  if (reduction == 0) {
    self.scatter_(dim, i64(index), value);
  } else {
    self.scatter_(dim, i64(index), value, reduction == 1 ? "add" : "multiply");
  }
}

c10::string_view reduction_name(int64_t reduction) {
  static constexpr c10::string_view kNames[] = {"", "sum", "prod", "amax", "amin", "mean"};
  if (reduction < 1 || reduction > 5) not_emulated("scatter reduction " + std::to_string(reduction));
  return kNames[reduction];
}

Normed rms_norm(const Tensor& x, const Tensor& gamma, double epsilon) {
  Ints over;
  for (int64_t i = 1; i <= gamma.dim(); ++i) over.push_back(-i);
  const auto wide = f32(x);
  const auto rstd = at::rsqrt(at::mean(wide * wide, over, true) + epsilon);
  return {wide * rstd * f32(gamma), rstd};
}

void refuse_narrowing(const Tensor& self, const Tensor& other) {
  const auto result = at::result_type(self, other);
  if (c10::canCast(result, self.scalar_type())) return;
  throw std::runtime_error(
      c10::str("result type ", result, " can't be cast to the desired output type ", self.scalar_type()));
}

void not_emulated(const std::string& what) { throw std::runtime_error(what + " is not emulated"); }

void refuse_any(const Tensors& operands, const std::string& what) {
  for (const auto& operand : operands) {
    if (operand.defined() && operand.numel() > 0) not_emulated(what);
  }
}

}  // namespace emu::opapi
