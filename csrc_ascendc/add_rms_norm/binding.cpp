// SPDX-License-Identifier: Apache-2.0
#include "../binding.h"

#include "tiling.h"

namespace ascend_ext {
namespace {

// As the launch numbers them; -1: no such kernel.
int32_t TypeOf(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kHalf:
      return 0;
    case at::kBFloat16:
      return 1;
    case at::kFloat:
      return 2;
    default:
      return -1;
  }
}

void CheckNorm(const char* op, const at::Tensor& x_TH, const at::Tensor& residual_TH, const at::Tensor& weight_H) {
  TORCH_CHECK_VALUE(
      x_TH.dim() == 2 && residual_TH.sizes() == x_TH.sizes() && weight_H.sizes() == x_TH.sizes().slice(1), op,
      " takes x [T, H], residual [T, H] and weight [H], not shapes ", x_TH.sizes(), ", ", residual_TH.sizes(),
      " and ", weight_H.sizes());
  TORCH_CHECK_VALUE(x_TH.size(1) > 0, op, ": rows of no elements have no norm");
  TORCH_CHECK_TYPE(TypeOf(x_TH) >= 0 && residual_TH.scalar_type() == x_TH.scalar_type() &&
                       weight_H.scalar_type() == x_TH.scalar_type(),
                   op, " takes x, residual and weight all float16, bfloat16 or float32, not ", x_TH.scalar_type(),
                   ", ", residual_TH.scalar_type(), " and ", weight_H.scalar_type());
  CheckOneDevice(op, x_TH, {residual_TH, weight_H});
}

std::tuple<at::Tensor, at::Tensor> AddRmsNorm(const at::Tensor& x_TH, const at::Tensor& residual_TH,
                                              const at::Tensor& weight_H, double epsilon) {
  constexpr const char* kOp = "add_rms_norm";
  CheckNorm(kOp, x_TH, residual_TH, weight_H);
  const int64_t num_rows = x_TH.size(0), width = x_TH.size(1);
  AddRmsNormTiling tiling;
  CheckFits(kOp, TileAddRmsNorm(num_rows, width, static_cast<int64_t>(x_TH.element_size()), 0, 1, &tiling),
            c10::str("a row of ", width, " elements"));
  const at::Tensor x = x_TH.contiguous(), residual = residual_TH.contiguous(), weight = weight_H.contiguous();
  const at::Tensor y_TH = x.new_empty(x.sizes()), residual_out_TH = x.new_empty(x.sizes());
  LaunchOnCurrentStream(
      kOp, x,
      [=, type = TypeOf(x), y = y_TH.data_ptr(), sum = residual_out_TH.data_ptr(), a = x.const_data_ptr(),
       b = residual.const_data_ptr(), scale = weight.const_data_ptr()](uint32_t num_cores, void* stream) {
        return ascend_ext_launch_add_rms_norm(num_cores, stream, y, sum, a, b, scale, num_rows, width, type,
                                              static_cast<float>(epsilon));
      });
  return {y_TH, residual_out_TH};
}

}  // namespace
}  // namespace ascend_ext

TORCH_LIBRARY_IMPL(ascend_ext, PrivateUse1, m) { m.impl("add_rms_norm", ascend_ext::AddRmsNorm); }
