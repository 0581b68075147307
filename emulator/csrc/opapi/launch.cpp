// SPDX-License-Identifier: Apache-2.0
// The two phases of every operator.
#include <algorithm>
#include <memory>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <omp.h>

#include "core/failure.h"
#include "core/stream.h"
#include "hccl/handles.h"
#include "opapi/choosing.h"
#include "opapi/operands.h"
#include "opapi/operator.h"

// Name from op-plugin utils/op_api_common_base.h (BSD-3), which declares it as opaque.
struct aclOpExecutor : emu::opapi::Handle {
  aclOpExecutor() : Handle(emu::opapi::Kind::kExecutor) {}
  const emu::opapi::Operator* op = nullptr;
  std::shared_ptr<emu::opapi::Arguments> arguments = std::make_shared<emu::opapi::Arguments>();
};

namespace emu::opapi {
namespace {

Kind HandleKind(Type type) {
  switch (type) {
    case Type::kTensor:
    case Type::kResized:
      return Kind::kTensor;
    case Type::kTensors:
      return Kind::kTensors;
    case Type::kScalar:
      return Kind::kScalar;
    case Type::kScalars:
      return Kind::kScalars;
    case Type::kInts:
      return Kind::kInts;
    case Type::kFloats:
      return Kind::kFloats;
    case Type::kBools:
      return Kind::kBools;
    default:
      return Kind::kNone;
  }
}

[[noreturn]] void Refuse(const Operator& op, const Parameter& parameter, const std::string& reason) {
  throw Error(kInvalidParam, std::string(op.name) + ": argument '" + parameter.name + "' " + reason);
}

const Tensor& Usable(const Operator& op, const Parameter& parameter, const aclTensor& tensor) {
  if (!tensor.problem.empty()) Refuse(op, parameter, "cannot be used: " + tensor.problem);
  return tensor.value;
}

Value Absent(const Operator& op, const Parameter& parameter) {
  const bool list =
      parameter.type != Type::kTensor && parameter.type != Type::kResized && parameter.type != Type::kScalar;
  if (!parameter.optional && !list)
    Refuse(op, parameter, std::string("is null, not ") + KindName(HandleKind(parameter.type)));
  switch (parameter.type) {
    case Type::kTensor:
      return Tensor();
    case Type::kResized:
      return Resized();
    case Type::kTensors:
      return Tensors();
    case Type::kScalar:
      return std::optional<Scalar>();
    case Type::kScalars:
      return Scalars();
    case Type::kFloats:
      return Floats();
    case Type::kBools:
      return Bools();
    default:
      return parameter.optional ? Value(std::optional<Ints>()) : Value(Ints());
  }
}

Value CaptureHandle(const Operator& op, const Parameter& parameter, const void* address) {
  if (address == nullptr) return Absent(op, parameter);
  const Kind expected = HandleKind(parameter.type);
  const Kind found = KindOf(address);
  if (found != expected) {
    Refuse(op, parameter, std::string("is ") + KindName(found) + ", not " + KindName(expected));
  }
  switch (parameter.type) {
    case Type::kTensor:
      return Usable(op, parameter, *static_cast<const aclTensor*>(address));
    case Type::kResized: {
      auto* handle = static_cast<aclTensor*>(const_cast<void*>(address));
      return Resized{Usable(op, parameter, *handle), handle};
    }
    case Type::kTensors: {
      Tensors tensors;
      for (const auto* item : static_cast<const aclTensorList*>(address)->items) {
        tensors.push_back(item == nullptr ? Tensor() : Usable(op, parameter, *item));
      }
      return tensors;
    }
    case Type::kScalar: {
      const auto& value = static_cast<const aclScalar*>(address)->value;
      return parameter.optional ? Value(std::optional<Scalar>(value)) : Value(value);
    }
    case Type::kScalars: {
      Scalars scalars;
      for (const auto* item : static_cast<const aclScalarList*>(address)->items) scalars.push_back(item->value);
      return scalars;
    }
    case Type::kFloats:
      return static_cast<const aclFloatArray*>(address)->items;
    case Type::kBools:
      return static_cast<const aclBoolArray*>(address)->items;
    default: {
      const auto& items = static_cast<const aclIntArray*>(address)->items;
      return parameter.optional ? Value(std::optional<Ints>(items)) : Value(items);
    }
  }
}

Value Captured(const Operator& op, const Parameter& parameter, const Raw& raw) {
  switch (parameter.type) {
    case Type::kInteger: {
      const Kind found = KindOf(reinterpret_cast<const void*>(raw.integer));
      if (found != Kind::kNone) Refuse(op, parameter, std::string("is ") + KindName(found) + ", not a number");
      return raw.integer;
    }
    case Type::kReal:
      return raw.real;
    case Type::kFlag:
      return raw.integer != 0;
    case Type::kText:
      return std::string(raw.handle == nullptr ? "" : static_cast<const char*>(raw.handle));
    case Type::kDtype:
      return ScalarTypeOf(static_cast<int>(raw.integer));
    case Type::kGroup:
      return Group{hccl::CommunicatorNamed(static_cast<const char*>(raw.handle))};
    default:
      return CaptureHandle(op, parameter, raw.handle);
  }
}

// A stream's thread computes alone: streams run beside each other, and a sum's order does not depend on the load.
void UseOneThread() {
  thread_local bool done = false;
  if (done) return;
  at::internal::lazy_init_num_threads();  // or the first parallel loop would undo the next line
  omp_set_num_threads(1);
  done = true;
}

void RunBody(const Operator& op, const Arguments& arguments) {
  RunGuarded([&] { op.body(arguments); });
}

Chosen ReadArguments(const Operator& op, const Arguments& arguments) {
  UseOneThread();
  at::AutoDispatchBelowADInplaceOrView no_autograd;
  return ReadChosen(op, arguments);
}

void Check(const Operator& op, const Arguments& arguments) {
  try {
    op.check(arguments);
  } catch (const std::runtime_error& error) {
    throw Error(kInvalidParam, std::string(op.name) + ": " + error.what());
  }
}

bool SetsShapes(const Operator& op) {
  return std::any_of(op.parameters.begin(), op.parameters.end(),
                     [](const Parameter& parameter) { return parameter.type == Type::kResized; });
}

// Puts the operator on the stream; one that ranks run together takes its turn on their communicator.
void Issue(const Operator& op, const std::shared_ptr<Arguments>& arguments, Stream& stream) {
  Task task;
  task.name = op.name;
  Touched touched = TouchedBy(op, *arguments);
  task.accesses = std::move(touched.accesses);
  task.torn = std::move(touched.torn);
  if (!touched.choices.empty()) {
    task.choices = std::move(touched.choices);
    task.choose = [&op, arguments] { return ReadArguments(op, *arguments); };
  }
  auto run = [&op, arguments] { RunBody(op, *arguments); };
  for (auto& argument : *arguments) {
    if (auto* group = std::get_if<Group>(&argument)) {
      task.site = group->site = CurrentSite();
      std::string note = std::string(op.name) + " at " + DescribeSite(task.site);
      group->communicator->IssueCollective(stream, std::move(task), std::move(note), std::move(run));
      return;
    }
  }
  task.run = std::move(run);
  Enqueue(stream, std::move(task));
}

void RefuseCapture(const Operator& op, Stream& stream) {
  std::lock_guard lock(IssueLock());
  if (stream.capture != nullptr) {
    throw Error(kFeatureNotSupported,
                std::string(op.name) + " waits for its result, so it cannot be captured in a graph");
  }
}

}  // namespace

void RunGuarded(const std::function<void()>& body) {
  UseOneThread();
  at::AutoDispatchBelowADInplaceOrView no_autograd;
  try {
    body();
  } catch (const c10::Error& error) {  // without the C++ backtrace
    throw std::runtime_error(error.what_without_backtrace());
  }
}

int Prepare(const Operator& op, std::initializer_list<Raw> raw, uint64_t* workspace_size,
            aclOpExecutor** executor) {
  return Guarded(op.name, [&] {
    auto made = std::make_unique<aclOpExecutor>();
    made->op = &op;
    auto& arguments = *made->arguments;
    arguments.reserve(raw.size());
    for (const auto& argument : raw) {
      arguments.push_back(Captured(op, op.parameters[arguments.size()], argument));
    }
    if (op.check != nullptr) Check(op, arguments);
    *workspace_size = 0;
    *executor = made.release();
  });
}

int Launch(const Operator& op, aclOpExecutor* executor, void* stream) {
  return Guarded(op.name, [&] {
    if (KindOf(executor) != Kind::kExecutor || executor->op != &op) {
      throw Error(kInvalidParam, std::string(op.name) + ": the executor is not this operator's");
    }
    const std::unique_ptr<aclOpExecutor> owned(executor);
    Stream& target = StreamOf(stream);
    const bool waits = SetsShapes(op);
    if (waits) RefuseCapture(op, target);
    Issue(op, owned->arguments, target);
    if (waits) Synchronize(target);
  });
}

}  // namespace emu::opapi

// Of an executor that is never launched: torch_npu only asks for its workspace. Name: the torch_npu wheel (BSD-3).
extern "C" int aclDestroyAclOpExecutor(aclOpExecutor* executor) {
  return emu::Guarded("aclDestroyAclOpExecutor", [&] {
    if (emu::opapi::KindOf(executor) != emu::opapi::Kind::kExecutor) {
      throw emu::Error(emu::kInvalidParam, "aclDestroyAclOpExecutor: not an executor");
    }
    delete executor;
  });
}
