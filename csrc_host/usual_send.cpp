// SPDX-License-Identifier: Apache-2.0
#include "usual_case.h"

namespace ascend_ext {
namespace {

// Whether two objects are equal; mostly they are the same one. False with an exception set when one cannot tell.
bool IsSame(PyObject* one, const Ref& known) {
  if (one == known.get()) {
    return true;
  }
  const Ref other = Ref::To(known.get());  // a comparison may run anything
  return PyObject_RichCompareBool(one, other.get(), Py_EQ) == 1;
}

PyObject* LearnSend(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return Holder<UsualSend>::Of(self).Learn(arguments, count);
}

PyObject* SendUsual(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return Holder<UsualSend>::Of(self).Send(arguments, count);
}

PyObject* ForgetSend(PyObject* self, PyObject*) { return Holder<UsualSend>::Of(self).ForgetAll(); }

PyObject* CloseSend(PyObject* self, PyObject*) { return Holder<UsualSend>::Of(self).CloseEnd(); }

}  // namespace

bool UsualSend::Open(PyObject* arguments) {
  PyObject *words, *frames, *state, *section_type;
  return PyArg_ParseTuple(arguments, "OOOO", &words, &frames, &state, &section_type) &&
         RingEnd::Open(words, frames, state, section_type);
}

PyObject* UsualSend::Learn(PyObject* const* arguments, Py_ssize_t count) {
  if (count != 4) {
    PyErr_SetString(PyExc_TypeError, "learn takes the roster's sequence, a bound, the target and the draft");
    return nullptr;
  }
  Forget();
  const uint64_t roster_sequence = PyLong_AsUnsignedLongLong(arguments[0]);
  const uint64_t bound = PyLong_AsUnsignedLongLong(arguments[1]);
  if (PyErr_Occurred()) {
    return nullptr;
  }
  const bool has_draft = arguments[3] != Py_None;
  if (is_closed_ || !RingEnd::Learn(arguments[2], 0) || (has_draft && !RingEnd::Learn(arguments[3], 1))) {
    Forget();
  }
  end_.usual.roster_sequence = roster_sequence;
  end_.usual.bound = bound;
  Py_RETURN_NONE;
}

PyObject* UsualSend::ForgetAll() {
  Forget();
  Py_RETURN_NONE;
}

PyObject* UsualSend::CloseEnd() {
  Close();
  Py_RETURN_NONE;
}

PyObject* UsualSend::Send(PyObject* const* arguments, Py_ssize_t count) {
  if (count != 3) {
    PyErr_SetString(PyExc_TypeError, "send takes the step, the target and the draft");
    return nullptr;
  }
  if (!known_[0]) {
    return PyLong_FromLong(-1);
  }
  const uint64_t begin = MonotonicNs(), step = PyLong_AsUnsignedLongLong(arguments[0]);
  Ref sequence(PyLong_FromUnsignedLongLong(end_.state->sequence));  // before it is sent: nothing may fail after it
  const bool has_draft = arguments[2] != Py_None;
  Buffer packed[kNumSources];
  const bool is_usual = !PyErr_Occurred() && has_draft == static_cast<bool>(known_[1]) &&
                        IsLike(arguments[1], 0, &packed[0]) &&
                        (!has_draft || IsLike(arguments[2], 1, &packed[1])) &&
                        known_[0];  // still: a comparison may have closed this
  const int32_t* const records[kNumSources] = {packed[0].As<int32_t>(), packed[1].As<int32_t>()};
  if (is_usual && ascend_ext::Send(end_, step, records)) {
    end_.state->send_ns += MonotonicNs() - begin;
    return sequence.Release();
  }
  if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) {
    return nullptr;
  }
  PyErr_Clear();  // whatever is wrong, Python says it better
  return PyLong_FromLong(-1);
}

// Whether a section goes with the usual roster and shape; takes its records. False with or without an exception.
bool UsualSend::IsLike(PyObject* section, int index, Buffer* packed) const {
  const Known& known = known_[index];
  if (Py_TYPE(section) != section_type() || PyTuple_GET_SIZE(section) != kNumSectionFields ||
      !IsSame(PyTuple_GET_ITEM(section, kSource), known.source) ||
      !IsSame(PyTuple_GET_ITEM(section, kRequestIds), known.request_ids) ||
      !IsSame(PyTuple_GET_ITEM(section, kNumSlots), known.num_slots) ||
      !IsSame(PyTuple_GET_ITEM(section, kTopK), known.top_k)) {
    return false;
  }
  const Shape& shape = end_.usual.shapes[index];
  if (!packed->Take(PyTuple_GET_ITEM(section, kPacked), PyBUF_ND | PyBUF_FORMAT)) {
    return false;
  }
  const Py_buffer& view = packed->view();
  return view.ndim == 2 && view.itemsize == 4 && view.format[0] == 'i' &&
         static_cast<uint64_t>(view.shape[0]) == shape.batch &&
         static_cast<uint64_t>(view.shape[1]) == RecordWords(shape);
}

PyType_Spec* UsualSendSpec() {
  static PyMethodDef methods[] = {
      {"learn", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(LearnSend)), METH_FASTCALL,
       "learn(roster_sequence, bound, target, draft): the frame before was of these; `bound` bytes at most."},
      {"send", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(SendUsual)), METH_FASTCALL,
       "send(step, target, draft): the frame's sequence; -1 when it is not like the one before, and not sent."},
      {"forget", ForgetSend, METH_NOARGS, "forget(): no frame is usual until something is learned."},
      {"close", CloseSend, METH_NOARGS, "close(): gives the memory back; no frame is usual any more."},
      {},
  };
  static PyType_Slot slots[] = {
      {Py_tp_doc, const_cast<char*>("UsualSend(words, frames, state, Section): the writing end of a ring.")},
      {Py_tp_new, reinterpret_cast<void*>(Holder<UsualSend>::New)},
      {Py_tp_dealloc, reinterpret_cast<void*>(Holder<UsualSend>::Dealloc)},
      {Py_tp_methods, methods},
      {},
  };
  static PyType_Spec spec = {"ascend_ext_channel.UsualSend", sizeof(Holder<UsualSend>), 0, Py_TPFLAGS_DEFAULT,
                             slots};
  return &spec;
}

}  // namespace ascend_ext
