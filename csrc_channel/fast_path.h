// SPDX-License-Identifier: Apache-2.0
// The Python types FastSender and FastReceiver: the ends of a ring as module.cpp exports them.
#pragma once

#include "mtp_ring.h"
#include "mtp_rows.h"
#include "python.h"
#include "roster.h"

namespace ascend_ext {

constexpr int kNumSources = 2;  // target, draft

// Fields of a Section, which mtp_output/frames/section.py defines.
enum SectionField { kSource, kRequestIds, kPacked, kNumSlots, kTopK, kNumSectionFields };

// Holds an end's memory of the ring, which cannot be unmapped before `Close`, and the roster that readers know. It
// holds no array: an array may refer to anything, also to this object, and the garbage collector does not traverse
// these types.
class RingEnd {
 public:
  // Returns false, with an exception set, when the memory is not that of a ring.
  bool Open(PyObject* words, PyObject* frames, PyObject* state, PyObject* section_type);

 protected:
  void Adopt(uint64_t sequence, PyObject* roster);
  void Close();

  PyTypeObject* section_type() const { return reinterpret_cast<PyTypeObject*>(section_type_.get()); }

  End end_{};
  Roster roster_, next_;  // known; of the frame that is being sent or read
  uint64_t roster_sequence_ = 0;
  bool is_known_ = false, is_closed_ = false;

 private:
  Buffer words_, frames_, state_;
  Ref section_type_;
};

class FastSender : public RingEnd {
 public:
  bool Open(PyObject* arguments);
  PyObject* Adopt(PyObject* const* arguments, Py_ssize_t count);
  PyObject* KnownRoster() const;
  PyObject* Send(PyObject* const* arguments, Py_ssize_t count);
  PyObject* Drop();
  PyObject* CloseEnd();

 private:
  // A section that is to be sent.
  struct Rows {
    Shape shape;
    Buffer packed;
    PyObject* request_ids = nullptr;  // borrowed
  };

  bool TakeRows(PyObject* section, int index, Rows* rows) const;
  bool SendRows(uint64_t step, const Rows* rows);

  uint64_t max_changes_ = 0, num_changes_ = 0;
};

class FastReceiver : public RingEnd {
 public:
  bool Open(PyObject* arguments);
  PyObject* Adopt(PyObject* const* arguments, Py_ssize_t count);
  PyObject* KnownRoster() const;
  PyObject* Receive(PyObject* timeout_s);
  PyObject* CloseEnd();

 private:
  PyObject* ReceiveNext(double seconds);
  PyObject* Read(const WholeFrame& found);
  bool ReadRosterOf(const WholeFrame& found, bool* has_roster);
  bool ReadRecords(const SectionPlace& place, int index);
  bool Prepare(int index);
  PyObject* NewFrame(const WholeFrame& found, const Roster& roster);

  double slice_s_ = 0;
  bool is_busy_ = false;  // in Receive, which may wait without the interpreter's lock
  Buffer rosters_;
  Ref frame_type_, sources_, empty_, int32_, instance_, replica_;
  Shape shapes_[kNumSources] = {};  // of the frame before; 0 slots before the first
  // memory for the next frame, mostly made before the frame comes
  Ref packed_[kNumSources];
  Buffer records_[kNumSources];
};

PyType_Spec* FastSenderSpec();
PyType_Spec* FastReceiverSpec();

}  // namespace ascend_ext
