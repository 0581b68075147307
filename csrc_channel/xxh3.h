// SPDX-License-Identifier: Apache-2.0
// XXH3 with 64 bits, seed 0 and the default secret, of 9 bytes or more, after its public specification
// (doc/xxhash_spec.md of the xxHash project). The package xxhash computes the same in Python; tests hold the two
// together.
#pragma once

#include <cstdint>

namespace ascend_ext {

uint64_t Xxh3(const uint8_t* data, uint64_t bytes);

}  // namespace ascend_ext
