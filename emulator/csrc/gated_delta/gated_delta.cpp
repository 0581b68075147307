// SPDX-License-Identifier: Apache-2.0
#include "gated_delta/gated_delta.h"

#include "opapi/bodies.h"

namespace emu::gated_delta {
namespace {

using opapi::f32;

constexpr int64_t kMostTokens = 8;  // of a sequence of the recurrent operator

template <typename... Parts>
void Require(bool fulfilled, const Parts&... parts) {
  if (!fulfilled) throw std::runtime_error(c10::str(parts...));
}

// The operands in float32, with a row of query and key for each value head.
struct Rows {
  Tensor query, key, value;  // [T, Nv, D, 1]
  Tensor beta, kept;         // [T, Nv, 1, 1]
};

Rows RowsOf(const Tokens& tokens) {
  const int64_t shared = tokens.value.size(1) / tokens.key.size(1);
  const auto column = [&](const Tensor& x) { return f32(x).repeat_interleave(shared, 1).unsqueeze(-1); };
  const auto number = [](const Tensor& x) { return f32(x).unsqueeze(-1).unsqueeze(-1); };
  const auto beta = number(tokens.beta);
  return {column(tokens.query) * tokens.scale, column(tokens.key), f32(tokens.value).unsqueeze(-1), beta,
          tokens.g.defined() ? number(tokens.g).exp() : at::ones_like(beta)};
}

// Carries a state [Nv, Dv, Dk] over one token and writes what the token reads from it.
Tensor Next(const Rows& rows, int64_t token, const Tensor& before, const Tensor& out) {
  const auto key = rows.key[token];
  const auto faded = before * rows.kept[token];
  const auto change = (rows.value[token] - at::bmm(faded, key)) * rows.beta[token];
  const auto state = faded + at::bmm(change, key.transpose(1, 2));
  out[token].copy_(at::bmm(state, rows.query[token]).squeeze(-1));
  return state;
}

std::vector<int64_t> NumbersOf(const Tensor& tensor) {
  const auto numbers = tensor.to(at::kLong).contiguous();
  return {numbers.data_ptr<int64_t>(), numbers.data_ptr<int64_t>() + numbers.numel()};
}

// The sequences' lengths. Throws where they have more tokens than there are: a failure of the device.
std::vector<int64_t> LengthsOf(const Tokens& tokens) {
  const auto lengths = NumbersOf(tokens.lengths);
  int64_t sum = 0;
  for (const auto length : lengths) {
    Require(length >= 0, "a sequence has ", length, " tokens");
    sum += length;
  }
  Require(sum <= tokens.value.size(0), "sequences have ", sum, " tokens, operands ", tokens.value.size(0));
  return lengths;
}

}  // namespace

void run(const Recurrent& call) {
  const auto lengths = LengthsOf(call.tokens), indices = NumbersOf(call.indices);
  const auto accepted = call.accepted.defined() ? NumbersOf(call.accepted) : std::vector<int64_t>();
  const auto rows = RowsOf(call.tokens);
  const auto place = [&](int64_t token) {
    Require(token >= 0 && token < static_cast<int64_t>(indices.size()), "no state is named for token ", token);
    Require(indices[token] >= 0 && indices[token] < call.state.size(0), "token ", token, " names state ",
            indices[token], " of ", call.state.size(0));
    return call.state[indices[token]];
  };
  int64_t begin = 0;
  for (size_t sequence = 0; sequence < lengths.size(); ++sequence) {
    const int64_t end = begin + lengths[sequence];
    if (begin == end) continue;
    Require(end - begin <= kMostTokens, "a sequence has ", end - begin, " tokens, at most ", kMostTokens);
    const int64_t first = accepted.empty() ? 0 : accepted[sequence] - 1;
    Require(first >= 0, "a sequence goes on from state ", first + 1, ", counted from 1");
    auto state = f32(place(begin + first)).clone();
    for (int64_t token = begin; token < end; ++token) {
      state = Next(rows, token, state, call.tokens.out);
      place(token).copy_(state);
    }
    begin = end;
  }
}

Tensor states_of(const Recurrent& call) {
  const auto lengths = LengthsOf(call.tokens), indices = NumbersOf(call.indices);
  const auto accepted = call.accepted.defined() ? NumbersOf(call.accepted) : std::vector<int64_t>();
  std::vector<int64_t> states;
  size_t begin = 0;
  for (size_t sequence = 0; sequence < lengths.size(); ++sequence) {
    const auto length = static_cast<size_t>(lengths[sequence]);
    if (length == 0) continue;
    states.push_back(indices.at(begin + (accepted.empty() ? 0 : static_cast<size_t>(accepted[sequence] - 1))));
    for (size_t token = 0; token < length; ++token) states.push_back(indices.at(begin + token));
    begin += length;
  }
  return at::tensor(states, opapi::options(at::kLong));
}

void run(const Chunk& call) {
  const auto lengths = LengthsOf(call.tokens);
  const auto rows = RowsOf(call.tokens);
  int64_t token = 0;
  for (size_t sequence = 0; sequence < lengths.size(); ++sequence) {
    auto state = f32(call.initial[sequence]);
    for (int64_t i = 0; i < lengths[sequence]; ++i, ++token) state = Next(rows, token, state, call.tokens.out);
    call.final_state[sequence].copy_(state);
  }
}

namespace {

constexpr int64_t kMostRecurrentHeads = 256, kMostChunkHeads = 64, kMostHeadSize = 256;

void CheckTokens(const Tokens& tokens, int64_t most_heads) {
  const auto& [query, key, value, beta, g, lengths, scale, out] = tokens;
  Require(query.dim() == 3 && query.sizes() == key.sizes(), "query and key must have one shape, [T, Nk, Dk]");
  Require(value.dim() == 3 && value.size(0) == key.size(0), "value must be [T, Nv, Dv], with the keys' T");
  Require(out.sizes() == value.sizes(), "the output must have the shape of value");
  const int64_t keys = key.size(1), values = value.size(1);
  Require(keys > 0 && values % keys == 0 && values <= most_heads, "there are ", keys, " key heads and ", values,
          " value heads: not a multiple of them up to ", most_heads);
  Require(key.size(2) <= kMostHeadSize && value.size(2) <= kMostHeadSize, "heads are wider than ", kMostHeadSize);
  Require(beta.defined(), "beta is needed");
  for (const auto& of_heads : {beta, g}) {
    if (!of_heads.defined()) continue;
    Require(of_heads.dim() == 2 && of_heads.size(0) == value.size(0) && of_heads.size(1) == values,
            "beta and g must be [T, Nv]");
  }
  Require(!g.defined() || g.scalar_type() == at::kFloat, "g must be float32");
  Require(lengths.defined() && lengths.dim() == 1 && lengths.scalar_type() == at::kInt,
          "actual_seq_lengths must be int32 and have one dimension");
}

void CheckState(const Tokens& tokens, const Tensor& state, const char* name) {
  Require(state.defined() && state.dim() == 4 && state.size(1) == tokens.value.size(1) &&
              state.size(2) == tokens.value.size(2) && state.size(3) == tokens.key.size(2),
          name, " must be [.., Nv, Dv, Dk]");
}

}  // namespace

void check(const Recurrent& call) {
  CheckTokens(call.tokens, kMostRecurrentHeads);
  CheckState(call.tokens, call.state, "state");
  const auto whole = [](const Tensor& x) { return x.dim() == 1 && x.scalar_type() == at::kInt; };
  Require(call.indices.defined() && whole(call.indices), "ssm_state_indices must be int32 and have one dimension");
  Require(
      !call.accepted.defined() || (whole(call.accepted) && call.accepted.size(0) == call.tokens.lengths.size(0)),
      "num_accepted_tokens must be int32, one number a sequence");
}

void check(const Chunk& call) {
  CheckTokens(call.tokens, kMostChunkHeads);
  CheckState(call.tokens, call.initial, "initial_state");
  CheckState(call.tokens, call.final_state, "the final state");
  Require(call.initial.size(0) == call.tokens.lengths.size(0) && call.final_state.sizes() == call.initial.sizes(),
          "there are ", call.tokens.lengths.size(0), " sequences and ", call.initial.size(0), " states");
}

}  // namespace emu::gated_delta
