// SPDX-License-Identifier: Apache-2.0
// Operands and attributes from op-plugin's OpCommand calls in ops/aclops (BSD-3): BroadcastKernelNpu.cpp,
// CastKernelNpu.cpp, FillKernelNpu.cpp, BatchNormKernelNpu.cpp, BmmV2KernelNpu.cpp, ReduceMean in
// MeanKernelNpu.cpp, Cdist(Backward)KernelNpu.cpp, (Add)MmKernelNpu.cpp, IsfiniteKernelNpu.cpp,
// ArgsortKernelNpu.cpp, SortWithoutIndicesKernelNpu.cpp, TransposeKernelNpu.cpp, SliceKernelNpu.cpp,
// IndexingKernelNpu.cpp, ConfusionTransposeKernelNpu.cpp, Onehot*.cpp, ScaledMaskedSoftmaxKernelNpu.cpp,
// NormKernelNpu.cpp, PadKernelNpu.cpp, MaxV1KernelNpu.cpp, ApplyAdam(W)KernelNpu.cpp. Private formats keep the
// order of the elements here, so that shapes are those before the cast.
#include "aclop/operators.h"

#include <cmath>

#include "opapi/bodies.h"

namespace emu::aclop {
namespace {

using opapi::f32;
using opapi::of_channels;
using opapi::over_channels;
using opapi::put;

int64_t NumPerChannel(const at::Tensor& x) { return x.numel() / x.size(1); }

std::vector<int64_t> IntsOf(const at::Tensor& tensor) {
  const auto wide = tensor.to(at::kLong).contiguous();
  return {wide.data_ptr<int64_t>(), wide.data_ptr<int64_t>() + wide.numel()};
}

void BroadcastTo(const Operands& call) { put(call.out[0], call.in[0].expand(IntsOf(call.in[1]))); }

// sizes, value
void Fill(const Operands& call) { call.out[0].copy_(call.in[1].reshape({})); }

void Cast(const Operands& call) { put(call.out[0], call.in[0]); }

at::Tensor Side(const Operands& call, int i, const char* transposes) {
  return f32(call.Get(transposes, false) ? call.in[i].transpose(-1, -2) : call.in[i]);
}

void BatchMatMul(const Operands& call) {
  put(call.out[0], at::matmul(Side(call, 0, "adj_x1"), Side(call, 1, "adj_x2")));
}

void MatMul(const Operands& call) {
  const auto product = at::mm(Side(call, 0, "transpose_x1"), Side(call, 1, "transpose_x2"));
  put(call.out[0], call.in.size() > 2 && call.in[2].defined() ? product + f32(call.in[2]) : product);
}

void IsFinite(const Operands& call) { put(call.out[0], at::isfinite(call.in[0])); }

void ReduceMean(const Operands& call) {
  put(call.out[0], at::mean(f32(call.in[0]), IntsOf(call.in[1]), call.Get("keep_dims", false)));
}

// x, scale, offset, mean, variance -> y
void BatchNormInfer(const Operands& call) {
  const auto& x = call.in[0];
  const auto inverse = at::rsqrt(f32(call.in[4]) + call.Get("epsilon", 0.0F));
  const auto normed = (f32(x) - of_channels(call.in[3], x)) * of_channels(inverse, x);
  put(call.out[0], normed * of_channels(call.in[1], x) + of_channels(call.in[2], x));
}

// x -> sum, square sum
void BatchNormReduce(const Operands& call) {
  put(call.out[0], over_channels(f32(call.in[0])));
  put(call.out[1], over_channels(f32(call.in[0]).square()));
}

// x, sum, square sum, scale, offset, running mean, running variance -> y, the running ones, mean, 1 / deviation
void BatchNormUpdate(const Operands& call) {
  const auto& x = call.in[0];
  const auto number = static_cast<double>(NumPerChannel(x));
  const double factor = call.Get("factor", 0.0F);
  const auto mean = f32(call.in[1]) / number;
  const auto variance = f32(call.in[2]) / number - mean.square();
  const auto inverse = at::rsqrt(variance + call.Get("epsilon", 0.0F));
  const auto normed = (f32(x) - of_channels(mean, x)) * of_channels(inverse, x);
  const auto running = [&](const at::Tensor& before, const at::Tensor& now) {
    return f32(before) * (1 - factor) + now * factor;
  };
  const double unbiased = number > 1 ? number / (number - 1) : 1;
  const auto running_mean = running(call.in[5], mean), running_variance = running(call.in[6], variance * unbiased);
  put(call.out[0], normed * of_channels(call.in[3], x) + of_channels(call.in[4], x));
  put(call.out[1], running_mean);
  put(call.out[2], running_variance);
  put(call.out[3], mean);
  put(call.out[4], inverse);
}

// x1 and x2, as wide as each pair of rows; p of -1 is infinity
void Cdist(const Operands& call) {
  const double p = call.Get("p", 2.0F);
  const auto size = (f32(call.in[0]) - f32(call.in[1])).abs();
  put(call.out[0], p < 0 ? at::amax(size, {-1}) : at::linalg_vector_norm(size, p, at::IntArrayRef({-1})));
}

// gradient, x1, x2 and distances, all as wide as each pair of rows -> gradient of x1; p of -1 is infinity
void CdistGradient(const Operands& call) {
  const auto difference = f32(call.in[1]) - f32(call.in[2]);
  const auto distance = f32(call.in[3]), size = difference.abs();
  const double p = call.Get("p", 2.0F);
  const auto share = p < 0 ? size.eq(distance).to(size.scalar_type()) : at::pow(size / distance, p - 1);
  const auto none = size.eq(0).logical_or(distance.eq(0));
  const auto pairs = (f32(call.in[0]) * difference.sign() * share).masked_fill(none, 0);
  put(call.out[0], (p == 0 ? at::zeros_like(pairs) : pairs).sum(-2));
}

void Sort(const Operands& call) {
  const auto sorted = at::sort(call.in[0], call.Get("axis", int64_t{-1}), call.Get("descending", false));
  put(call.out[0], std::get<0>(sorted));
  if (call.out.size() > 1) put(call.out[1], std::get<1>(sorted));
}

void Transpose(const Operands& call) { put(call.out[0], call.in[0].permute(IntsOf(call.in[1]))); }

// x, offsets, sizes -> that part of x
void Slice(const Operands& call) {
  const auto offsets = IntsOf(call.in[1]), sizes = IntsOf(call.in[2]);
  auto part = call.in[0];
  for (size_t i = 0; i < offsets.size(); ++i) part = part.narrow(static_cast<int64_t>(i), offsets[i], sizes[i]);
  put(call.out[0], part);
}

// x, first places, ends and strides -> those elements; a dimension whose bit is in a mask is whole to that side
void StridedSlice(const Operands& call) {
  const auto begin = IntsOf(call.in[1]), end = IntsOf(call.in[2]), stride = IntsOf(call.in[3]);
  for (const char* mask : {"ellipsis_mask", "new_axis_mask", "shrink_axis_mask"}) {
    if (call.Get(mask, int64_t{0}) != 0) opapi::not_emulated(std::string("StridedSlice with ") + mask);
  }
  const auto from = call.Get("begin_mask", int64_t{0}), to = call.Get("end_mask", int64_t{0});
  auto part = call.in[0];
  for (size_t i = 0; i < begin.size(); ++i) {
    const auto dim = static_cast<int64_t>(i);
    const auto size = part.size(dim);
    part = part.slice(dim, (from >> i & 1) != 0 ? 0 : begin[i], (to >> i & 1) != 0 ? size : end[i], stride[i]);
  }
  put(call.out[0], part);
}

// x in another order and shape: transposed first, or shaped first
void ConfusionTranspose(const Operands& call) {
  const auto perm = call.Get("perm", std::vector<int64_t>()), shape = call.Get("shape", std::vector<int64_t>());
  const bool first = call.Get("transpose_first", false);
  put(call.out[0], first ? call.in[0].permute(perm).reshape(shape) : call.in[0].reshape(shape).permute(perm));
}

// places, [depth,] the value of a place, the value of others -> one row a place
void OneHot(const Operands& call) {
  const auto& out = call.out[0];
  const size_t values = call.in.size() - 2;
  const auto hot = call.in[0].unsqueeze(-1).eq(at::arange(out.size(-1), opapi::options(at::kLong)));
  put(out, at::where(hot, call.in[values].reshape({}), call.in[values + 1].reshape({})));
}

at::Tensor HiddenOf(const Operands& call, const at::Tensor& mask) {
  const bool triangular = call.Get("fixed_triu_mask", false);
  return triangular ? at::ones_like(mask, at::kBool).triu(1) : mask.to(at::kBool);
}

void MaskedSoftmax(const Operands& call) {
  const auto scores = f32(call.in[0]) * call.Get("scale", 1.0F);
  put(call.out[0], at::softmax(scores.masked_fill(HiddenOf(call, call.in[1]), -10000.0), -1));
}

// gradient, result, mask -> gradient of the scores
void MaskedSoftmaxGradient(const Operands& call) {
  const auto grad = at::_softmax_backward_data(f32(call.in[0]), f32(call.in[1]), -1, at::kFloat);
  put(call.out[0], (grad * call.Get("scale", 1.0F)).masked_fill(HiddenOf(call, call.in[2]), 0));
}

void NormReduce(const Operands& call) {
  const auto powers = at::pow(f32(call.in[0]).abs(), call.Get("p", 2.0F));
  put(call.out[0], at::sum(powers, call.Get("axes", std::vector<int64_t>()), call.Get("keepdim", false)));
}

void NormUpdate(const Operands& call) { put(call.out[0], at::pow(call.in[0], 1 / call.Get("p", 2.0F))); }

// x, the numbers of zeros before and behind each dimension
void Pad(const Operands& call) {
  auto zeros = IntsOf(call.in[1]);
  std::vector<int64_t> last_first;
  for (size_t i = zeros.size(); i >= 2; i -= 2) last_first.insert(last_first.end(), {zeros[i - 2], zeros[i - 1]});
  put(call.out[0], at::constant_pad_nd(call.in[0], last_first));
}

// x -> places, values
void Extreme(const Operands& call, bool largest) {
  const auto dim = call.Get("dimension", int64_t{0});
  const auto keep = call.Get("keep_dims", false);
  const auto found = largest ? at::max(call.in[0], dim, keep) : at::min(call.in[0], dim, keep);
  put(call.out[0], std::get<1>(found));
  put(call.out[1], std::get<0>(found));
}
void Largest(const Operands& call) { Extreme(call, true); }
void Smallest(const Operands& call) { Extreme(call, false); }

double Number(const at::Tensor& tensor) { return tensor.item().toDouble(); }

// parameter, both moments, both powers of beta, rate, both betas, epsilon, gradient -> parameter, both moments
void ApplyAdam(const Operands& call) {
  const auto& in = call.in;
  const double beta1 = Number(in[6]), beta2 = Number(in[7]);
  const auto grad = f32(in[9]);
  const auto first = f32(in[1]) * beta1 + grad * (1 - beta1);
  const auto second = f32(in[2]) * beta2 + grad.square() * (1 - beta2);
  const double rate = Number(in[5]) * std::sqrt(1 - Number(in[4])) / (1 - Number(in[3]));
  const auto step = call.Get("use_nesterov", false) ? first * beta1 + grad * (1 - beta1) : first;
  const auto parameter = f32(in[0]) - step * rate / (at::sqrt(second) + Number(in[8]));
  put(call.out[0], parameter);
  put(call.out[1], first);
  put(call.out[2], second);
}

// The same with a decay of the weights behind the rate, and a maximum for AMSGrad behind the gradient.
void ApplyAdamW(const Operands& call) {
  const auto& in = call.in;
  if (call.Get("amsgrad", false)) opapi::not_emulated("ApplyAdamW with amsgrad");
  const double rate = Number(in[5]), beta1 = Number(in[7]), beta2 = Number(in[8]);
  const auto grad = call.Get("maximize", false) ? -f32(in[10]) : f32(in[10]);
  const auto first = f32(in[1]) * beta1 + grad * (1 - beta1);
  const auto second = f32(in[2]) * beta2 + grad.square() * (1 - beta2);
  const auto root = at::sqrt(second / (1 - Number(in[4]))) + Number(in[9]);
  const auto parameter = f32(in[0]) * (1 - rate * Number(in[6])) - first / root * (rate / (1 - Number(in[3])));
  put(call.out[0], parameter);
  put(call.out[1], first);
  put(call.out[2], second);
}

struct Entry {
  const char* name;
  Body body;
};

constexpr Entry kEntries[] = {
    {"BroadcastTo", BroadcastTo},
    {"Fill", Fill},
    {"Cast", Cast},
    {"BatchMatMul", BatchMatMul},
    {"MatMul", MatMul},
    {"IsFinite", IsFinite},
    {"ReduceMean", ReduceMean},
    {"BNInfer", BatchNormInfer},
    {"BNTrainingReduce", BatchNormReduce},
    {"BN3DTrainingReduce", BatchNormReduce},
    {"BNTrainingUpdate", BatchNormUpdate},
    {"BN3DTrainingUpdate", BatchNormUpdate},
    {"Cdist", Cdist},
    {"CdistGrad", CdistGradient},
    {"Sort", Sort},
    {"SortV2", Sort},
    {"Transpose", Transpose},
    {"Slice", Slice},
    {"StridedSlice", StridedSlice},
    {"ConfusionTransposeD", ConfusionTranspose},
    {"OneHot", OneHot},
    {"OneHotD", OneHot},
    {"ScaledMaskedSoftmax", MaskedSoftmax},
    {"ScaledMaskedSoftmaxGrad", MaskedSoftmaxGradient},
    {"LpNormReduceV2", NormReduce},
    {"LpNormUpdateV2", NormUpdate},
    {"Pad", Pad},
    {"ArgMaxWithValue", Largest},
    {"ArgMinWithValue", Smallest},
    {"ApplyAdamD", ApplyAdam},
    {"ApplyAdamW", ApplyAdamW},
};

}  // namespace

Body BodyOf(const std::string& name) {
  for (const auto& entry : kEntries) {
    if (name == entry.name) return entry.body;
  }
  return nullptr;
}

}  // namespace emu::aclop
