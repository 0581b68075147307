// SPDX-License-Identifier: Apache-2.0
#include "usual_case.h"

namespace ascend_ext {
namespace {

// Whether two numbers of Python are the same; mostly they are the same object.
bool IsSame(PyObject* one, PyObject* other) { return one == other || PyObject_RichCompareBool(one, other, Py_EQ) == 1; }

PyObject* LearnSend(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return Holder<UsualSend>::Of(self).Learn(arguments, count);
}

PyObject* SendUsual(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return Holder<UsualSend>::Of(self).Send(arguments, count);
}

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
  known_[0] = Ref();
  known_[1] = Ref();
  end_.usual = {};
  end_.usual.roster_sequence = PyLong_AsUnsignedLongLong(arguments[0]);
  end_.usual.bound = PyLong_AsUnsignedLongLong(arguments[1]);
  if (PyErr_Occurred() || !RingEnd::Learn(arguments[2], 0) ||
      (arguments[3] != Py_None && !RingEnd::Learn(arguments[3], 1))) {
    known_[0] = Ref();
    return nullptr;
  }
  Py_RETURN_NONE;
}

PyObject* UsualSend::Send(PyObject* const* arguments, Py_ssize_t count) {
  if (count != 3) {
    PyErr_SetString(PyExc_TypeError, "send takes the step, the target and the draft");
    return nullptr;
  }
  const uint64_t begin = MonotonicNs(), step = PyLong_AsUnsignedLongLong(arguments[0]);
  const bool has_draft = arguments[2] != Py_None;
  Buffer packed[kNumSources];
  const bool is_usual = !PyErr_Occurred() && known_[0] && has_draft == static_cast<bool>(known_[1]) &&
                        IsLike(arguments[1], 0, &packed[0]) && (!has_draft || IsLike(arguments[2], 1, &packed[1]));
  const int32_t* const records[kNumSources] = {packed[0].As<int32_t>(), packed[1].As<int32_t>()};
  if (!is_usual || !ascend_ext::Send(end_, step, records)) {
    PyErr_Clear();  // whatever is wrong, Python says it better
    return PyLong_FromLong(-1);
  }
  end_.state->send_ns += MonotonicNs() - begin;
  return PyLong_FromUnsignedLongLong(end_.state->sequence - 1);
}

// Whether a section goes with the usual roster and shape; takes its records.
bool UsualSend::IsLike(PyObject* section, int index, Buffer* packed) const {
  if (Py_TYPE(section) != section_type() || PyTuple_GET_SIZE(section) != kNumSectionFields) {
    return false;
  }
  for (const SectionField field : {kSource, kRequestIds, kNumSlots, kTopK}) {
    if (!IsSame(PyTuple_GET_ITEM(section, field), PyTuple_GET_ITEM(known_[index].get(), field))) {
      return false;
    }
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
      {},
  };
  static PyType_Slot slots[] = {
      {Py_tp_doc, const_cast<char*>("UsualSend(words, frames, state, Section): the writing end of a ring.")},
      {Py_tp_new, reinterpret_cast<void*>(Holder<UsualSend>::New)},
      {Py_tp_dealloc, reinterpret_cast<void*>(Holder<UsualSend>::Dealloc)},
      {Py_tp_methods, methods},
      {},
  };
  static PyType_Spec spec = {"ascend_ext_channel.UsualSend", sizeof(Holder<UsualSend>), 0, Py_TPFLAGS_DEFAULT, slots};
  return &spec;
}

}  // namespace ascend_ext
