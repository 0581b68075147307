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
    end_ = {words_at,    frames_.As<uint8_t>(), state_.As<State>(), words_at[1], words_at[2],
            words_at[3], words_at[4],           words_at[5],        words_at[6]};
  }
  if (state_.size() != sizeof(State) || end_.num_descriptors == 0 ||
      end_.num_descriptors > (num_words - kDescriptorsAt) / 2 || end_.capacity == 0 ||
      frames_.size() < end_.capacity || end_.max_frame_bytes > end_.capacity) {
    PyErr_SetString(PyExc_ValueError, "this is not the memory of a ring and of an end's state");
    return false;
  }
  return true;
}

void RingEnd::Adopt(uint64_t sequence, PyObject* roster) {
  is_known_ = !is_closed_ && roster_.FromTuple(roster);
  roster_sequence_ = sequence;
}

void RingEnd::Close() {
  is_closed_ = true;
  is_known_ = false;
  words_.Drop();
  frames_.Drop();
  state_.Drop();
}

}  // namespace ascend_ext
