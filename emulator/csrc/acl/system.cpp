// SPDX-License-Identifier: Apache-2.0
// Life of the runtime, errors, versions, attributes. Prototypes: torch_npu
// csrc/core/npu/interface/AclInterface.cpp, csrc/core/npu/GetCANNInfo.cpp and sys_ctrl/npu_sys_ctrl.cpp (BSD-3).
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "acl/types.h"
#include "core/device.h"
#include "core/failure.h"
#include "core/settings.h"

namespace {

// What we say we are: new enough for what torch_npu 2.13 and vllm-ascend 0.23 use, older than what is not
// emulated.
constexpr const char* kCannVersion = "8.5.0";
constexpr const char* kDriverVersion = "25.5.0";
constexpr int kDriverPackage =
    7;  // aclCANNPackageName: CANN, runtime, compiler, HCCL, toolkit, OPP, kernels, driver

constexpr int kInfNan = 0;  // aclCannAttr: floats keep infinities and NaNs

std::atomic<bool> initialized{false};

// Kept for their readers, otherwise without meaning.
struct SystemParameters {
  std::mutex mutex;
  std::map<int, int64_t> values;
};

SystemParameters& Parameters() {
  static auto* parameters = new SystemParameters;
  return *parameters;
}

}  // namespace

// torch_npu's configuration file makes device 0 the default of threads that set none. It looks for the file next
// to torch, and passes none when the two are installed apart.
EMU_API int aclInit(const char*) {
  if (initialized.exchange(true)) return emu::kRepeatInitialize;
  return emu::Guarded("aclInit", [] { emu::SetDefaultDevice(0); });
}

EMU_API int aclFinalize() {
  initialized = false;
  return emu::kSuccess;
}

EMU_API const char* aclGetRecentErrMsg() {
  thread_local std::string message;
  message = emu::TakeRecentMessage();
  return message.c_str();
}

EMU_API void aclAppLog(int, const char*, const char*, uint32_t, const char*, ...) {}

EMU_API const char* aclrtGetSocName() { return emu::GetSettings().soc.c_str(); }

// The first field of the version structure is the text.
EMU_API int aclsysGetCANNVersion(int package, char* version) {
  std::strcpy(version, package == kDriverPackage ? kDriverVersion : kCannVersion);
  return emu::kSuccess;
}

EMU_API int aclsysGetVersionStr(char*, char* version) {
  std::strcpy(version, kCannVersion);
  return emu::kSuccess;
}

EMU_API int aclGetCannAttributeList(const int** attributes, size_t* count) {
  static const int all[] = {kInfNan};
  *attributes = all;
  *count = 1;
  return emu::kSuccess;
}

EMU_API int aclGetCannAttribute(int attribute, int32_t* value) {
  *value = attribute == kInfNan ? 1 : 0;
  return emu::kSuccess;
}

// aclDeviceInfo: cube cores, vector cores, bytes of the L2 cache. Sizes of an Ascend 910B.
EMU_API int aclGetDeviceCapability(uint32_t device, int which, int64_t* value) {
  return emu::Guarded("aclGetDeviceCapability", [&] {
    emu::CheckDevice(static_cast<int>(device));
    constexpr int64_t values[] = {24, 48, 192 << 20};
    if (which < 0 || which > 2)
      throw emu::Error(emu::kInvalidParam, "unknown capability " + std::to_string(which));
    *value = values[which];
  });
}

// Modes without meaning here: overflow, timeouts of kernels, determinism (kernels are deterministic).
EMU_API int aclrtSetDeviceSatMode(int) { return emu::kSuccess; }
EMU_API int aclrtSetOpExecuteTimeOut(uint32_t) { return emu::kSuccess; }
EMU_API int aclrtSetOpWaitTimeout(uint32_t) { return emu::kSuccess; }
EMU_API int aclrtCtxSetSysParamOpt(int, int64_t) { return emu::kSuccess; }

EMU_API int aclrtSetSysParamOpt(int option, int64_t value) {
  const std::lock_guard<std::mutex> lock(Parameters().mutex);
  Parameters().values[option] = value;
  return emu::kSuccess;
}

EMU_API int aclrtGetSysParamOpt(int option, int64_t* value) {
  const std::lock_guard<std::mutex> lock(Parameters().mutex);
  *value = Parameters().values[option];
  return emu::kSuccess;
}

EMU_API int aclrtSetOpExecuteTimeOutV2(uint64_t microseconds, uint64_t* actual) {
  *actual = microseconds;
  return emu::kSuccess;
}

EMU_API int aclmdlInitDump() { return emu::kSuccess; }
EMU_API int aclmdlSetDump(const char*) { return emu::kSuccess; }
EMU_API int aclmdlFinalizeDump() { return emu::kSuccess; }
