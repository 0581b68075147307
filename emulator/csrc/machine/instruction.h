// SPDX-License-Identifier: Apache-2.0
// Just enough decoding of x86-64 machine code to know the width of an instruction's memory operand: the integer
// instructions, x87, SSE, AVX, AVX2 and AVX-512. The tables follow the public opcode maps of the architecture.
#pragma once

#include <cstdint>

namespace emu::machine {

// Which elements of the operand are touched at all.
enum class Masking : uint8_t {
  kNone,
  kOpmask,      // AVX-512: bit i of a mask register for element i
  kCompressed,  // AVX-512: as many elements as the mask register has bits
  kVector,      // AVX: the sign of element i of a vector register
  kElements,    // gathers and scatters: each element by itself, at an address of its own
};

struct Instruction {
  uint16_t width = 0;              // bytes of the memory operand; 0: it has none, or it is unknown
  const uint8_t* modrm = nullptr;  // null: the address is implied (string instructions, say)
  bool extend_index = false;       // SIB's index and the base are among the upper eight registers
  bool extend_base = false;
  bool scaled = false;  // an 8-bit displacement counts in operand widths (AVX-512)
  bool is_string = false;
  Masking masking = Masking::kNone;
  uint8_t mask_register = 0;
  uint8_t element = 0;  // bytes, of a masked operand
};

Instruction Decode(const uint8_t* code);

// The table's view of one opcode.
struct Opcode {
  uint8_t map = 0;  // 0: one byte, 1: 0f, 2: 0f 38, 3: 0f 3a, 5 and 6: half precision
  uint8_t code = 0;
  uint8_t prefix = 0;  // 0, 1 (66), 2 (f3), 3 (f2): the mandatory one
  uint8_t modrm = 0;
  bool operand16 = false;
  bool wide = false;    // REX.W and the like
  bool vector = false;  // VEX or EVEX
  bool evex = false;
  uint16_t length = 16;  // of a vector
};

uint16_t WidthOf(const Opcode& opcode);

}  // namespace emu::machine
