// SPDX-License-Identifier: Apache-2.0
#include "request_ids.h"

#include <cstdint>
#include <cstring>

namespace ascend_ext {
namespace {

uint64_t Padded(uint64_t bytes) { return (bytes + 3) / 4 * 4; }

// Whether no id comes twice; false with an exception set, too.
bool AreDistinct(PyObject* ids) {
  Ref set(PyFrozenSet_New(ids));
  return set && PySet_GET_SIZE(set.get()) == PyTuple_GET_SIZE(ids);
}

PyObject* LeaveToPython() {
  PyErr_Clear();
  Py_RETURN_NONE;
}

// The bytes of the ids together; -1 when one has no UTF-8, with or without an exception, or is too long.
int64_t TextBytes(PyObject* ids) {
  int64_t sum = 0;
  for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(ids); ++index) {
    PyObject* id = PyTuple_GET_ITEM(ids, index);
    Py_ssize_t bytes = 0;
    if (!PyUnicode_Check(id) || !PyUnicode_AsUTF8AndSize(id, &bytes) || bytes > UINT16_MAX) {
      return -1;
    }
    sum += bytes;
  }
  return sum;
}

}  // namespace

PyObject* IdsWrite(PyObject*, PyObject* request_ids) {
  if (!PyTuple_Check(request_ids)) {
    return LeaveToPython();
  }
  const Py_ssize_t count = PyTuple_GET_SIZE(request_ids);
  const int64_t text_bytes = TextBytes(request_ids);
  if (text_bytes < 0 || !AreDistinct(request_ids)) {
    return LeaveToPython();
  }
  const uint64_t text_at = Padded(2 * static_cast<uint64_t>(count)), end = text_at + Padded(text_bytes);
  Ref body(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(end)));
  if (!body) {
    return nullptr;
  }
  char* lengths = PyBytes_AS_STRING(body.get());
  char *text = lengths + text_at, *stop = lengths + end;
  std::memset(lengths + 2 * count, 0, text_at - 2 * static_cast<uint64_t>(count));
  for (Py_ssize_t index = 0; index < count; ++index) {
    Py_ssize_t bytes = 0;
    const char* id = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(request_ids, index), &bytes);
    const uint16_t length = static_cast<uint16_t>(bytes);
    std::memcpy(lengths + 2 * index, &length, sizeof(length));
    std::memcpy(text, id, length);
    text += length;
  }
  std::memset(text, 0, static_cast<size_t>(stop - text));
  return Py_BuildValue("(LN)", static_cast<long long>(text_bytes), body.Release());
}

PyObject* IdsRead(PyObject*, PyObject* arguments) {
  PyObject* object;
  unsigned long long at, count, text_bytes;
  Buffer blob;
  if (!PyArg_ParseTuple(arguments, "OKKK", &object, &at, &count, &text_bytes) ||
      !blob.Take(object, PyBUF_SIMPLE)) {
    return nullptr;
  }
  const uint64_t left = at <= blob.size() ? blob.size() - at : 0;
  if (at > blob.size() || count > left / 2 || text_bytes > left || Padded(2 * count) + Padded(text_bytes) > left) {
    return LeaveToPython();
  }
  const uint8_t* lengths = blob.As<uint8_t>() + at;
  const char *text = reinterpret_cast<const char*>(lengths + Padded(2 * count)), *end = text + text_bytes;
  Ref ids(PyTuple_New(static_cast<Py_ssize_t>(count)));
  if (!ids) {
    return nullptr;
  }
  for (uint64_t index = 0; index < count; ++index) {
    uint16_t length;
    std::memcpy(&length, lengths + 2 * index, sizeof(length));
    PyObject* id = length <= end - text ? PyUnicode_DecodeUTF8(text, length, nullptr) : nullptr;
    if (!id) {
      return LeaveToPython();
    }
    PyTuple_SET_ITEM(ids.get(), static_cast<Py_ssize_t>(index), id);
    text += length;
  }
  return text == end && AreDistinct(ids.get()) ? ids.Release() : LeaveToPython();
}

}  // namespace ascend_ext
