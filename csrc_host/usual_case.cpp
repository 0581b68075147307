// SPDX-License-Identifier: Apache-2.0
#include "usual_case.h"

namespace ascend_ext {

bool RingEnd::Open(PyObject* words, PyObject* frames, PyObject* state, PyObject* section_type) {
  if (!IsNamedTuple(section_type)) {
    PyErr_SetString(PyExc_TypeError, "sections are of a class made by NamedTuple");
    return false;
  }
  section_type_ = Ref::To(section_type);
  if (!words_.Take(words, PyBUF_WRITABLE) || !frames_.Take(frames, PyBUF_WRITABLE) ||
      !state_.Take(state, PyBUF_WRITABLE)) {
    return false;
  }
  end_.words = words_.As<uint64_t>();
  end_.frames = frames_.As<uint8_t>();
  end_.state = state_.As<State>();
  if (words_.size() / 8 < kDescriptorsAt || state_.size() != sizeof(State) || end_.num_descriptors() == 0 ||
      words_.size() / 8 < kDescriptorsAt + 2 * end_.num_descriptors() || end_.capacity() == 0 ||
      frames_.size() < end_.capacity() || end_.max_frame_bytes() > end_.capacity()) {
    PyErr_SetString(PyExc_ValueError, "this is not the memory of a ring and of an end's state");
    return false;
  }
  return true;
}

bool RingEnd::Learn(PyObject* section, int index) {
  if (!PyObject_TypeCheck(section, section_type()) || PyTuple_GET_SIZE(section) != kNumSectionFields) {
    PyErr_SetString(PyExc_TypeError, "not a section");
    return false;
  }
  const Py_ssize_t batch = PyObject_Size(PyTuple_GET_ITEM(section, kRequestIds));
  const long slots = PyLong_AsLong(PyTuple_GET_ITEM(section, kNumSlots));
  const long top_k = PyLong_AsLong(PyTuple_GET_ITEM(section, kTopK));
  if (PyErr_Occurred()) {
    return false;
  }
  if (batch < 0 || slots < 1 || top_k < 0) {
    PyErr_SetString(PyExc_ValueError, "a section with impossible numbers");
    return false;
  }
  end_.usual.shapes[index] = {static_cast<uint64_t>(batch), static_cast<uint64_t>(slots),
                              static_cast<uint64_t>(top_k)};
  known_[index] = Ref::To(section);
  return true;
}

}  // namespace ascend_ext
