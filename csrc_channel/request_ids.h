// SPDX-License-Identifier: Apache-2.0
// The ids of a roster's list, as mtp_output/frames/roster.py describes them: u16 lengths and the text, each padded
// to 4 bytes.
#pragma once

#include "python.h"

namespace ascend_ext {

// ids_write(request_ids) -> (bytes of the text, lengths and text), or None when Python must say what is wrong.
PyObject* IdsWrite(PyObject*, PyObject* request_ids);

// ids_read(blob, at, count, bytes of the text) -> a tuple of str, or None likewise.
PyObject* IdsRead(PyObject*, PyObject* arguments);

}  // namespace ascend_ext
