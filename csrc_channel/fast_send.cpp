// SPDX-License-Identifier: Apache-2.0
#include "fast_path.h"

namespace ascend_ext {
namespace {

// Returns whether two objects are equal; mostly they are one object. Returns false, with an exception set, when
// the comparison fails.
bool IsSame(PyObject* one, const Ref& cached) {
  if (one == cached.get()) {
    return true;
  }
  const Ref other = Ref::To(cached.get());  // a comparison may run anything
  return PyObject_RichCompareBool(one, other.get(), Py_EQ) == 1;
}

PyObject* CacheSend(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return Holder<FastSender>::Of(self).Cache(arguments, count);
}

PyObject* SendFast(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return Holder<FastSender>::Of(self).Send(arguments, count);
}

PyObject* DropSend(PyObject* self, PyObject*) { return Holder<FastSender>::Of(self).DropAll(); }

PyObject* CloseSend(PyObject* self, PyObject*) { return Holder<FastSender>::Of(self).CloseEnd(); }

}  // namespace

bool FastSender::Open(PyObject* arguments) {
  PyObject *words, *frames, *state, *section_type;
  return PyArg_ParseTuple(arguments, "OOOO", &words, &frames, &state, &section_type) &&
         RingEnd::Open(words, frames, state, section_type);
}

PyObject* FastSender::Cache(PyObject* const* arguments, Py_ssize_t count) {
  if (count != 4) {
    PyErr_SetString(PyExc_TypeError, "cache takes the roster's sequence, a bound, the target and the draft");
    return nullptr;
  }
  DropCache();
  const uint64_t roster_sequence = PyLong_AsUnsignedLongLong(arguments[0]);
  const uint64_t bound = PyLong_AsUnsignedLongLong(arguments[1]);
  if (PyErr_Occurred()) {
    return nullptr;
  }
  const bool has_draft = arguments[3] != Py_None;
  if (is_closed_ || !RingEnd::Cache(arguments[2], 0) || (has_draft && !RingEnd::Cache(arguments[3], 1))) {
    DropCache();
  }
  end_.expected.roster_sequence = roster_sequence;
  end_.expected.bound = bound;
  Py_RETURN_NONE;
}

PyObject* FastSender::DropAll() {
  DropCache();
  Py_RETURN_NONE;
}

PyObject* FastSender::CloseEnd() {
  Close();
  Py_RETURN_NONE;
}

PyObject* FastSender::Send(PyObject* const* arguments, Py_ssize_t count) {
  if (count != 3) {
    PyErr_SetString(PyExc_TypeError, "send takes the step, the target and the draft");
    return nullptr;
  }
  if (!cached_[0]) {
    return PyLong_FromLong(-1);
  }
  const uint64_t begin = MonotonicNs(), step = PyLong_AsUnsignedLongLong(arguments[0]);
  Ref sequence(PyLong_FromUnsignedLongLong(end_.state->sequence));  // before it is sent: nothing may fail after it
  const bool has_draft = arguments[2] != Py_None;
  Buffer packed[kNumSources];
  const bool can_send = !PyErr_Occurred() && has_draft == static_cast<bool>(cached_[1]) &&
                        IsLike(arguments[1], 0, &packed[0]) &&
                        (!has_draft || IsLike(arguments[2], 1, &packed[1])) &&
                        cached_[0];  // still: a comparison may have closed this
  const int32_t* const records[kNumSources] = {packed[0].As<int32_t>(), packed[1].As<int32_t>()};
  if (can_send && ascend_ext::Send(end_, step, records)) {
    end_.state->send_ns += MonotonicNs() - begin;
    return sequence.Release();
  }
  if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) {
    return nullptr;
  }
  PyErr_Clear();  // whatever is wrong, Python says it better
  return PyLong_FromLong(-1);
}

// Returns whether a section has the cached roster and shape, and takes its records. An exception may be set when
// the result is false.
bool FastSender::IsLike(PyObject* section, int index, Buffer* packed) const {
  const CachedSection& cached = cached_[index];
  if (Py_TYPE(section) != section_type() || PyTuple_GET_SIZE(section) != kNumSectionFields ||
      !IsSame(PyTuple_GET_ITEM(section, kSource), cached.source) ||
      !IsSame(PyTuple_GET_ITEM(section, kRequestIds), cached.request_ids) ||
      !IsSame(PyTuple_GET_ITEM(section, kNumSlots), cached.num_slots) ||
      !IsSame(PyTuple_GET_ITEM(section, kTopK), cached.top_k)) {
    return false;
  }
  const Shape& shape = end_.expected.shapes[index];
  if (!packed->Take(PyTuple_GET_ITEM(section, kPacked), PyBUF_ND | PyBUF_FORMAT)) {
    return false;
  }
  const Py_buffer& view = packed->view();
  return view.ndim == 2 && view.itemsize == 4 && view.format[0] == 'i' &&
         static_cast<uint64_t>(view.shape[0]) == shape.batch &&
         static_cast<uint64_t>(view.shape[1]) == RecordWords(shape);
}

PyType_Spec* FastSenderSpec() {
  static PyMethodDef methods[] = {
      {"cache", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(CacheSend)), METH_FASTCALL,
       "cache(roster_sequence, bound, target, draft): keeps the shapes of the frame just sent, for the next "
       "send; the next frame has at most `bound` bytes."},
      {"send", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(SendFast)), METH_FASTCALL,
       "send(step, target, draft): sends a frame like the cached one and returns its sequence, or returns -1 "
       "and sends nothing."},
      {"drop", DropSend, METH_NOARGS, "drop(): empties the cache; send returns -1 until cache is called."},
      {"close", CloseSend, METH_NOARGS, "close(): gives the ring's memory back; send returns -1 from then on."},
      {},
  };
  static PyType_Slot slots[] = {
      {Py_tp_doc, const_cast<char*>("FastSender(words, frames, state, Section): the writing end of a ring.")},
      {Py_tp_new, reinterpret_cast<void*>(Holder<FastSender>::New)},
      {Py_tp_dealloc, reinterpret_cast<void*>(Holder<FastSender>::Dealloc)},
      {Py_tp_methods, methods},
      {},
  };
  static PyType_Spec spec = {"ascend_ext_channel.FastSender", sizeof(Holder<FastSender>), 0, Py_TPFLAGS_DEFAULT,
                             slots};
  return &spec;
}

}  // namespace ascend_ext
