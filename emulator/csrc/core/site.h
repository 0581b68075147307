// SPDX-License-Identifier: Apache-2.0
// Where in the Python program a call was made. The Python API is looked up with dlsym, so that programs without
// an interpreter run too.
#pragma once

#include <cstdint>
#include <string>

namespace emu {

// Names one interned stack of Python lines; 0 means unknown (a thread without Python, such as torch_npu's queue).
using SiteId = uint32_t;

// The calling thread's Python lines, innermost first. May wait for the GIL: call it with no lock held.
SiteId CurrentSite();

// "file.py:12 in step < file.py:40 in main", or "torch_npu's own thread" for 0.
std::string DescribeSite(SiteId site);

}  // namespace emu
