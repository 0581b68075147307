// SPDX-License-Identifier: Apache-2.0
// The extension module ascend_ext_channel, which vllm_ascend_ext/mtp_output/ring/backend.py loads and calls.
#include "fast_path.h"
#include "xxh3.h"

namespace ascend_ext {
namespace {

constexpr long kAbi = 7;  // mtp_output/ring/end_state.py

// rows_write(packed, batch, slots, top_k, memory, at) -> bytes, or -1 - row: see WriteRows.
PyObject* RowsWrite(PyObject*, PyObject* arguments) {
  PyObject *packed_object, *memory_object;
  unsigned long long batch, slots, top_k, at;
  Buffer packed, memory;
  if (!PyArg_ParseTuple(arguments, "OKKKOK", &packed_object, &batch, &slots, &top_k, &memory_object, &at) ||
      !packed.Take(packed_object, PyBUF_ND) || !memory.Take(memory_object, PyBUF_WRITABLE)) {
    return nullptr;
  }
  const Shape shape{batch, slots, top_k};
  if (!shape.IsPossible() || packed.size() != batch * RecordWords(shape) * 4 || at > memory.size() ||
      RowsBound(shape) > memory.size() - at) {
    PyErr_SetString(PyExc_ValueError, "records of another shape, or memory too short for them");
    return nullptr;
  }
  return PyLong_FromLongLong(WriteRows(packed.As<int32_t>(), shape, memory.As<uint8_t>() + at));
}

// rows_read(frame, at, batch, slots, top_k, packed) -> 0, or -1 - row: see ReadRows.
PyObject* RowsRead(PyObject*, PyObject* arguments) {
  PyObject *frame_object, *packed_object;
  unsigned long long at, batch, slots, top_k;
  Buffer frame, packed;
  if (!PyArg_ParseTuple(arguments, "OKKKKO", &frame_object, &at, &batch, &slots, &top_k, &packed_object) ||
      !frame.Take(frame_object, PyBUF_SIMPLE) || !packed.Take(packed_object, PyBUF_ND | PyBUF_WRITABLE)) {
    return nullptr;
  }
  const Shape shape{batch, slots, top_k};
  if (!shape.IsPossible() || packed.size() != batch * RecordWords(shape) * 4 || at > frame.size() ||
      !IsPrefixOf(frame.As<uint8_t>() + at, frame.size() - at, shape)) {
    PyErr_SetString(PyExc_ValueError, "records of another shape, or no body of this shape");
    return nullptr;
  }
  return PyLong_FromLongLong(ReadRows(frame.As<uint8_t>() + at, shape, packed.As<int32_t>()));
}

PyObject* Hash(PyObject*, PyObject* data) {
  Buffer bytes;
  if (!bytes.Take(data, PyBUF_SIMPLE)) {
    return nullptr;
  }
  if (bytes.size() < 9) {
    PyErr_SetString(PyExc_ValueError, "no frame is so short");
    return nullptr;
  }
  return PyLong_FromUnsignedLongLong(Xxh3(bytes.As<uint8_t>(), bytes.size()));
}

// Returns the word at `index`, or NULL with an exception set when the memory is shorter.
uint64_t* WordAt(const Buffer& words, unsigned long long index) {
  if (index >= words.size() / 8) {
    PyErr_SetString(PyExc_IndexError, "no such word");
    return nullptr;
  }
  return words.As<uint64_t>() + index;
}

// store(words, word, value)
PyObject* StoreWord(PyObject*, PyObject* arguments) {
  PyObject* object;
  unsigned long long word, value;
  Buffer words;
  if (!PyArg_ParseTuple(arguments, "OKK", &object, &word, &value) || !words.Take(object, PyBUF_WRITABLE)) {
    return nullptr;
  }
  uint64_t* at = WordAt(words, word);
  if (!at) {
    return nullptr;
  }
  Store(at, value);
  Py_RETURN_NONE;
}

// publish(words, word, value, waits)
PyObject* PublishWord(PyObject*, PyObject* arguments) {
  PyObject* object;
  unsigned long long word, value, waits;
  Buffer words;
  if (!PyArg_ParseTuple(arguments, "OKKK", &object, &word, &value, &waits) ||
      !words.Take(object, PyBUF_WRITABLE)) {
    return nullptr;
  }
  uint64_t *at = WordAt(words, word), *waits_at = WordAt(words, waits);
  if (!at || !waits_at) {
    return nullptr;
  }
  Publish(at, value, waits_at);
  Py_RETURN_NONE;
}

int AddAll(PyObject* module) {
  for (PyType_Spec* spec : {FastSenderSpec(), FastReceiverSpec()}) {
    Ref type(PyType_FromModuleAndSpec(module, spec, nullptr));
    if (!type || PyModule_AddType(module, reinterpret_cast<PyTypeObject*>(type.get()))) {
      return -1;
    }
  }
  return PyModule_AddIntConstant(module, "ABI", kAbi) ||
                 PyModule_AddIntConstant(module, "STATE_WORDS", static_cast<long>(kStateWords)) ||
                 PyModule_AddStringConstant(module, "VERSION", ASCEND_EXT_VERSION) ||
                 PyModule_AddStringConstant(module, "SOURCES", ASCEND_EXT_SOURCES)
             ? -1
             : 0;
}

PyMethodDef functions[] = {
    {"rows_write", RowsWrite, METH_VARARGS,
     "rows_write(packed, batch, slots, top_k, memory, at): bytes of the body, or -1 - row of an impossible "
     "record."},
    {"rows_read", RowsRead, METH_VARARGS,
     "rows_read(frame, at, batch, slots, top_k, packed): 0, or -1 - row of an impossible count (batch: their "
     "sum)."},
    {"xxh3", Hash, METH_O, "xxh3(data): XXH3 of 64 bits, of 9 bytes or more."},
    {"store", StoreWord, METH_VARARGS, "store(words, word, value): stores with release order, then fences fully."},
    {"publish", PublishWord, METH_VARARGS,
     "publish(words, word, value, waits): stores the value and wakes the process that waits for the value which "
     "word "
     "`waits` holds."},
    {},
};

PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void*>(AddAll)}, {}};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    "ascend_ext_channel",
    "The inner loops of vllm_ascend_ext.mtp_output's ring.",
    0,
    functions,
    slots,
    nullptr,
    nullptr,
    nullptr,
};

}  // namespace
}  // namespace ascend_ext

PyMODINIT_FUNC PyInit_ascend_ext_channel() { return PyModuleDef_Init(&ascend_ext::definition); }
