// SPDX-License-Identifier: Apache-2.0
// Test of the decoder alone: reads lines of machine code in hexadecimal and the width of its memory operand, as a
// disassembler sees it, and says where the decoder sees another.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>

#include "machine/instruction.h"

int main() {
  size_t num_checked = 0;
  size_t num_wrong = 0;
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream fields(line);
    std::string hex;
    int width = 0;
    if (!(fields >> hex >> width)) continue;
    uint8_t code[32] = {};
    for (size_t i = 0; i + 1 < hex.size() && i / 2 < sizeof(code); i += 2) {
      code[i / 2] = static_cast<uint8_t>(std::strtoul(hex.substr(i, 2).c_str(), nullptr, 16));
    }
    const int found = emu::machine::Decode(code).width;
    ++num_checked;
    if (found != width && ++num_wrong <= 20) std::printf("%d instead of %s\n", found, line.c_str());
  }
  std::printf("%zu instructions, %zu wrong\n", num_checked, num_wrong);
  return num_checked > 0 && num_wrong == 0 ? 0 : 1;
}
