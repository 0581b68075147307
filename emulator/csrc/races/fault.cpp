// SPDX-License-Identifier: Apache-2.0
#include "races/fault.h"

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>
#if !defined(__x86_64__)
#include <asm/sigcontext.h>
#endif

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

namespace emu::races {
namespace {

using Handler = void (*)(int, siginfo_t*, void*);

// Handlers that stood there before ours, the latest last.
struct Chain {
  static constexpr int kMost = 8;
  struct sigaction previous[kMost];
  std::atomic<int> size{0};
};
Chain segv_chain;
Chain trap_chain;

// Pages that are open while the thread executes one instruction; a gather may touch many.
struct Stepping {
  static constexpr int kMost = 32;
  uintptr_t addresses[kMost];
  int size = 0;
};
thread_local Stepping stepping;
thread_local int chain_depth = 0;  // a handler of the chain that raises the signal again gets the one before it
thread_local void* last_foreign = nullptr;
thread_local int foreign_repeats = 0;

bool SameHandler(const struct sigaction& a, const struct sigaction& b) {
  return a.sa_sigaction == b.sa_sigaction;  // a union with sa_handler
}

void Die(int signal, const siginfo_t* info) {
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  sigaction(signal, &action, nullptr);
  if (info->si_code <= 0) raise(signal);  // sent; a fault repeats by itself when the instruction does
}

void PassOn(Chain& chain, int signal, siginfo_t* info, void* context) {
  if (info->si_code > 0) chain_depth = 0;  // a fault of its own; the last handler may have left by longjmp
  const int level = chain.size.load() - 1 - chain_depth;
  foreign_repeats = info->si_addr == last_foreign ? foreign_repeats + 1 : 0;
  last_foreign = info->si_addr;
  constexpr int kMostRepeats = 16;  // a handler that returns without mending anything
  if (level < 0 || foreign_repeats > kMostRepeats) return Die(signal, info);
  const struct sigaction& previous = chain.previous[level];
  const bool is_default =
      (previous.sa_flags & SA_SIGINFO) == 0 && (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN);
  if (is_default) return Die(signal, info);
  ++chain_depth;
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
  } else {
    previous.sa_handler(signal);
  }
  --chain_depth;
}

#if defined(__x86_64__)
constexpr greg_t kTrapFlag = 0x100;

bool IsWrite(const ucontext_t* context) {
  constexpr greg_t kWriteFault = 2;
  return (context->uc_mcontext.gregs[REG_ERR] & kWriteFault) != 0;
}

void SingleStep(ucontext_t* context, bool on) {
  greg_t& flags = context->uc_mcontext.gregs[REG_EFL];
  flags = on ? flags | kTrapFlag : flags & ~kTrapFlag;
}
constexpr bool kCanStep = true;
#else
// AArch64: the kernel tells what the access was in a record of its own.
bool IsWrite(const ucontext_t* context) {
  constexpr uint64_t kWriteNotRead = 1 << 6;
  const unsigned char* at = context->uc_mcontext.__reserved;
  const unsigned char* const end = at + sizeof(context->uc_mcontext.__reserved);
  while (at + sizeof(esr_context) <= end) {
    _aarch64_ctx head;
    std::memcpy(&head, at, sizeof(head));
    if (head.magic == 0 || head.size == 0) break;
    if (head.magic == ESR_MAGIC) {
      esr_context record;
      std::memcpy(&record, at, sizeof(record));
      return (record.esr & kWriteNotRead) != 0;
    }
    at += head.size;
  }
  return false;
}
// A process cannot step itself there: a page stays open after a touch beside the guarded range.
void SingleStep(ucontext_t*, bool) {}
constexpr bool kCanStep = false;
#endif

void OnSegv(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  auto* context_now = static_cast<ucontext_t*>(context);
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  FaultOutcome outcome = FaultOutcome::kNotOurs;
  if (info->si_code == SEGV_ACCERR && MayBeGuarded(address)) {
    outcome = ResolveFault(address, machine::OperandAt(*context_now, address), IsWrite(context_now));
  }
  if (outcome == FaultOutcome::kNotOurs) {
    PassOn(segv_chain, signal, info, context);
  } else if (outcome == FaultOutcome::kStep && kCanStep && stepping.size < Stepping::kMost) {
    stepping.addresses[stepping.size++] = address;
    SingleStep(context_now, true);
  }
  errno = saved_errno;
}

void OnTrap(int signal, siginfo_t* info, void* context) {
  if (stepping.size == 0) return PassOn(trap_chain, signal, info, context);
  const int saved_errno = errno;
  for (int i = 0; i < stepping.size; ++i) ClosePage(stepping.addresses[i]);
  stepping.size = 0;
  SingleStep(static_cast<ucontext_t*>(context), false);
  errno = saved_errno;
}

void EnsureHandler(int signal, Handler handler, Chain& chain) {
  struct sigaction current = {};
  sigaction(signal, nullptr, &current);
  if ((current.sa_flags & SA_SIGINFO) != 0 && current.sa_sigaction == handler) return;
  // one entry for each handler, in the order they came
  const int size = chain.size.load();
  const auto end = std::remove_if(chain.previous, chain.previous + size,
                                  [&](const struct sigaction& known) { return SameHandler(known, current); });
  int kept = static_cast<int>(end - chain.previous);
  if (kept == Chain::kMost) --kept;
  chain.previous[kept] = current;
  chain.size.store(kept + 1);
  struct sigaction action = {};
  action.sa_sigaction = handler;
  // on the thread's own stack: a report needs more room than faulthandler's alternative stack has
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART;
  sigaction(signal, &action, nullptr);
}

}  // namespace

void EnsureFaultHandlers() {
  EnsureHandler(SIGSEGV, OnSegv, segv_chain);
  if (kCanStep) EnsureHandler(SIGTRAP, OnTrap, trap_chain);
}

}  // namespace emu::races
