// SPDX-License-Identifier: Apache-2.0
// Rotary position embeddings and the caches that keys are written to.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "opapi/operator.h"

namespace emu::opapi {

// The mode numbers of torch_npu's rotary_mul (op-plugin RotaryMulKernelNpuOpApi.cpp, BSD-3).
constexpr int64_t kRotateHalves = 0;
constexpr int64_t kRotatePairs = 1;

// x * cos + rotated x * sin, in float32.
Tensor rotated(const Tensor& x, const Tensor& cos, const Tensor& sin, int64_t mode);
int64_t rotary_mode(const std::string& name);
// Pairs are gathered into halves first: the result has the halves' order.
Tensor rotated_interleaved(const Tensor& x, const Tensor& cos, const Tensor& sin);
// vLLM's form: rows of the cache are the cosines, then the sines, of a position; heads are `head_size` wide.
Tensor rotated_by_cache(const Tensor& positions, const Tensor& x, const Tensor& cache, const Ints& sections,
                        int64_t head_size, bool halves);

// rows [T, ...] to slots of a cache [blocks, block_size, ...]; negative slots are skipped.
void write_slots(const Tensor& cache, const Tensor& slots, const Tensor& rows);
// The cache in that layout when its own is that of `mode`: "Norm" or "" as above, "PA_NZ" [blocks, width / 16,
// block_size, 16].
Tensor slotted(const Tensor& cache, const std::string& mode);

// The operands of KvRmsNormRopeCache.
struct LatentCache {
  Tensor kv, gamma, cos, sin, index, rope_cache, latent_cache;
  double epsilon = 0;
  std::string mode;
};
struct Latent {
  Tensor rope, latent;
};
// A cache of the layout of `mode` as slots take it, and the slots of `index` in it.
std::pair<Tensor, Tensor> latent_slots(const Tensor& cache, const Tensor& index, const std::string& mode);
// kv splits into what is normed (gamma's width) and what is rotated; both go to their cache and come back.
Latent write_latent(const LatentCache& call);

// The parts of self[i] from index[i] on, along `axis`, that updates[i] goes to; no value: one lies outside.
std::optional<Tensors> updated_views(const Tensor& self, const Tensor& index, const Tensor& updates, int64_t axis);
void scatter_update(const Tensor& self, const Tensor& index, const Tensor& updates, int64_t axis);
void scatter_update(const Tensor& self, const Tensor& index, const Tensor& updates, int64_t axis);
void scatter_nd_update(const Tensor& self, const Tensor& indices, const Tensor& updates);

}  // namespace emu::opapi
