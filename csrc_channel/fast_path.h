// SPDX-License-Identifier: Apache-2.0
// The Python types FastSender and FastReceiver: Send and Receive of mtp_ring.h as module.cpp exports them.
#pragma once

#include "mtp_ring.h"
#include "python.h"

namespace ascend_ext {

constexpr int kNumSources = 2;  // target, draft

// Fields of a Section, which mtp_output/frames/section.py defines.
enum SectionField { kSource, kRequestIds, kPacked, kNumSlots, kTopK, kNumSectionFields };

// The fields of the last Section, without its arrays. An array may refer to anything, also to this object, and the
// garbage collector does not traverse these types: a reference to an array could leak a cycle.
struct CachedSection {
  Ref source, request_ids, num_slots, top_k;
  explicit operator bool() const { return static_cast<bool>(source); }
};

// Holds an end's memory of the ring, which cannot be unmapped before `Close`, and the cached sections.
class RingEnd {
 public:
  // Returns false, with an exception set, when the memory is not that of a ring.
  bool Open(PyObject* words, PyObject* frames, PyObject* state, PyObject* section_type);

 protected:
  // Caches the fields and the shape of a Section; `index` is 0 for the target, 1 for the draft. Returns false,
  // without an exception, when the object is no such Section.
  bool Cache(PyObject* section, int index);
  void DropCache();
  void Close();

  PyTypeObject* section_type() const { return reinterpret_cast<PyTypeObject*>(section_type_.get()); }

  End end_{};
  CachedSection cached_[kNumSources];
  bool is_closed_ = false;

 private:
  Buffer words_, frames_, state_;
  Ref section_type_;
};

class FastSender : public RingEnd {
 public:
  bool Open(PyObject* arguments);
  PyObject* Cache(PyObject* const* arguments, Py_ssize_t count);
  PyObject* Send(PyObject* const* arguments, Py_ssize_t count);
  PyObject* DropAll();
  PyObject* CloseEnd();

 private:
  bool IsLike(PyObject* section, int index, Buffer* packed) const;
};

class FastReceiver : public RingEnd {
 public:
  bool Open(PyObject* arguments);
  PyObject* Cache(PyObject* const* arguments, Py_ssize_t count);
  PyObject* Receive(PyObject* timeout_s);
  PyObject* CloseEnd();

 private:
  bool Prepare();
  void DropPrepared();
  PyObject* NewFrame(const Stamp& stamp);  // with the fields of mtp_output/frames/frame.py's Frame

  double slice_s_ = 0;
  bool is_waiting_ = false;  // in AwaitFrame, without the interpreter's lock
  Ref frame_type_, empty_, int32_, instance_, replica_;
  Ref shapes_[kNumSources];  // of the records
  // memory for the next frame, made before the frame comes
  Ref sections_;
  Buffer records_[kNumSources];
};

PyType_Spec* FastSenderSpec();
PyType_Spec* FastReceiverSpec();

}  // namespace ascend_ext
