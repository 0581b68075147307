// SPDX-License-Identifier: Apache-2.0
// The memory that a strided view touches.
#pragma once

#include <ATen/core/Tensor.h>

#include "memory/access.h"
#include "memory/rows.h"

namespace emu::opapi {

// From the first byte to the last.
Range SpanOf(const at::Tensor& tensor);

// The view's rows, from its first byte on.
Rows RowsOf(const at::Tensor& tensor);

// Adds the bytes of the view and no others.
void AddAccesses(const at::Tensor& tensor, bool write, Accesses& accesses);

}  // namespace emu::opapi
