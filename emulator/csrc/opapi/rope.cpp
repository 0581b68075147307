// SPDX-License-Identifier: Apache-2.0
// Semantics from op-plugin's public API documentation of the operators (BSD-3 repository).
#include "opapi/rope.h"

#include "opapi/bodies.h"

namespace emu::opapi {
namespace {

Tensor Rotate(const Tensor& x, int64_t mode) {
  if (mode == kRotateHalves) {
    const auto halves = x.chunk(2, -1);
    return at::cat({-halves[1], halves[0]}, -1);
  }
  if (mode != kRotatePairs) not_emulated("rotary mode " + std::to_string(mode));
  const auto pairs = x.unflatten(-1, {-1, 2});
  return at::stack({-pairs.select(-1, 1), pairs.select(-1, 0)}, -1).flatten(-2);
}

}  // namespace

Tensor rotated(const Tensor& x, const Tensor& cos, const Tensor& sin, int64_t mode) {
  const auto wide = f32(x);
  return wide * f32(cos) + Rotate(wide, mode) * f32(sin);
}

int64_t rotary_mode(const std::string& name) {
  if (name.empty() || name == "half") return kRotateHalves;
  if (name == "interleave") return kRotatePairs;
  not_emulated("rotary mode " + name);
}

Tensor rotated_interleaved(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  return rotated(f32(x).unflatten(-1, {-1, 2}).transpose(-1, -2).flatten(-2), cos, sin, kRotateHalves);
}

Tensor rotated_by_cache(const Tensor& positions, const Tensor& x, const Tensor& cache, const Ints& sections,
                        int64_t head_size, bool halves) {
  auto rows = f32(cache.index_select(0, i64(positions).flatten()));  // [T, width], or [3 * T, width]
  if (positions.dim() == 2) {
    const auto parts = rows.view({positions.size(0), positions.size(1), 2, -1}).split_with_sizes(sections, -1);
    Tensors chosen;
    for (size_t i = 0; i < parts.size(); ++i) chosen.push_back(parts[i].select(0, static_cast<int64_t>(i)));
    rows = at::cat(chosen, -1).flatten(1);
  }
  const int64_t width = rows.size(-1);
  const auto angles = rows.chunk(2, -1);
  const auto whole = [&](const Tensor& half) {
    return (halves ? at::cat({half, half}, -1) : half.repeat_interleave(2, -1)).unsqueeze(1);
  };
  const auto heads = f32(x).reshape({rows.size(0), -1, head_size});
  const auto turned = rotated(heads.slice(-1, 0, width), whole(angles[0]), whole(angles[1]),
                              halves ? kRotateHalves : kRotatePairs);
  return at::cat({turned, heads.slice(-1, width)}, -1).reshape(x.sizes());
}

void write_slots(const Tensor& cache, const Tensor& slots, const Tensor& rows) {
  const auto flat = i64(slots).flatten();
  const auto kept = flat.ge(0).nonzero().flatten();
  const auto at_slot = flat.index_select(0, kept);
  const int64_t block_size = cache.size(1);
  Ints shape{-1};
  for (int64_t i = 2; i < cache.dim(); ++i) shape.push_back(cache.size(i));
  const auto chosen = rows.reshape({flat.numel(), -1}).index_select(0, kept).to(cache.scalar_type());
  c10::List<std::optional<Tensor>> where;
  where.push_back(at_slot.div(block_size, "floor"));
  where.push_back(at_slot.remainder(block_size));
  cache.index_put_(where, chosen.reshape(shape));
}

Tensor slotted(const Tensor& cache, const std::string& mode) {
  if (mode.empty() || mode == "Norm") return cache;
  if (mode == "PA_NZ") return cache.transpose(1, 2);
  not_emulated("cache mode " + mode);
}

std::pair<Tensor, Tensor> latent_slots(const Tensor& cache, const Tensor& index, const std::string& mode) {
  if (mode == "PA" || mode == "PA_BNSD") return {cache, index};
  if (mode == "PA_NZ") {
    return {cache.view({cache.size(0), cache.size(-1) / 16, cache.size(1), 16}).transpose(1, 2), index};
  }
  if (mode != "Norm") not_emulated("cache mode " + mode);
  // a cache [B, 1, length, width], index [B, S]: a token's place in its request
  const auto first = at::arange(index.size(0), options(at::kLong)).unsqueeze(1) * cache.size(2);
  return {cache.squeeze(1), index + first};
}

Latent write_latent(const LatentCache& call) {
  const int64_t width = call.gamma.numel();
  const auto type = call.kv.scalar_type();
  const auto latent = rms_norm(call.kv.slice(-1, 0, width), call.gamma, call.epsilon).value.to(type);
  const auto rope = rotated_interleaved(call.kv.slice(-1, width), call.cos, call.sin).to(type);
  const auto write = [&](const Tensor& cache, const Tensor& rows) {
    const auto [view, slots] = latent_slots(cache, call.index, call.mode);
    write_slots(view, slots, rows);
  };
  write(call.rope_cache, rope);
  write(call.latent_cache, latent);
  return {rope, latent};
}

std::optional<Tensors> updated_views(const Tensor& self, const Tensor& index, const Tensor& updates,
                                     int64_t axis) {
  const int64_t dim = axis < 0 ? axis + self.dim() : axis;
  const auto from = i64(index).flatten();
  Tensors views;
  for (int64_t i = 0; i < from.numel(); ++i) {
    const int64_t length = updates.select(0, i).size(dim - 1), begin = from[i].item<int64_t>();
    if (begin < 0 || begin + length > self.size(dim)) return std::nullopt;
    views.push_back(self.select(0, i).narrow(dim - 1, begin, length));
  }
  return views;
}

void scatter_update(const Tensor& self, const Tensor& index, const Tensor& updates, int64_t axis) {
  const auto views = updated_views(self, index, updates, axis);
  if (!views) throw std::runtime_error("an index of the update lies outside of the tensor");
  for (size_t i = 0; i < views->size(); ++i) (*views)[i].copy_(updates.select(0, static_cast<int64_t>(i)));
}

void scatter_nd_update(const Tensor& self, const Tensor& indices, const Tensor& updates) {
  c10::List<std::optional<Tensor>> where;
  for (const auto& column : i64(indices).unbind(-1)) where.push_back(column);
  self.index_put_(where, updates.to(self.scalar_type()));
}

}  // namespace emu::opapi
