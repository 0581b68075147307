// SPDX-License-Identifier: Apache-2.0
// The launches of ascend_ext_kernels (NPU, emulated NPU) and ascend_ext_host (CPU): plain C, no torch, for
// binding.cpp and ctypes.
//
// Each returns 0, a TilingError (tiling.h), -1 for a broken rule of AscendC on the host, or the emulated runtime's
// code. `num_vector_cores` is the device's; a launch uses as many as pay. Addresses are of contiguous tensors on
// the device of `stream` (ascend_ext_host has no streams and runs at once); inputs do not alias outputs. Shapes
// are those of vllm_ascend_ext/ops.
#pragma once

#include <cstdint>

extern "C" {

// load: int32 [E]; topk_ids: [num_rows, top_k] of id_bytes (4 or 8); num_tokens: int32, one.
int32_t ascend_ext_launch_expert_load_add(uint32_t num_vector_cores, void* stream, void* load,
                                          const void* topk_ids, const void* num_tokens, int64_t num_rows,
                                          int64_t top_k, int64_t num_experts, int64_t id_bytes);

// load: int32 [E]; counts: [E] of count_bytes (4 or 8).
int32_t ascend_ext_launch_expert_load_add_counts(uint32_t num_vector_cores, void* stream, void* load,
                                                 const void* counts, int64_t num_experts, int64_t count_bytes,
                                                 int32_t is_cumsum);

// out: [total, H], in: [>= rows, H], rows of row_bytes; in's first `rows` become out's rows from `offset` on.
int32_t ascend_ext_launch_dp_pad(uint32_t num_vector_cores, void* stream, void* out, const void* in, int64_t rows,
                                 int64_t offset, int64_t total, int64_t row_bytes);

// out: [rows, H], in: [>= offset + rows, H].
int32_t ascend_ext_launch_dp_unpad(uint32_t num_vector_cores, void* stream, void* out, const void* in,
                                   int64_t rows, int64_t offset, int64_t row_bytes);

// type: 0 half, 1 bfloat16, 2 float. y, residual_out, x, residual: [num_rows, width]; weight: [width].
int32_t ascend_ext_launch_add_rms_norm(uint32_t num_vector_cores, void* stream, void* y, void* residual_out,
                                       const void* x, const void* residual, const void* weight, int64_t num_rows,
                                       int64_t width, int32_t type, float epsilon);

// All int32 but log_probabilities (float32). out: [num_requests, record_words]; token_ids, ranks: [num_requests,
// num_slots]; num_accepted, status: [num_requests]; top_k_ids, log_probabilities: [num_requests, num_slots,
// top_k]. top_k 0: the last three are null.
int32_t ascend_ext_launch_mtp_pack_output(uint32_t num_vector_cores, void* stream, void* out,
                                          const void* token_ids, const void* num_accepted, const void* status,
                                          const void* top_k_ids, const void* log_probabilities, const void* ranks,
                                          int64_t num_requests, int64_t num_slots, int64_t top_k);
}
