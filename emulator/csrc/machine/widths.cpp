// SPDX-License-Identifier: Apache-2.0
// The opcode maps: how wide the memory operand of each instruction is.
#include <iterator>

#include "machine/instruction.h"

namespace emu::machine {
namespace {

// Widths: digits are bytes. v: the operand size. y: 4 or 8 by W. x: a whole vector. h q e: a half, a quarter and
// an eighth of it. m: a vector, of 8 bytes in MMX's forms. c: 16 bytes, 8 in MMX's forms. s: a vector, or the one
// float or double that the prefix f3 or f2 stands for. f: the same for conversions from single precision. o: 16.
// w: 32. Other letters: see WidthOfKind.
struct Row {
  uint8_t first;
  uint8_t last;
  char width;
};

constexpr Row kOneByte[] = {
    {0x63, 0x63, '4'}, {0x69, 0x69, 'v'}, {0x6b, 0x6b, 'v'}, {0x80, 0x80, '1'}, {0x81, 0x81, 'v'},
    {0x83, 0x83, 'v'}, {0x84, 0x84, '1'}, {0x85, 0x85, 'v'}, {0x86, 0x86, '1'}, {0x87, 0x87, 'v'},
    {0x88, 0x88, '1'}, {0x89, 0x89, 'v'}, {0x8a, 0x8a, '1'}, {0x8b, 0x8b, 'v'}, {0x8c, 0x8c, '2'},
    {0x8e, 0x8e, '2'}, {0x8f, 0x8f, '8'}, {0xa0, 0xa0, '1'}, {0xa1, 0xa1, 'v'}, {0xa2, 0xa2, '1'},
    {0xa3, 0xa3, 'v'}, {0xa4, 0xa4, '1'}, {0xa5, 0xa5, 'v'}, {0xa6, 0xa6, '1'}, {0xa7, 0xa7, 'v'},
    {0xaa, 0xaa, '1'}, {0xab, 0xab, 'v'}, {0xac, 0xac, '1'}, {0xad, 0xad, 'v'}, {0xae, 0xae, '1'},
    {0xaf, 0xaf, 'v'}, {0xc0, 0xc0, '1'}, {0xc1, 0xc1, 'v'}, {0xc6, 0xc6, '1'}, {0xc7, 0xc7, 'v'},
    {0xd0, 0xd0, '1'}, {0xd1, 0xd1, 'v'}, {0xd2, 0xd2, '1'}, {0xd3, 0xd3, 'v'}, {0xd7, 0xd7, '1'},
    {0xd8, 0xdf, 'J'}, {0xf6, 0xf6, '1'}, {0xf7, 0xf7, 'v'}, {0xfe, 0xfe, '1'}, {0xff, 0xff, 'K'},
};
constexpr Row kTwoBytes[] = {
    {0x10, 0x11, 's'}, {0x12, 0x12, 'L'}, {0x13, 0x13, '8'}, {0x14, 0x15, 'x'}, {0x16, 0x16, 'L'},
    {0x17, 0x17, '8'}, {0x28, 0x29, 'x'}, {0x2a, 0x2a, 'P'}, {0x2b, 0x2b, 'x'}, {0x2c, 0x2d, 'P'},
    {0x2e, 0x2f, 'P'}, {0x40, 0x4f, 'v'}, {0x51, 0x53, 's'}, {0x54, 0x57, 'x'}, {0x58, 0x59, 's'},
    {0x5a, 0x5a, 'f'}, {0x5b, 0x5b, 'x'}, {0x5c, 0x5f, 's'}, {0x60, 0x62, 'U'}, {0x63, 0x6d, 'm'},
    {0x6e, 0x6e, 'y'}, {0x6f, 0x76, 'm'}, {0x78, 0x7b, 'C'}, {0x7c, 0x7d, 'x'}, {0x7e, 0x7e, 'P'},
    {0x7f, 0x7f, 'm'}, {0x90, 0x91, 'k'}, {0x92, 0x9f, '1'}, {0xa3, 0xa5, 'v'}, {0xab, 0xad, 'v'},
    {0xae, 0xae, 'I'}, {0xaf, 0xaf, 'v'}, {0xb0, 0xb0, '1'}, {0xb1, 0xb1, 'v'}, {0xb3, 0xb3, 'v'},
    {0xb6, 0xb6, '1'}, {0xb7, 0xb7, '2'}, {0xb8, 0xb8, 'v'}, {0xba, 0xbd, 'v'}, {0xbe, 0xbe, '1'},
    {0xbf, 0xbf, '2'}, {0xc0, 0xc0, '1'}, {0xc1, 0xc1, 'v'}, {0xc2, 0xc2, 's'}, {0xc3, 0xc3, 'y'},
    {0xc4, 0xc4, '2'}, {0xc6, 0xc6, 'x'}, {0xc7, 0xc7, 'I'}, {0xd0, 0xd0, 'x'}, {0xd1, 0xd3, 'c'},
    {0xd4, 0xd5, 'm'}, {0xd6, 0xd6, '8'}, {0xd8, 0xe0, 'm'}, {0xe1, 0xe2, 'c'}, {0xe3, 0xe5, 'm'},
    {0xe6, 0xe6, 'P'}, {0xe7, 0xef, 'm'}, {0xf0, 0xf0, 'x'}, {0xf1, 0xf3, 'c'}, {0xf4, 0xf6, 'm'},
    {0xf8, 0xfe, 'm'},
};
constexpr Row k38[] = {
    {0x00, 0x0f, 'm'}, {0x10, 0x15, 'N'}, {0x16, 0x17, 'x'}, {0x18, 0x18, '4'}, {0x19, 0x19, '8'},
    {0x1a, 0x1a, 'o'}, {0x1b, 0x1b, 'w'}, {0x1c, 0x1f, 'm'}, {0x20, 0x25, 'N'}, {0x26, 0x2c, 'x'},
    {0x2d, 0x2d, 'E'}, {0x2e, 0x2f, 'x'}, {0x30, 0x35, 'N'}, {0x36, 0x40, 'x'}, {0x41, 0x41, 'o'},
    {0x42, 0x42, 'x'}, {0x43, 0x43, 'y'}, {0x44, 0x4c, 'x'}, {0x4d, 0x4d, 'y'}, {0x4e, 0x4e, 'x'},
    {0x4f, 0x4f, 'y'}, {0x50, 0x55, 'x'}, {0x58, 0x58, '4'}, {0x59, 0x59, '8'}, {0x5a, 0x5a, 'o'},
    {0x5b, 0x5b, 'w'}, {0x62, 0x77, 'x'}, {0x78, 0x78, '1'}, {0x79, 0x79, '2'}, {0x7d, 0x8f, 'x'},
    {0x90, 0x93, 'y'}, {0x96, 0x98, 'x'}, {0x99, 0x99, 'y'}, {0x9a, 0x9a, 'x'}, {0x9b, 0x9b, 'y'},
    {0x9c, 0x9c, 'x'}, {0x9d, 0x9d, 'y'}, {0x9e, 0x9e, 'x'}, {0x9f, 0xa3, 'y'}, {0xa6, 0xa8, 'x'},
    {0xa9, 0xa9, 'y'}, {0xaa, 0xaa, 'x'}, {0xab, 0xab, 'y'}, {0xac, 0xac, 'x'}, {0xad, 0xad, 'y'},
    {0xae, 0xae, 'x'}, {0xaf, 0xaf, 'y'}, {0xb4, 0xb8, 'x'}, {0xb9, 0xb9, 'y'}, {0xba, 0xba, 'x'},
    {0xbb, 0xbb, 'y'}, {0xbc, 0xbc, 'x'}, {0xbd, 0xbd, 'y'}, {0xbe, 0xbe, 'x'}, {0xbf, 0xbf, 'y'},
    {0xc4, 0xca, 'x'}, {0xcb, 0xcb, 'E'}, {0xcc, 0xcc, 'x'}, {0xcd, 0xcd, 'E'}, {0xce, 0xdf, 'x'},
    {0xf0, 0xf1, 'R'}, {0xf2, 0xf7, 'y'},
};
constexpr Row k3a[] = {
    {0x00, 0x09, 'x'}, {0x0a, 0x0a, '4'}, {0x0b, 0x0b, '8'}, {0x0c, 0x0e, 'x'}, {0x0f, 0x0f, 'm'},
    {0x14, 0x14, '1'}, {0x15, 0x15, '2'}, {0x16, 0x16, 'y'}, {0x17, 0x17, '4'}, {0x18, 0x19, 'o'},
    {0x1a, 0x1b, 'w'}, {0x1d, 0x1d, 'h'}, {0x1e, 0x1f, 'x'}, {0x20, 0x20, '1'}, {0x21, 0x21, '4'},
    {0x22, 0x22, 'y'}, {0x23, 0x26, 'x'}, {0x27, 0x27, 'y'}, {0x38, 0x39, 'o'}, {0x3a, 0x3b, 'w'},
    {0x3e, 0x40, 'x'}, {0x41, 0x41, 'o'}, {0x42, 0x50, 'x'}, {0x51, 0x51, 'y'}, {0x54, 0x54, 'x'},
    {0x55, 0x55, 'y'}, {0x56, 0x56, 'x'}, {0x57, 0x57, 'y'}, {0x60, 0x63, 'o'}, {0x66, 0x66, 'x'},
    {0x67, 0x67, 'y'}, {0x68, 0x7f, 'A'}, {0xcc, 0xcf, 'x'}, {0xdf, 0xdf, 'o'}, {0xf0, 0xf0, 'y'},
};

template <size_t n>
char Find(const Row (&rows)[n], uint8_t code) {
  for (const Row& row : rows) {
    if (row.first <= code && code <= row.last) return row.width;
  }
  return 0;
}

uint16_t OperandSize(const Opcode& op) { return op.wide ? 8 : op.operand16 ? 2 : 4; }

uint16_t Chosen(const Opcode& op, uint16_t none, uint16_t p66, uint16_t f3, uint16_t f2) {
  const uint16_t by_prefix[] = {none, p66, f3, f2};
  return by_prefix[op.prefix];
}

// x87, d8 to df: single, double, extended, integers, environments.
uint16_t Float(const Opcode& op) {
  static constexpr uint8_t kWidths[8][8] = {{4, 4, 4, 4, 4, 4, 4, 4}, {4, 0, 4, 4, 28, 2, 28, 2},
                                            {4, 4, 4, 4, 4, 4, 4, 4}, {4, 4, 4, 4, 0, 10, 0, 10},
                                            {8, 8, 8, 8, 8, 8, 8, 8}, {8, 8, 8, 8, 108, 0, 108, 2},
                                            {2, 2, 2, 2, 2, 2, 2, 2}, {2, 2, 2, 2, 10, 8, 10, 8}};
  return kWidths[op.code - 0xd8][op.modrm >> 3 & 7];
}

uint16_t Group(const Opcode& op) {
  const int number = op.modrm >> 3 & 7;
  if (op.code == 0xff) return number < 2 ? OperandSize(op) : number == 3 || number == 5 ? 0 : 8;
  if (op.code == 0xc7) return number == 1 ? (op.wide ? 16 : 8) : 0;
  return number < 2 ? 512 : number < 4 ? 4 : 0;  // 0f ae: fxsave, fxrstor, ldmxcsr, stmxcsr
}

uint16_t Prefixed(const Opcode& op) {
  const uint16_t x = op.length;
  const uint16_t y = op.wide ? 8 : 4;
  switch (op.code) {
    case 0x2a:
      return Chosen(op, 8, 8, y, y);
    case 0x2c:
    case 0x2d:
      return Chosen(op, 8, 16, 4, 8);
    case 0x2e:
    case 0x2f:
      return Chosen(op, 4, 8, 4, 8);
    case 0x7e:
      return Chosen(op, y, y, 8, y);
    default:  // e6
      return Chosen(op, x, x, op.evex && op.wide ? x : x / 2, x);
  }
}

// 0f 12 and 16: halves of a vector, or its doubled elements.
uint16_t Halves(const Opcode& op) {
  const uint16_t doubled = op.length == 16 ? 8 : op.length;
  return Chosen(op, 8, 8, op.length, op.code == 0x12 ? doubled : 0);
}

// 0f 78 to 7b, of AVX-512: conversions from and to unsigned and 64-bit integers.
uint16_t Unsigned(const Opcode& op) {
  const uint16_t x = op.length;
  const uint16_t half = op.wide ? x : x / 2;
  const uint16_t y = op.wide ? 8 : 4;
  if (op.code < 0x7a) return Chosen(op, x, half, 4, 8);
  return op.code == 0x7a ? Chosen(op, x, half, half, x) : Chosen(op, x, half, y, y);
}

// Widening loads and narrowing stores: 0f 38 10 to 15, 20 to 25, 30 to 35.
uint16_t Narrow(const Opcode& op) {
  static constexpr uint8_t kFractions[] = {2, 4, 8, 2, 4, 2};
  const bool converts = op.code >= 0x20 || op.prefix == 2 || op.code == 0x13;
  return converts ? op.length / kFractions[op.code & 0xf] : op.length;
}

uint16_t Opmask(const Opcode& op) {
  if (!op.vector) return 1;  // set on condition
  return op.wide ? Chosen(op, 8, 4, 0, 0) : Chosen(op, 2, 1, 0, 0);
}

// 0f 3a 68 to 7f: AMD's four-operand arithmetic, scalar in the last two of four; AVX-512's shifts.
uint16_t FourOperands(const Opcode& op) {
  if (op.evex || (op.code & 2) == 0) return op.length;
  return (op.code & 1) != 0 ? 8 : 4;
}

uint16_t WidthOfKind(char kind, const Opcode& op) {
  const uint16_t x = op.length;
  const bool mmx = !op.vector && op.prefix == 0;
  if (kind == 'o' || kind == 'w') return kind == 'o' ? 16 : 32;
  switch (kind) {
    case 'v':
      return OperandSize(op);
    case 'y':
      return op.wide ? 8 : 4;
    case 'E':  // of AVX-512 one element; a vector elsewhere
      return op.evex ? (op.wide ? 8 : 4) : x;
    case 'x':
      return x;
    case 'h':
      return x / 2;
    case 'm':
      return mmx ? 8 : x;
    case 'U':
      return mmx ? 4 : x;
    case 'c':
      return mmx ? 8 : 16;
    case 's':
      return Chosen(op, x, x, 4, 8);
    case 'f':
      return Chosen(op, x / 2, x, 4, 8);
    case 'k':
      return Opmask(op);
    case 'R':
      return op.prefix == 3 && op.code == 0xf0 ? 1 : OperandSize(op);
    case 'I':
    case 'K':
      return Group(op);
    case 'J':
      return Float(op);
    case 'L':
      return Halves(op);
    case 'P':
      return Prefixed(op);
    case 'C':
      return Unsigned(op);
    case 'N':
      return Narrow(op);
    case 'A':
      return FourOperands(op);
    default:
      return kind >= '1' && kind <= '8' ? static_cast<uint16_t>(kind - '0') : 0;
  }
}

// Half precision: a vector, or with f3 one element.
uint16_t HalfPrecision(const Opcode& op) {
  const uint8_t low = op.code & 0xf;
  if (op.map == 5 && op.code >= 0x2a && (low == 0xe || low == 0xf) && op.code != 0x5e && op.code != 0x5f) return 2;
  const bool scalar = op.map == 5 ? op.prefix == 2 : op.code >= 0x96 && (op.code & 1) != 0 && low >= 9;
  return scalar ? 2 : op.length;
}

}  // namespace

uint16_t WidthOf(const Opcode& op) {
  switch (op.map) {
    case 0:
      if (op.code < 0x40) return (op.code & 7) >= 4 ? 0 : (op.code & 1) != 0 ? OperandSize(op) : 1;
      return WidthOfKind(Find(kOneByte, op.code), op);
    case 1:
      return WidthOfKind(Find(kTwoBytes, op.code), op);
    case 2:
      return WidthOfKind(Find(k38, op.code), op);
    case 3:
      return WidthOfKind(Find(k3a, op.code), op);
    default:
      return HalfPrecision(op);
  }
}

}  // namespace emu::machine
