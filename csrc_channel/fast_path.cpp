// SPDX-License-Identifier: Apache-2.0
#include "fast_path.h"

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
  const uint64_t num_words = words_.size() / 8;
  uint64_t* words_at = words_.As<uint64_t>();
  if (num_words >= kDescriptorsAt) {
    end_ = {words_at,    frames_.As<uint8_t>(), state_.As<State>(), {},         words_at[1],
            words_at[2], words_at[3],           words_at[4],        words_at[5]};
  }
  if (state_.size() != sizeof(State) || end_.num_descriptors == 0 ||
      end_.num_descriptors > (num_words - kDescriptorsAt) / 2 || end_.capacity == 0 ||
      frames_.size() < end_.capacity || end_.max_frame_bytes > end_.capacity) {
    PyErr_SetString(PyExc_ValueError, "this is not the memory of a ring and of an end's state");
    return false;
  }
  return true;
}

bool RingEnd::Cache(PyObject* section, int index) {
  if (Py_TYPE(section) != section_type() || PyTuple_GET_SIZE(section) != kNumSectionFields ||
      !PyTuple_Check(PyTuple_GET_ITEM(section, kRequestIds))) {
    return false;
  }
  const Py_ssize_t batch = PyTuple_GET_SIZE(PyTuple_GET_ITEM(section, kRequestIds));
  const long source = PyLong_AsLong(PyTuple_GET_ITEM(section, kSource));
  const unsigned long slots = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(section, kNumSlots));
  const unsigned long top_k = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(section, kTopK));
  const Shape shape{static_cast<uint64_t>(batch), slots, top_k};
  if (PyErr_Occurred() || source != index + 1 || !shape.IsPossible()) {
    PyErr_Clear();
    return false;
  }
  end_.expected.shapes[index] = shape;
  cached_[index] = {Ref::To(PyTuple_GET_ITEM(section, kSource)), Ref::To(PyTuple_GET_ITEM(section, kRequestIds)),
                    Ref::To(PyTuple_GET_ITEM(section, kNumSlots)), Ref::To(PyTuple_GET_ITEM(section, kTopK))};
  return true;
}

void RingEnd::DropCache() {
  end_.expected = {};
  for (CachedSection& cached : cached_) {
    cached = {};
  }
}

void RingEnd::Close() {
  DropCache();
  is_closed_ = true;
  words_.Drop();
  frames_.Drop();
  state_.Drop();
}

}  // namespace ascend_ext
