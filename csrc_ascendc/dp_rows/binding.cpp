// SPDX-License-Identifier: Apache-2.0
#include "../binding.h"

namespace ascend_ext {
namespace {

void CheckRows(const char* op, const at::Tensor& rows_TH, int64_t rows, int64_t offset) {
  TORCH_CHECK_VALUE(rows_TH.dim() == 2, op, " takes a tensor [T, H], not shape ", rows_TH.sizes());
  const auto bytes = rows_TH.element_size();
  TORCH_CHECK_TYPE(bytes == 1 || bytes == 2 || bytes == 4, op, " takes a dtype of 1, 2 or 4 bytes, not ",
                   rows_TH.scalar_type());
  TORCH_CHECK_VALUE(rows >= 0 && offset >= 0, op, ": rows ", rows, " and offset ", offset,
                    " must not be negative");
}

int64_t RowBytes(const at::Tensor& rows_TH) {
  return rows_TH.size(1) * static_cast<int64_t>(rows_TH.element_size());
}

at::Tensor DpPad(const at::Tensor& local_TH, int64_t rows, int64_t offset, int64_t total) {
  constexpr const char* kOp = "dp_pad";
  CheckRows(kOp, local_TH, rows, offset);
  TORCH_CHECK_VALUE(rows <= local_TH.size(0) && offset + rows <= total, kOp, ": ", rows, " rows of ",
                    local_TH.size(0), " do not fit at ", offset, " of a buffer of ", total, " rows");
  const at::Tensor local = local_TH.contiguous();
  const at::Tensor out_NH = local.new_empty({total, local.size(1)});
  LaunchOnCurrentStream(kOp, local,
                        [=, row_bytes = RowBytes(local), out = out_NH.data_ptr(), in = local.const_data_ptr()](
                            uint32_t num_cores, void* stream) {
                          return ascend_ext_launch_dp_pad(num_cores, stream, out, in, rows, offset, total,
                                                          row_bytes);
                        });
  return out_NH;
}

at::Tensor DpUnpad(const at::Tensor& global_NH, int64_t rows, int64_t offset) {
  constexpr const char* kOp = "dp_unpad";
  CheckRows(kOp, global_NH, rows, offset);
  TORCH_CHECK_VALUE(offset + rows <= global_NH.size(0), kOp, ": no ", rows, " rows at ", offset,
                    " in a buffer of ", global_NH.size(0), " rows");
  const at::Tensor global = global_NH.contiguous();
  const at::Tensor local_TH = global.new_empty({rows, global.size(1)});
  LaunchOnCurrentStream(kOp, global,
                        [=, row_bytes = RowBytes(global), out = local_TH.data_ptr(), in = global.const_data_ptr()](
                            uint32_t num_cores, void* stream) {
                          return ascend_ext_launch_dp_unpad(num_cores, stream, out, in, rows, offset, row_bytes);
                        });
  return local_TH;
}

}  // namespace
}  // namespace ascend_ext

TORCH_LIBRARY_IMPL(ascend_ext, PrivateUse1, m) {
  m.impl("dp_pad", ascend_ext::DpPad);
  m.impl("dp_unpad", ascend_ext::DpUnpad);
}
