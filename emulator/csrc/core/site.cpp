// SPDX-License-Identifier: Apache-2.0
#include "core/site.h"

#include <dlfcn.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

namespace emu {
namespace {

constexpr size_t kMostLines = 6;
constexpr size_t kMostFrames = 64;  // looked through for them

// The public C API of Python 3.10 to 3.13 (docs.python.org, "Python/C API"); objects are opaque here.
struct Python {
  int (*IsInitialized)() = nullptr;
  int (*IsFinalizing)() = nullptr;
  int (*Check)() = nullptr;
  void* (*ThisThread)() = nullptr;
  int (*Ensure)() = nullptr;
  void (*Release)(int) = nullptr;
  void* (*Frame)(void*) = nullptr;
  void* (*Back)(void*) = nullptr;
  void* (*Code)(void*) = nullptr;
  int (*Line)(void*) = nullptr;
  int (*Instruction)(void*) = nullptr;  // since 3.11
  void* (*Attribute)(void*, const char*) = nullptr;
  void* (*Item)(void*, const char*) = nullptr;
  const char* (*Text)(void*) = nullptr;
  void (*ClearError)() = nullptr;
  void (*TakeError)(void**, void**, void**) = nullptr;
  void (*RestoreError)(void*, void*, void*) = nullptr;
  void (*Drop)(void*) = nullptr;
  bool usable = false;
};

template <typename Function>
bool Find(Function*& function, const char* name) {
  function = reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
  return function != nullptr;
}

Python FindPython() {
  Python python;
  const char* setting = std::getenv("EMULATOR_SITES");
  if (setting != nullptr && std::strcmp(setting, "0") == 0) return python;
  if (!Find(python.IsFinalizing, "Py_IsFinalizing")) Find(python.IsFinalizing, "_Py_IsFinalizing");
  Find(python.Instruction, "PyFrame_GetLasti");
  python.usable = python.IsFinalizing != nullptr && Find(python.IsInitialized, "Py_IsInitialized") &&
                  Find(python.Check, "PyGILState_Check") &&
                  Find(python.ThisThread, "PyGILState_GetThisThreadState") &&
                  Find(python.Ensure, "PyGILState_Ensure") && Find(python.Release, "PyGILState_Release") &&
                  Find(python.Frame, "PyThreadState_GetFrame") && Find(python.Back, "PyFrame_GetBack") &&
                  Find(python.Code, "PyFrame_GetCode") && Find(python.Line, "PyFrame_GetLineNumber") &&
                  Find(python.Attribute, "PyObject_GetAttrString") && Find(python.Item, "PyDict_GetItemString") &&
                  Find(python.Text, "PyUnicode_AsUTF8") && Find(python.ClearError, "PyErr_Clear") &&
                  Find(python.TakeError, "PyErr_Fetch") && Find(python.RestoreError, "PyErr_Restore") &&
                  Find(python.Drop, "Py_DecRef");
  return python;
}

const Python& GetPython() {
  static const Python python = FindPython();
  return python;
}

struct Code {
  std::string file;
  std::string function;
  bool program = false;  // not a file of torch, torch_npu, the emulator or what starts a program
};

struct Line {
  const Code* code = nullptr;
  int line = 0;
};

// Both under the GIL. Code objects are kept alive, so that an address stands for one of them.
std::unordered_map<void*, Code>& Codes() {
  static auto* codes = new std::unordered_map<void*, Code>;
  return *codes;
}
std::unordered_map<std::string, SiteId>& KnownStacks() {
  static auto* stacks = new std::unordered_map<std::string, SiteId>;  // by code objects and instructions
  return *stacks;
}

struct Sites {
  std::mutex mutex;  // nothing of Python is called under it
  std::vector<std::string> texts;
  std::unordered_map<std::string, SiteId> ids;
};
Sites& AllSites() {
  static auto* sites = new Sites;
  return *sites;
}

std::string TextOf(const Python& python, void* object, const char* attribute) {
  void* value = python.Attribute(object, attribute);
  const char* text = value == nullptr ? nullptr : python.Text(value);
  std::string result = text == nullptr ? "?" : text;
  if (text == nullptr) python.ClearError();
  if (value != nullptr) python.Drop(value);
  return result;
}

bool IsProgram(const std::string& module) {
  const std::string package = module.substr(0, module.find('.'));
  for (const char* name : {"torch", "torch_npu", "emulator", "pytest", "_pytest", "pluggy", "contextlib",
                           "threading", "runpy", "importlib", "multiprocessing", "typing_extensions"}) {
    if (package == name) return false;
  }
  return true;
}

std::string ShortPath(const std::string& path) {
  const std::string marker = "/site-packages/";
  const size_t found = path.rfind(marker);
  if (found != std::string::npos) return path.substr(found + marker.size());
  char folder[PATH_MAX];
  if (getcwd(folder, sizeof(folder)) == nullptr) return path;
  const std::string prefix = std::string(folder) + "/";
  return path.compare(0, prefix.size(), prefix) == 0 ? path.substr(prefix.size()) : path;
}

// Takes over the reference to `code`.
const Code& CodeOf(const Python& python, void* frame, void* code) {
  const auto known = Codes().find(code);
  if (known != Codes().end()) {
    python.Drop(code);
    return known->second;
  }
  Code made;
  made.file = ShortPath(TextOf(python, code, "co_filename"));
  made.function = TextOf(python, code, "co_name");
  void* globals = python.Attribute(frame, "f_globals");
  void* name = globals == nullptr ? nullptr : python.Item(globals, "__name__");
  const char* module = name == nullptr ? nullptr : python.Text(name);
  made.program = module == nullptr || IsProgram(module);
  if (globals != nullptr) python.Drop(globals);
  python.ClearError();
  return Codes().emplace(code, std::move(made)).first->second;
}

std::string Describe(const std::vector<Line>& lines) {
  std::string text;
  for (const Line& line : lines) {
    if (!text.empty()) text += " < ";
    text += line.code->file + ":" + std::to_string(line.line) + " in " + line.code->function;
  }
  return text;
}

SiteId Intern(const std::string& text) {
  Sites& sites = AllSites();
  std::lock_guard<std::mutex> lock(sites.mutex);
  const auto known = sites.ids.find(text);
  if (known != sites.ids.end()) return known->second;
  sites.texts.push_back(text);
  const auto site = static_cast<SiteId>(sites.texts.size());
  sites.ids.emplace(text, site);
  return site;
}

template <typename Value>
void Append(std::string* key, const Value& value) {
  key->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// The frames a report shows: the program's own when there are any.
struct Stack {
  std::vector<void*> frames;  // held
  std::vector<const Code*> codes;
  std::string key;
};

Stack Collect(const Python& python, void* frame) {
  Stack program;
  Stack library;
  for (size_t i = 0; frame != nullptr && i < kMostFrames && program.frames.size() < kMostLines; ++i) {
    const Code& code = CodeOf(python, frame, python.Code(frame));
    Stack& stack = code.program ? program : library;
    void* back = python.Back(frame);
    if (stack.frames.size() < kMostLines) {
      stack.frames.push_back(frame);
      stack.codes.push_back(&code);
      Append(&stack.key, &code);
      Append(&stack.key, python.Instruction != nullptr ? python.Instruction(frame) : python.Line(frame));
    } else {
      python.Drop(frame);
    }
    frame = back;
  }
  if (frame != nullptr) python.Drop(frame);
  Stack& unused = program.frames.empty() ? program : library;
  for (void* held : unused.frames) python.Drop(held);
  return std::move(program.frames.empty() ? library : program);
}

SiteId SiteOfFrame(const Python& python, void* frame) {
  const Stack stack = Collect(python, frame);
  auto known = KnownStacks().find(stack.key);
  if (known == KnownStacks().end()) {
    std::vector<Line> lines;
    for (size_t i = 0; i < stack.frames.size(); ++i) {
      lines.push_back({stack.codes[i], python.Line(stack.frames[i])});
    }
    known = KnownStacks().emplace(stack.key, Intern(Describe(lines))).first;
  }
  const SiteId site = known->second;
  for (void* held : stack.frames) python.Drop(held);
  return site;
}

// An exception that is on its way stays: memory is freed while it passes.
SiteId SiteOfThread(const Python& python, void* thread) {
  void* frame = python.Frame(thread);
  if (frame == nullptr) return 0;
  void* error[3] = {};
  python.TakeError(&error[0], &error[1], &error[2]);
  const SiteId site = SiteOfFrame(python, frame);
  python.RestoreError(error[0], error[1], error[2]);
  return site;
}

}  // namespace

SiteId CurrentSite() {
  const Python& python = GetPython();
  if (!python.usable || python.IsInitialized() == 0 || python.IsFinalizing() != 0) return 0;
  void* thread = python.ThisThread();
  if (thread == nullptr) return 0;
  if (python.Check() != 0) return SiteOfThread(python, thread);
  const int state = python.Ensure();
  const SiteId site = SiteOfThread(python, thread);
  python.Release(state);
  return site;
}

std::string DescribeSite(SiteId site) {
  if (site == 0) return "an unknown line (a thread without Python, such as torch_npu's queue)";
  Sites& sites = AllSites();
  std::lock_guard<std::mutex> lock(sites.mutex);
  return sites.texts.at(site - 1);
}

}  // namespace emu
