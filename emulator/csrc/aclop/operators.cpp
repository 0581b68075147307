// SPDX-License-Identifier: Apache-2.0
// Operands and attributes from op-plugin's OpCommand calls in ops/aclops (BSD-3): BroadcastKernelNpu.cpp,
// CastKernelNpu.cpp, BatchNormKernelNpu.cpp, BmmV2KernelNpu.cpp, SliceKernelNpu.cpp, ReduceMean in
// MeanKernelNpu.cpp. Private formats keep the order of the elements here, so that shapes are those before the
// cast.
#include "aclop/operators.h"

#include "opapi/bodies.h"

namespace emu::aclop {
namespace {

using opapi::f32;
using opapi::of_channels;
using opapi::over_channels;
using opapi::put;

int64_t NumPerChannel(const at::Tensor& x) { return x.numel() / x.size(1); }

void BroadcastTo(const Operands& call) {
  const auto shape = call.in[1].to(at::kLong);
  const std::vector<int64_t> sizes(shape.data_ptr<int64_t>(), shape.data_ptr<int64_t>() + shape.numel());
  put(call.out[0], call.in[0].expand(sizes));
}

void Cast(const Operands& call) { put(call.out[0], call.in[0]); }

void BatchMatMul(const Operands& call) {
  const auto side = [&](int i, const char* transposes) {
    return call.Get(transposes, false) ? call.in[i].transpose(-1, -2) : call.in[i];
  };
  put(call.out[0], at::matmul(f32(side(0, "adj_x1")), f32(side(1, "adj_x2"))));
}

// Called for a slice of a tensor in a private format, too.
void Slice(const Operands& call) {
  const auto offsets = call.in[1].to(at::kLong).contiguous(), sizes = call.in[2].to(at::kLong).contiguous();
  auto part = call.in[0];
  for (int64_t dim = 0; dim < part.dim(); ++dim) {
    part = part.narrow(dim, offsets.data_ptr<int64_t>()[dim], sizes.data_ptr<int64_t>()[dim]);
  }
  put(call.out[0], part);
}

void ReduceMean(const Operands& call) {
  const auto dims = call.in[1].to(at::kLong).contiguous();
  const std::vector<int64_t> over(dims.data_ptr<int64_t>(), dims.data_ptr<int64_t>() + dims.numel());
  put(call.out[0], at::mean(f32(call.in[0]), over, call.Get("keep_dims", false)));
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

struct Entry {
  const char* name;
  Body body;
};

constexpr Entry kEntries[] = {
    {"BroadcastTo", BroadcastTo},
    {"Cast", Cast},
    {"BatchMatMul", BatchMatMul},
    {"ReduceMean", ReduceMean},
    {"Slice", Slice},
    {"BNInfer", BatchNormInfer},
    {"BNTrainingReduce", BatchNormReduce},
    {"BN3DTrainingReduce", BatchNormReduce},
    {"BNTrainingUpdate", BatchNormUpdate},
    {"BN3DTrainingUpdate", BatchNormUpdate},
};

}  // namespace

Body BodyOf(const std::string& name) {
  for (const auto& entry : kEntries) {
    if (name == entry.name) return entry.body;
  }
  return nullptr;
}

}  // namespace emu::aclop
