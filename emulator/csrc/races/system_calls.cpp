// SPDX-License-Identifier: Apache-2.0
#include "races/system_calls.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "memory/memory.h"
#include "memory/pages.h"
#include "races/fault.h"
#include "races/host_guard.h"

namespace emu::races {
namespace {

#if defined(__x86_64__)
constexpr uint64_t kJumpSlot = R_X86_64_JUMP_SLOT;
constexpr uint64_t kGlobalData = R_X86_64_GLOB_DAT;
#else
constexpr uint64_t kJumpSlot = R_AARCH64_JUMP_SLOT;
constexpr uint64_t kGlobalData = R_AARCH64_GLOB_DAT;
#endif

// Whether a call that failed was refused for the memory it was given, which may now be looked at.
bool Refused(ssize_t result, const void* buffer) {
  return result < 0 && errno == EFAULT && MayBeGuarded(reinterpret_cast<uintptr_t>(buffer));
}

void* Open(const void* buffer, size_t bytes, bool host_writes) {
  HostTouches(RangeOf(buffer, bytes), host_writes);
  return EmulatorView(const_cast<void*>(buffer));
}

// The call again, on our view of each of its buffers.
template <typename Call>
ssize_t AgainWithParts(const iovec* parts, size_t count, bool host_writes, Call call) {
  std::vector<iovec> opened(parts, parts + count);
  for (iovec& part : opened) part.iov_base = Open(part.iov_base, part.iov_len, host_writes);
  return call(opened.data());
}

bool AnyRefused(ssize_t result, const iovec* parts, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (Refused(result, parts[i].iov_base)) return true;
  }
  return false;
}

ssize_t Read(int file, void* buffer, size_t bytes) {
  const ssize_t done = read(file, buffer, bytes);
  return Refused(done, buffer) ? read(file, Open(buffer, bytes, true), bytes) : done;
}

ssize_t Write(int file, const void* buffer, size_t bytes) {
  const ssize_t done = write(file, buffer, bytes);
  return Refused(done, buffer) ? write(file, Open(buffer, bytes, false), bytes) : done;
}

ssize_t ReadAt(int file, void* buffer, size_t bytes, off_t at) {
  const ssize_t done = pread(file, buffer, bytes, at);
  return Refused(done, buffer) ? pread(file, Open(buffer, bytes, true), bytes, at) : done;
}

ssize_t WriteAt(int file, const void* buffer, size_t bytes, off_t at) {
  const ssize_t done = pwrite(file, buffer, bytes, at);
  return Refused(done, buffer) ? pwrite(file, Open(buffer, bytes, false), bytes, at) : done;
}

ssize_t ReadParts(int file, const iovec* parts, int count) {
  const ssize_t done = readv(file, parts, count);
  const auto again = [&](iovec* opened) { return readv(file, opened, count); };
  const auto size = static_cast<size_t>(count);
  return AnyRefused(done, parts, size) ? AgainWithParts(parts, size, true, again) : done;
}

ssize_t WriteParts(int file, const iovec* parts, int count) {
  const ssize_t done = writev(file, parts, count);
  const auto again = [&](iovec* opened) { return writev(file, opened, count); };
  const auto size = static_cast<size_t>(count);
  return AnyRefused(done, parts, size) ? AgainWithParts(parts, size, false, again) : done;
}

ssize_t Send(int socket, const void* buffer, size_t bytes, int flags) {
  const ssize_t done = send(socket, buffer, bytes, flags);
  return Refused(done, buffer) ? send(socket, Open(buffer, bytes, false), bytes, flags) : done;
}

ssize_t Receive(int socket, void* buffer, size_t bytes, int flags) {
  const ssize_t done = recv(socket, buffer, bytes, flags);
  return Refused(done, buffer) ? recv(socket, Open(buffer, bytes, true), bytes, flags) : done;
}

ssize_t SendMessage(int socket, const msghdr* message, int flags) {
  const ssize_t done = sendmsg(socket, message, flags);
  if (!AnyRefused(done, message->msg_iov, message->msg_iovlen)) return done;
  return AgainWithParts(message->msg_iov, message->msg_iovlen, false, [&](iovec* opened) {
    msghdr other = *message;
    other.msg_iov = opened;
    return sendmsg(socket, &other, flags);
  });
}

struct Watched {
  const char* name;
  void* ours;
};

template <typename Function>
constexpr void* Address(Function function) {
  return reinterpret_cast<void*>(function);
}

const Watched kWatched[] = {
    {"read", Address(Read)},       {"write", Address(Write)},         {"pread", Address(ReadAt)},
    {"pread64", Address(ReadAt)},  {"pwrite", Address(WriteAt)},      {"pwrite64", Address(WriteAt)},
    {"readv", Address(ReadParts)}, {"writev", Address(WriteParts)},   {"send", Address(Send)},
    {"recv", Address(Receive)},    {"sendmsg", Address(SendMessage)},
};

void Lead(void** import, void* ours) {
  if (*import == ours) return;
  void* page = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(import) & ~(PageSize() - 1));
  if (mprotect(page, PageSize(), PROT_READ | PROT_WRITE) == 0) *import = ours;
}

struct Imports {
  const ElfW(Rela) * entries = nullptr;
  size_t bytes = 0;
};

void LeadAll(const dl_phdr_info& library, const Imports& imports, const ElfW(Sym) * symbols, const char* names) {
  for (size_t i = 0; imports.entries != nullptr && i < imports.bytes / sizeof *imports.entries; ++i) {
    const ElfW(Rela) & entry = imports.entries[i];
    const uint64_t type = ELF64_R_TYPE(entry.r_info);
    if (type != kJumpSlot && type != kGlobalData) continue;
    const char* name = names + symbols[ELF64_R_SYM(entry.r_info)].st_name;
    for (const Watched& watched : kWatched) {
      if (std::strcmp(name, watched.name) != 0) continue;
      Lead(reinterpret_cast<void**>(library.dlpi_addr + entry.r_offset), watched.ours);
    }
  }
}

// The C library, the loader and this library call the kernel themselves.
bool Leave(const char* name) {
  for (const char* kept : {"libc.so", "ld-linux", "libpthread", "libascendcl.so", "linux-vdso"}) {
    if (std::strstr(name, kept) != nullptr) return true;
  }
  return false;
}

int LeadLibrary(dl_phdr_info* library, size_t, void*) {
  if (Leave(library->dlpi_name)) return 0;
  const ElfW(Dyn)* dynamic = nullptr;
  for (int i = 0; i < library->dlpi_phnum; ++i) {
    if (library->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
    dynamic = reinterpret_cast<const ElfW(Dyn)*>(library->dlpi_addr + library->dlpi_phdr[i].p_vaddr);
  }
  Imports calls;
  Imports data;
  const ElfW(Sym)* symbols = nullptr;
  const char* names = nullptr;
  for (; dynamic != nullptr && dynamic->d_tag != DT_NULL; ++dynamic) {
    if (dynamic->d_tag == DT_JMPREL) calls.entries = reinterpret_cast<const ElfW(Rela)*>(dynamic->d_un.d_ptr);
    if (dynamic->d_tag == DT_PLTRELSZ) calls.bytes = dynamic->d_un.d_val;
    if (dynamic->d_tag == DT_RELA) data.entries = reinterpret_cast<const ElfW(Rela)*>(dynamic->d_un.d_ptr);
    if (dynamic->d_tag == DT_RELASZ) data.bytes = dynamic->d_un.d_val;
    if (dynamic->d_tag == DT_SYMTAB) symbols = reinterpret_cast<const ElfW(Sym)*>(dynamic->d_un.d_ptr);
    if (dynamic->d_tag == DT_STRTAB) names = reinterpret_cast<const char*>(dynamic->d_un.d_ptr);
  }
  if (symbols == nullptr || names == nullptr) return 0;
  LeadAll(*library, calls, symbols, names);
  LeadAll(*library, data, symbols, names);
  return 0;
}

int CountLoaded(dl_phdr_info* library, size_t, void* count) {
  *static_cast<unsigned long long*>(count) = library->dlpi_adds;
  return 1;  // each tells of all
}

}  // namespace

void WatchSystemCalls() {
  static std::atomic<unsigned long long> known{0};
  unsigned long long loaded = 0;
  dl_iterate_phdr(CountLoaded, &loaded);
  if (known.exchange(loaded) != loaded) dl_iterate_phdr(LeadLibrary, nullptr);
}

}  // namespace emu::races
