// SPDX-License-Identifier: Apache-2.0
#include "races/trace_gate.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "memory/pages.h"

namespace emu::races {
namespace {

#if defined(__x86_64__)
constexpr uint64_t kJumpSlot = R_X86_64_JUMP_SLOT;
#else
constexpr uint64_t kJumpSlot = R_AARCH64_JUMP_SLOT;
#endif

thread_local bool skip_next = false;

// The public C API of Python (docs.python.org, "Python/C API").
int (*is_initialized)() = nullptr;
int (*take_lock)() = nullptr;
void (*release_lock)(int) = nullptr;
void* (*pending_error)() = nullptr;

int MayCallPython() {
  if (std::exchange(skip_next, false) || is_initialized() == 0) return 0;
  const int state = take_lock();  // the hook would do that next; torch frees tensors without the lock
  const int may = pending_error() == nullptr ? 1 : 0;
  release_lock(state);
  return may;
}

template <typename Function>
bool Find(Function*& function, const char* name) {
  function = reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
  return function != nullptr;
}

// Where the library keeps the address of the imported function; null when it imports none of this name.
void** ImportOf(const link_map& library, const char* name) {
  const ElfW(Rela)* entries = nullptr;
  const ElfW(Sym)* symbols = nullptr;
  const char* names = nullptr;
  size_t bytes = 0;
  for (const ElfW(Dyn)* at = library.l_ld; at->d_tag != DT_NULL; ++at) {
    if (at->d_tag == DT_JMPREL) entries = reinterpret_cast<const ElfW(Rela)*>(at->d_un.d_ptr);
    if (at->d_tag == DT_SYMTAB) symbols = reinterpret_cast<const ElfW(Sym)*>(at->d_un.d_ptr);
    if (at->d_tag == DT_STRTAB) names = reinterpret_cast<const char*>(at->d_un.d_ptr);
    if (at->d_tag == DT_PLTRELSZ) bytes = at->d_un.d_val;
  }
  for (size_t i = 0; i < bytes / sizeof *entries; ++i) {
    const bool slot = ELF64_R_TYPE(entries[i].r_info) == kJumpSlot;
    if (slot && std::strcmp(names + symbols[ELF64_R_SYM(entries[i].r_info)].st_name, name) == 0) {
      return reinterpret_cast<void**>(library.l_addr + entries[i].r_offset);
    }
  }
  return nullptr;
}

}  // namespace

bool GateTrace() {
  void* handle = dlopen("libtorch_npu.so", RTLD_NOW | RTLD_NOLOAD);
  link_map* library = nullptr;
  if (handle == nullptr || dlinfo(handle, RTLD_DI_LINKMAP, &library) != 0) return false;
  void** import = ImportOf(*library, "Py_IsInitialized");
  const bool found = import != nullptr && Find(is_initialized, "Py_IsInitialized") &&
                     Find(take_lock, "PyGILState_Ensure") && Find(release_lock, "PyGILState_Release") &&
                     Find(pending_error, "PyErr_Occurred");
  if (!found) return false;
  void* begin = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(import) & ~(PageSize() - 1));
  if (mprotect(begin, PageSize(), PROT_READ | PROT_WRITE) != 0) return false;
  *import = reinterpret_cast<void*>(MayCallPython);
  return true;  // the page stays writable: what else lies on it may be written, too
}

void SkipNextHook() { skip_next = true; }

}  // namespace emu::races
