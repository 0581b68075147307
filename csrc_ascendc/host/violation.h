// SPDX-License-Identifier: Apache-2.0
// A broken rule of AscendC, with the line of the kernel that broke it.
#pragma once

#include <cstdio>
#include <string>

namespace ascendc_host {

// A line of a kernel. API functions take one as their last, defaulted argument (ASCENDC_HERE), so that the
// compiler fills in the caller's line and kernels need not be changed.
struct Here {
  const char* file;
  int line;
  static constexpr Here Caller(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

#define ASCENDC_HERE ::ascendc_host::Here here = ::ascendc_host::Here::Caller()

struct Violation {
  std::string rule;  // short name, stable: tests and messages refer to it
  std::string what;
  Here here;
};

[[noreturn]] inline void Fail(const char* rule, Here here, std::string what) {
  throw Violation{rule, std::move(what), here};
}

template <typename... Values>
std::string Text(const char* format, Values... values) {
  char text[512];
  std::snprintf(text, sizeof(text), format, values...);
  return text;
}

inline std::string Name(Here here) {
  std::string file = here.file == nullptr ? "?" : here.file;
  const size_t slash = file.rfind('/');
  return (slash == std::string::npos ? file : file.substr(slash + 1)) + ":" + std::to_string(here.line);
}

}  // namespace ascendc_host
