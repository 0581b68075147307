// SPDX-License-Identifier: Apache-2.0
#include "machine/instruction.h"

namespace emu::machine {
namespace {

struct Prefixes {
  bool operand16 = false;
  bool repeat = false;      // f3
  bool repeat_not = false;  // f2
  uint8_t rex = 0;
  uint8_t Mandatory() const { return repeat_not ? 3 : repeat ? 2 : operand16 ? 1 : 0; }
};

const uint8_t* ReadPrefixes(const uint8_t* at, Prefixes* prefixes) {
  for (;; ++at) {
    switch (*at) {
      case 0x66:
        prefixes->operand16 = true;
        continue;
      case 0xf2:
        prefixes->repeat_not = true;
        continue;
      case 0xf3:
        prefixes->repeat = true;
        continue;
      case 0x26:
      case 0x2e:
      case 0x36:
      case 0x3e:
      case 0x64:
      case 0x65:
      case 0x67:
      case 0xf0:
        continue;
      default:
        break;
    }
    break;
  }
  if ((*at & 0xf0) == 0x40) prefixes->rex = *at++;
  return at;
}

// What is encoded in the bytes before an opcode of AVX and AVX-512. Inverted bits are turned over here.
struct Vector {
  bool extend_index = false;
  bool extend_base = false;
  bool broadcast = false;
  uint8_t opmask = 0;
  uint8_t source = 0;  // the register in "vvvv"
};

const uint8_t* ReadVex(const uint8_t* at, Opcode* op, Vector* vector) {
  const bool is_short = *at++ == 0xc5;
  op->map = 1;
  if (!is_short) {
    op->map = *at & 0x1f;
    vector->extend_index = (*at & 0x40) == 0;
    vector->extend_base = (*at & 0x20) == 0;
    ++at;
    op->wide = (*at & 0x80) != 0;
  }
  op->prefix = *at & 3;
  op->length = (*at & 4) != 0 ? 32 : 16;
  vector->source = static_cast<uint8_t>(~*at >> 3 & 0xf);
  op->vector = true;
  return at + 1;
}

const uint8_t* ReadEvex(const uint8_t* at, Opcode* op, Vector* vector) {
  ++at;
  op->map = at[0] & 7;
  vector->extend_index = (at[0] & 0x40) == 0;
  vector->extend_base = (at[0] & 0x20) == 0;
  op->wide = (at[1] & 0x80) != 0;
  op->prefix = at[1] & 3;
  op->length = static_cast<uint16_t>(16 << (at[2] >> 5 & 3));
  vector->broadcast = (at[2] & 0x10) != 0;
  vector->opmask = at[2] & 7;
  op->vector = op->evex = true;
  return at + 3;
}

const uint8_t* ReadLegacy(const uint8_t* at, Opcode* op) {
  if (*at != 0x0f) return at;
  ++at;
  op->map = 1;
  if (*at == 0x38 || *at == 0x3a) op->map = *at++ == 0x38 ? 2 : 3;
  return at;
}

bool IsString(const Opcode& op) {
  return op.map == 0 && op.code >= 0xa4 && op.code <= 0xaf && op.code != 0xa8 && op.code != 0xa9;
}

bool HasModrm(const Opcode& op) {
  const bool direct = op.map == 0 && ((op.code >= 0xa0 && op.code <= 0xaf) || op.code == 0xd7);
  return !direct;
}

// Plain moves of a whole vector are what masks are used with to stay inside a buffer; bytes of an element.
uint8_t MovedElement(const Opcode& op) {
  if (op.map == 1 && (op.code == 0x6f || op.code == 0x7f)) {
    return op.prefix == 3 ? (op.wide ? 2 : 1) : (op.wide ? 8 : 4);
  }
  const bool floats = op.map == 1 && (op.code == 0x10 || op.code == 0x11 || op.code == 0x28 || op.code == 0x29);
  return floats ? (op.wide ? 8 : 4) : 0;
}

void FindMask(const Opcode& op, const Vector& vector, Instruction* found) {
  const bool gathers =
      op.map == 2 && ((op.code >= 0x90 && op.code <= 0x93) || (op.code >= 0xa0 && op.code <= 0xa3));
  if (gathers) {
    found->masking = Masking::kElements;
    return;
  }
  if (op.map == 2 && !op.evex && ((op.code >= 0x2c && op.code <= 0x2f) || op.code == 0x8c || op.code == 0x8e)) {
    found->masking = Masking::kVector;
    found->mask_register = vector.source;
    found->element = op.code < 0x80 ? ((op.code & 1) != 0 ? 8 : 4) : (op.wide ? 8 : 4);
    return;
  }
  if (!op.evex || vector.opmask == 0) return;
  found->mask_register = vector.opmask;
  const bool bytes = op.map == 2 && (op.code == 0x62 || op.code == 0x63);
  if (bytes || (op.map == 2 && op.code >= 0x88 && op.code <= 0x8b)) {
    found->masking = Masking::kCompressed;
    found->element = bytes ? (op.wide ? 2 : 1) : (op.wide ? 8 : 4);
  } else if (const uint8_t element = MovedElement(op)) {
    found->masking = Masking::kOpmask;
    found->element = element;
  }
}

}  // namespace

Instruction Decode(const uint8_t* at) {
  Prefixes prefixes;
  Opcode op;
  Vector vector;
  at = ReadPrefixes(at, &prefixes);
  if (*at == 0xc4 || *at == 0xc5) {
    at = ReadVex(at, &op, &vector);
  } else if (*at == 0x62) {
    at = ReadEvex(at, &op, &vector);
  } else {
    op.operand16 = prefixes.operand16;
    op.wide = (prefixes.rex & 8) != 0;
    op.prefix = prefixes.Mandatory();
    vector.extend_index = (prefixes.rex & 2) != 0;
    vector.extend_base = (prefixes.rex & 1) != 0;
    at = ReadLegacy(at, &op);
  }
  op.code = *at;
  op.modrm = at[1];
  Instruction found;
  found.is_string = IsString(op);
  const bool has_modrm = HasModrm(op);
  if (has_modrm && (op.modrm & 0xc0) == 0xc0) return found;  // both operands are registers
  found.modrm = has_modrm ? at + 1 : nullptr;
  found.width = WidthOf(op);
  if (vector.broadcast) found.width = op.map >= 5 ? 2 : op.wide ? 8 : 4;
  found.scaled = op.evex;
  found.extend_index = vector.extend_index;
  found.extend_base = vector.extend_base;
  FindMask(op, vector, &found);
  return found;
}

}  // namespace emu::machine
