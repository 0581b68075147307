// SPDX-License-Identifier: Apache-2.0
// libatb.so: lets libop_plugin_atb.so load, which declares ATB's torch operators. The operators themselves are not
// emulated here; emulator/vllm_ascend/standins.py lists those that are overridden from Python.
// Names and argument types: the undefined symbols of torch_npu's libop_plugin_atb.so (nm -D).

#include <cstdint>

#include "core/failure.h"

namespace atb {

class Context;
class Operation;
struct Tensor;

namespace infer {
struct ElewiseParam;
struct GroupTopkParam;
struct LinearParam;
struct PagedAttentionParam;
struct ReshapeAndCacheParam;
struct RmsNormParam;
struct RopeParam;
struct SelfAttentionParam;
}  // namespace infer

struct Utils {
  static uint64_t GetTensorSize(const Tensor& tensor);
};

int CreateContext(Context** context);
int DestroyContext(Context* context);
int DestroyOperation(Operation* operation);
template <typename Param>
int CreateOperation(const Param& param, Operation** operation);

uint64_t Utils::GetTensorSize(const Tensor&) { emu::NotEmulated("atb::Utils::GetTensorSize"); }
int CreateContext(Context**) { emu::NotEmulated("atb::CreateContext"); }
int DestroyContext(Context*) { emu::NotEmulated("atb::DestroyContext"); }
int DestroyOperation(Operation*) { emu::NotEmulated("atb::DestroyOperation"); }
template <typename Param>
int CreateOperation(const Param&, Operation**) {
  emu::NotEmulated("atb::CreateOperation (an ATB operator without a stand-in)");
}

template int CreateOperation(const infer::ElewiseParam&, Operation**);
template int CreateOperation(const infer::GroupTopkParam&, Operation**);
template int CreateOperation(const infer::LinearParam&, Operation**);
template int CreateOperation(const infer::PagedAttentionParam&, Operation**);
template int CreateOperation(const infer::ReshapeAndCacheParam&, Operation**);
template int CreateOperation(const infer::RmsNormParam&, Operation**);
template int CreateOperation(const infer::RopeParam&, Operation**);
template int CreateOperation(const infer::SelfAttentionParam&, Operation**);

}  // namespace atb
