// SPDX-License-Identifier: Apache-2.0
// What the bodies in the operator tables are written with, named like the ATen functions beside which it stands.
#pragma once

#include <chrono>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>

#include <ATen/ATen.h>

#include "opapi/operator.h"

namespace emu::opapi {

// Writes a result into an output, which may be a strided view of another dtype.
void put(const Tensor& out, const Tensor& value);
// The same for an output that may be undefined.
void put_if(const Tensor& out, const Tensor& value);
// Writes a result whose shape only the operator knew.
void put_resized(const Resized& out, const Tensor& value);

// As float32, the type in which the device computes half-precision operands; wider types stay.
Tensor f32(const Tensor& tensor);
// Two results at once.
void put_both(const Tensor& first, const Tensor& second, const std::tuple<Tensor, Tensor>& values);
// One result for each output of a list.
template <typename Make>
void each(const Tensors& outs, Make&& make) {
  for (size_t i = 0; i < outs.size(); ++i) put(outs[i], make(i));
}

// A dimension list as ATen takes it: empty means all.
at::OptionalIntArrayRef dims(const Ints& dim);
// A number that is missing where it is not positive.
std::optional<int64_t> positive(int64_t value);
std::optional<double> positive(double value);
// Undefined as no value.
std::optional<Tensor> opt(const Tensor& tensor);
Tensor i64(const Tensor& tensor);
// Whether a list has an index at all. A list of one empty index looks as if it had none: it selects nothing.
bool any_index(const Tensors& tensors);
// An index list: undefined and empty entries select the whole dimension.
c10::List<std::optional<Tensor>> indices_of(const Tensors& tensors);
at::TensorOptions options(at::ScalarType type);

// Random numbers that are a function of seed and offset, the same on every stream.
at::Generator gen(int64_t seed, int64_t offset);
// As gen, with both in device memory: a captured operator draws anew when its graph is replayed.
at::Generator gen(const Tensor& seed, const Tensor& offset, int64_t offset_in_graph);

// The dtype to compute in: the output's where it is wider than the input's.
at::ScalarType wider(const Tensor& input, const Tensor& out);

// Logits with -inf outside the k largest and outside the most probable set of probability p; undefined: no limit.
Tensor keep_top_k_top_p(const Tensor& logits, const Tensor& p, const Tensor& k);

// One bit an element, 1 where it stays; p is the probability to drop it.
void put_dropout_mask(const Tensor& mask, const Ints& shape, double p, at::Generator generator);
Tensor apply_dropout_mask(const Tensor& x, const Tensor& mask, double p);

// The mode that torch_npu's div passes as a number (op-plugin DivKernelNpuOpApi.cpp, BSD-3).
std::optional<c10::string_view> rounding(int64_t mode);
// The reduce argument that torch_npu's scatter passes as a number (op-plugin ScatterKernelNpuOpApi.cpp, BSD-3).
void scatter_into(const Tensor& self, int64_t dim, const Tensor& index, const Tensor& source, int64_t reduction);
void scatter_into(const Tensor& self, int64_t dim, const Tensor& index, const Scalar& value, int64_t reduction);

// As above for the reductions of scatter_reduce.
c10::string_view reduction_name(int64_t reduction);

// One number a channel, the second dimension of x, as x is wide.
Tensor of_channels(const Tensor& values, const Tensor& x);
// The sums of all channels.
Tensor over_channels(const Tensor& x);

// x / sqrt(mean(x^2) + epsilon) over the dimensions of gamma, in float32, and the reciprocal root.
struct Normed {
  Tensor value;
  Tensor rstd;
};
Normed rms_norm(const Tensor& x, const Tensor& gamma, double epsilon);

// Refuses, at the call, a result of another kind of number than `self` can hold, such as floats in integers.
void refuse_narrowing(const Tensor& self, const Tensor& other);
[[noreturn]] void not_emulated(const std::string& what);
// The same when one of the operands has an element.
void refuse_any(const Tensors& operands, const std::string& what);

}  // namespace emu::opapi
