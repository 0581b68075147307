// SPDX-License-Identifier: Apache-2.0
// Stands in for CANN's header of this name where kernels are built for the CPU: first on the include path, it lets
// the unchanged kernel sources run there, one thread a core, and stops at the first broken rule of AscendC on
// dav-2201 (Atlas A2, A3). Written from the public AscendC API documentation (CANN 8.5 to 9.1) alone; it covers
// what our kernels use, and what it lacks does not compile.
#pragma once

#include "ascendc/repeat.h"
