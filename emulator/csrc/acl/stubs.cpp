// SPDX-License-Identifier: Apache-2.0
// Functions that torch_npu needs at load and that are not emulated. Their prototypes do not matter.
#include "acl/types.h"
#include "core/failure.h"

#define EMU_STUB(name) \
  EMU_API void name() { emu::NotEmulated(#name); }

EMU_STUB(MsprofGetHashId)
EMU_STUB(MsprofRegisterCallback)
EMU_STUB(MsprofReportAdditionalInfo)
EMU_STUB(MsprofReportApi)
EMU_STUB(MsprofReportCompactInfo)
EMU_STUB(MsprofSysCycleTime)
EMU_STUB(aclrtBinaryGetFunction)
EMU_STUB(aclrtBinaryLoadFromData)
EMU_STUB(aclrtGetFunctionAddr)
EMU_STUB(aclrtMemExportToShareableHandle)
EMU_STUB(aclrtMemImportFromShareableHandle)
EMU_STUB(aclrtMemSetPidToShareableHandle)
EMU_STUB(rtDevBinaryRegister)
EMU_STUB(rtFunctionRegister)
EMU_STUB(rtGetC2cCtrlAddr)
EMU_STUB(rtKernelLaunch)
