// SPDX-License-Identifier: Apache-2.0
#include "machine/operand.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <cstring>

#include "machine/instruction.h"

namespace emu::machine {

bool Operand::Touches(Range bytes) const {
  const uintptr_t begin = std::max(range.begin, bytes.begin);
  const uintptr_t end = std::min(range.end, bytes.end);
  if (begin >= end || element == 0) return begin < end;
  for (uintptr_t i = (begin - range.begin) / element; i <= (end - 1 - range.begin) / element; ++i) {
    if ((mask >> i & 1) != 0) return true;
  }
  return false;
}

#if defined(__x86_64__)
namespace {

// Where the kernel keeps the parts of the vector state behind the first 512 bytes, and what announces them (the
// layout of the architecture's XSAVE area; sw_reserved as in the kernel's signal frames).
constexpr uint32_t kMagic = 0x46505853;
constexpr int kUpperHalves = 2;  // bits 128 to 255 of the vector registers
constexpr int kOpmasks = 5;

const char* StatePart(const ucontext_t& context, int part, size_t bytes) {
  const auto* state = reinterpret_cast<const char*>(context.uc_mcontext.fpregs);
  if (state == nullptr) return nullptr;
  struct {
    uint32_t magic;
    uint32_t extended_size;
    uint64_t features;
    uint32_t size;
  } announced;
  std::memcpy(&announced, state + 464, sizeof announced);
  if (announced.magic != kMagic || (announced.features >> part & 1) == 0) return nullptr;
  unsigned size = 0;
  unsigned offset = 0;
  unsigned unused[2];
  if (__get_cpuid_count(0xd, static_cast<unsigned>(part), &size, &offset, &unused[0], &unused[1]) == 0)
    return nullptr;
  return size < bytes || offset + bytes > announced.size ? nullptr : state + offset;
}

uint64_t Register(const ucontext_t& context, int number) {
  static constexpr int kOrder[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                   REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return static_cast<uint64_t>(context.uc_mcontext.gregs[kOrder[number]]);
}

// Where the operand begins; false for addresses that count from the instruction itself.
bool Address(const ucontext_t& context, const Instruction& instruction, uintptr_t* address) {
  const uint8_t* at = instruction.modrm;
  const int mode = *at >> 6;
  int base = *at & 7;
  ++at;
  uint64_t sum = 0;
  if (base == 4) {
    const uint8_t sib = *at++;
    base = sib & 7;
    const int index = (sib >> 3 & 7) + (instruction.extend_index ? 8 : 0);
    if (index != 4) sum += Register(context, index) << (sib >> 6);
    if (base == 5 && mode == 0) base = -1;
  } else if (base == 5 && mode == 0) {
    return false;
  }
  if (base >= 0) sum += Register(context, base + (instruction.extend_base ? 8 : 0));
  if (mode == 1) {
    const auto displacement = static_cast<int8_t>(*at);
    sum += static_cast<uint64_t>(displacement * int64_t{instruction.scaled ? instruction.width : 1});
  } else if (mode == 2 || base < 0) {
    int32_t displacement;
    std::memcpy(&displacement, at, sizeof displacement);
    sum += static_cast<uint64_t>(int64_t{displacement});
  }
  *address = sum;
  return true;
}

// The signs of a vector register's elements.
bool SignMask(const ucontext_t& context, const Instruction& instruction, uint64_t* mask) {
  char bytes[32] = {};
  const auto* state = reinterpret_cast<const char*>(context.uc_mcontext.fpregs);
  if (state == nullptr) return false;
  std::memcpy(bytes, state + 160 + 16 * instruction.mask_register, 16);
  if (instruction.width > 16) {
    const char* upper = StatePart(context, kUpperHalves, 16 * 16);
    if (upper != nullptr) std::memcpy(bytes + 16, upper + 16 * instruction.mask_register, 16);
  }
  *mask = 0;
  for (int i = 0; i < instruction.width / instruction.element; ++i) {
    if (bytes[(i + 1) * instruction.element - 1] < 0) *mask |= uint64_t{1} << i;
  }
  return true;
}

bool Opmask(const ucontext_t& context, int number, uint64_t* mask) {
  const char* masks = StatePart(context, kOpmasks, 8 * 8);
  if (masks == nullptr) return false;
  std::memcpy(mask, masks + 8 * number, sizeof *mask);
  return true;
}

void Mask(const ucontext_t& context, const Instruction& instruction, Operand* operand) {
  uint64_t mask = 0;
  switch (instruction.masking) {
    case Masking::kVector:
      if (SignMask(context, instruction, &mask)) {
        operand->element = instruction.element;
        operand->mask = mask;
      }
      return;
    case Masking::kOpmask:
      if (Opmask(context, instruction.mask_register, &mask)) {
        operand->element = instruction.element;
        operand->mask = mask;
      }
      return;
    case Masking::kCompressed:
      if (Opmask(context, instruction.mask_register, &mask)) {
        const int elements = instruction.width / instruction.element;
        if (elements < 64) mask &= (uint64_t{1} << elements) - 1;
        operand->range.end = operand->range.begin + __builtin_popcountll(mask) * instruction.element;
      }
      return;
    default:
      return;
  }
}

}  // namespace

Operand OperandAt(const ucontext_t& context, uintptr_t fault) {
  Operand operand;
  const auto* code = reinterpret_cast<const uint8_t*>(context.uc_mcontext.gregs[REG_RIP]);
  const Instruction instruction = Decode(code);
  operand.range = {fault, fault + std::max<uintptr_t>(instruction.width, 1)};
  if (instruction.width == 0 || instruction.masking == Masking::kElements) return operand;
  uintptr_t candidates[2] = {fault, fault};
  if (instruction.is_string) {
    candidates[0] = Register(context, 6);  // rsi, rdi
    candidates[1] = Register(context, 7);
  } else if (instruction.modrm == nullptr || !Address(context, instruction, &candidates[0])) {
    return operand;
  }
  for (const uintptr_t begin : candidates) {
    if (begin > fault || fault - begin >= instruction.width) continue;  // addressed in a way not known here
    operand.range = {begin, begin + instruction.width};
    Mask(context, instruction, &operand);
    return operand;
  }
  return operand;
}
#else
Operand OperandAt(const ucontext_t&, uintptr_t fault) { return {{fault, fault + 1}, 0, 0}; }
#endif

}  // namespace emu::machine
