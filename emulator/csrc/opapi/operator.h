// SPDX-License-Identifier: Apache-2.0
// What a generated entry point is made of: the operator's description, its arguments captured by value, its body.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/site.h"
#include "opapi/handles.h"

struct aclOpExecutor;

namespace emu::hccl {
class Communicator;
}

namespace emu::opapi {

class Choosing;

using at::Scalar;
using at::Tensor;
using Tensors = std::vector<Tensor>;
using Scalars = std::vector<Scalar>;
using Ints = std::vector<int64_t>;
using Floats = std::vector<double>;
using Bools = std::vector<bool>;

// An output whose shape the operator sets: memory for the largest one, and the handle to tell.
struct Resized {
  Tensor memory;
  aclTensor* handle = nullptr;
};

// The ranks that run an operator together, and where this one called it.
struct Group {
  std::shared_ptr<hccl::Communicator> communicator;
  SiteId site = 0;
};

enum class Type : uint8_t {
  kTensor,
  kTensors,
  kResized,
  kScalar,
  kScalars,
  kInts,
  kFloats,
  kBools,
  kInteger,
  kReal,
  kFlag,
  kText,
  kDtype,
  kGroup
};

// How the operator touches a tensor's memory. kUpdate: it reads and writes, or writes only a part.
enum class Use : uint8_t { kNone, kRead, kWrite, kUpdate };

struct Parameter {
  const char* name;
  Type type;
  Use use = Use::kNone;
  bool optional = false;  // may be null
};

// One argument as the C interface passes it.
struct Raw {
  Raw(const void* address) : handle(address) {}  // NOLINT: the generated code relies on the conversions
  Raw(int64_t value) : integer(value) {}         // NOLINT
  Raw(double value) : real(value) {}             // NOLINT
  Raw(bool value) : integer(value) {}            // NOLINT
  const void* handle = nullptr;
  int64_t integer = 0;
  double real = 0;
};

using Value =
    std::variant<std::monostate, Tensor, Tensors, Resized, Scalar, std::optional<Scalar>, Scalars, Ints,
                 std::optional<Ints>, Floats, Bools, int64_t, double, bool, std::string, at::ScalarType, Group>;
using Arguments = std::vector<Value>;

struct Operator {
  const char* name;
  std::vector<Parameter> parameters;
  void (*body)(const Arguments& arguments);
  void (*check)(const Arguments& arguments);  // at the call; throws for what the operator refuses. May be null.
  // What it touches by indices (opapi/choosing.h); may be null.
  void (*choose)(const Arguments& arguments, Choosing& choosing) = nullptr;
};

// Runs a body on a stream's thread: one thread, no autograd, errors without the C++ backtrace.
void RunGuarded(const std::function<void()>& body);

// Phase 1: checks the arguments and captures them. Returns an ACL code.
int Prepare(const Operator& op, std::initializer_list<Raw> raw, uint64_t* workspace_size,
            aclOpExecutor** executor);
// Phase 2: issues the operator on the stream. Returns an ACL code.
int Launch(const Operator& op, aclOpExecutor* executor, void* stream);

}  // namespace emu::opapi
