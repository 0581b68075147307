// SPDX-License-Identifier: Apache-2.0
// The Python types of module.cpp around Send and Receive.
#pragma once

#include "mtp_ring.h"
#include "python.h"

namespace ascend_ext {

constexpr int kNumSources = 2;  // target, draft

// Fields of a Section, which mtp_output/frames/section.py defines.
enum SectionField { kSource, kRequestIds, kPacked, kNumSlots, kTopK, kNumSectionFields };

// What a Section was like. No reference to its arrays, which may be anybody's: these types cannot be in a cycle.
struct Known {
  Ref source, request_ids, num_slots, top_k;
  explicit operator bool() const { return static_cast<bool>(source); }
};

// What both ends hold of a ring; its memory cannot be unmapped before `Close`.
class RingEnd {
 public:
  // False with an exception set when the memory is none of a ring.
  bool Open(PyObject* words, PyObject* frames, PyObject* state, PyObject* section_type);

 protected:
  // Takes over what a Section is like; `index` is 0 for the target. False, without an exception, when it is none.
  bool Learn(PyObject* section, int index);
  void Forget();
  void Close();

  PyTypeObject* section_type() const { return reinterpret_cast<PyTypeObject*>(section_type_.get()); }

  End end_{};
  Known known_[kNumSources];
  bool is_closed_ = false;

 private:
  Buffer words_, frames_, state_;
  Ref section_type_;
};

class UsualSend : public RingEnd {
 public:
  bool Open(PyObject* arguments);
  PyObject* Learn(PyObject* const* arguments, Py_ssize_t count);
  PyObject* Send(PyObject* const* arguments, Py_ssize_t count);
  PyObject* ForgetAll();
  PyObject* CloseEnd();

 private:
  bool IsLike(PyObject* section, int index, Buffer* packed) const;
};

class UsualReceive : public RingEnd {
 public:
  bool Open(PyObject* arguments);
  PyObject* Learn(PyObject* const* arguments, Py_ssize_t count);
  PyObject* Receive(PyObject* timeout_s);
  PyObject* CloseEnd();

 private:
  bool Prepare();
  void DropPrepared();
  PyObject* NewFrame(const Stamp& stamp);  // with the fields of mtp_output/frames/frame.py's Frame

  double slice_s_ = 0;
  bool is_waiting_ = false;  // without the interpreter's lock
  Ref frame_type_, empty_, int32_, instance_, replica_;
  Ref shapes_[kNumSources];  // of the records
  // of the frame to come, made before it comes
  Ref sections_;
  Buffer records_[kNumSources];
};

PyType_Spec* UsualSendSpec();
PyType_Spec* UsualReceiveSpec();

}  // namespace ascend_ext
