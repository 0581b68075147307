// SPDX-License-Identifier: Apache-2.0
// Everything that a body in a table may use; precompiled once for all tables.
#pragma once

#include "gated_delta/gated_delta.h"
#include "mc2/mc2.h"
#include "opapi/attention.h"
#include "opapi/bodies.h"
#include "opapi/choosing.h"
#include "opapi/moe.h"
#include "opapi/quantisation.h"
#include "opapi/rope.h"
#include "sparse_attention/sparse_attention.h"
