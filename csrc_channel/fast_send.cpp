// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "fast_path.h"

namespace ascend_ext {
namespace {

PyObject* AdoptSend(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return Holder<FastSender>::Of(self).Adopt(arguments, count);
}

PyObject* SendFast(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return Holder<FastSender>::Of(self).Send(arguments, count);
}

PyObject* RosterOfSend(PyObject* self, PyObject*) { return Holder<FastSender>::Of(self).KnownRoster(); }

PyObject* DropSend(PyObject* self, PyObject*) { return Holder<FastSender>::Of(self).Drop(); }

PyObject* CloseSend(PyObject* self, PyObject*) { return Holder<FastSender>::Of(self).CloseEnd(); }

// Returns whether `object` is an int that fits, and its value.
bool TakeNumber(PyObject* object, uint64_t* value) {
  const bool is_number = PyLong_Check(object);
  *value = is_number ? PyLong_AsUnsignedLongLong(object) : 0;
  return is_number && !PyErr_Occurred();
}

}  // namespace

bool FastSender::Open(PyObject* arguments) {
  PyObject *words, *frames, *state, *section_type;
  unsigned long long max_changes;
  if (!PyArg_ParseTuple(arguments, "OOOOK", &words, &frames, &state, &section_type, &max_changes)) {
    return false;
  }
  max_changes_ = max_changes;
  return RingEnd::Open(words, frames, state, section_type);
}

PyObject* FastSender::Adopt(PyObject* const* arguments, Py_ssize_t count) {
  uint64_t sequence;
  if (count != 3 || !TakeNumber(arguments[0], &sequence) || !TakeNumber(arguments[1], &num_changes_)) {
    PyErr_SetString(PyExc_TypeError, "adopt takes the roster's sequence, the changes before it and the roster");
    return nullptr;
  }
  RingEnd::Adopt(sequence, arguments[2]);
  Py_RETURN_NONE;
}

PyObject* FastSender::KnownRoster() const {
  if (!is_known_) {
    Py_RETURN_NONE;
  }
  return Py_BuildValue("(KKN)", static_cast<unsigned long long>(roster_sequence_),
                       static_cast<unsigned long long>(num_changes_), roster_.AsTuple());
}

PyObject* FastSender::Drop() {
  is_known_ = false;
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
  if (!is_known_) {
    return PyLong_FromLong(-1);
  }
  const uint64_t begin = MonotonicNs();
  Ref sequence(PyLong_FromUnsignedLongLong(end_.state->sequence));  // before it is sent: nothing may fail after it
  uint64_t step;
  Rows rows[kNumSources];
  const bool can_send = sequence && TakeNumber(arguments[0], &step) && TakeRows(arguments[1], 0, &rows[0]) &&
                        (arguments[2] == Py_None || TakeRows(arguments[2], 1, &rows[1])) &&
                        is_known_;  // still: to take memory may run anything, also `close`
  if (can_send && SendRows(step, rows)) {
    end_.state->send_ns += MonotonicNs() - begin;
    return sequence.Release();
  }
  if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) {
    return nullptr;
  }
  PyErr_Clear();  // whatever is wrong, Python says it better
  return PyLong_FromLong(-1);
}

// Takes the records and the ids of a section. Returns false, perhaps with an exception, when it is none of ours.
bool FastSender::TakeRows(PyObject* section, int index, Rows* rows) const {
  uint64_t source, slots, top_k;
  if (Py_TYPE(section) != section_type() || PyTuple_GET_SIZE(section) != kNumSectionFields ||
      !TakeNumber(PyTuple_GET_ITEM(section, kSource), &source) ||
      !TakeNumber(PyTuple_GET_ITEM(section, kNumSlots), &slots) ||
      !TakeNumber(PyTuple_GET_ITEM(section, kTopK), &top_k) ||
      source != static_cast<uint64_t>(index + kTargetKind)) {
    return false;
  }
  rows->request_ids = PyTuple_GET_ITEM(section, kRequestIds);
  if (!PyTuple_CheckExact(rows->request_ids) ||
      !rows->packed.Take(PyTuple_GET_ITEM(section, kPacked), PyBUF_ND | PyBUF_FORMAT)) {
    return false;
  }
  rows->shape = {static_cast<uint64_t>(PyTuple_GET_SIZE(rows->request_ids)), slots, top_k};
  const Py_buffer& view = rows->packed.view();
  return rows->shape.IsPossible() && view.ndim == 2 && view.itemsize == 4 && view.format[0] == 'i' &&
         static_cast<uint64_t>(view.shape[0]) == rows->shape.batch &&
         static_cast<uint64_t>(view.shape[1]) == RecordWords(rows->shape);
}

// Returns false, having changed nothing that readers see, when Python must send this.
bool FastSender::SendRows(uint64_t step, const Rows* rows) {
  PyObject* const draft_ids = rows[1].request_ids;
  const bool is_known = roster_.IsOf(rows[0].request_ids, draft_ids);
  if (!is_known && !next_.Take(rows[0].request_ids, draft_ids, roster_)) {
    return false;
  }
  const bool has_roster = !is_known && !next_.IsUnchanged();
  const uint64_t whole = has_roster ? next_.WholeBytes() : 0;
  const bool is_change = has_roster && num_changes_ < max_changes_ && next_.ChangeBytes() < whole;
  const uint64_t roster_bytes = is_change ? next_.ChangeBytes() : whole;
  uint64_t bound = kHeaderBytes + kTrailerBytes + (has_roster ? kSectionBytes + roster_bytes : 0);
  const int num_rows = draft_ids ? 2 : 1;
  for (int index = 0; index < num_rows; ++index) {
    bound += kSectionBytes + RowsBound(rows[index].shape);
  }
  uint64_t position;
  uint8_t* const frame = whole <= end_.roster_bytes ? Reserve(end_, bound, &position) : nullptr;
  if (!frame) {
    return false;
  }
  uint8_t* at = frame + kHeaderBytes;
  if (has_roster) {
    at = WriteSectionHead(at, is_change ? kChangeKind : kRosterKind, roster_bytes);
    at = is_change ? next_.WriteChange(roster_sequence_, at) : next_.WriteWhole(at);
  }
  for (int index = 0; index < num_rows; ++index) {
    const int64_t bytes = WriteRows(rows[index].packed.As<int32_t>(), rows[index].shape, at + kSectionBytes);
    if (bytes < 0) {
      return false;
    }
    at = WriteSectionHead(at, static_cast<uint16_t>(index + kTargetKind), static_cast<uint64_t>(bytes)) + bytes;
  }
  const uint64_t sequence = end_.state->sequence;
  ascend_ext::Send(end_, frame, at, position, step, static_cast<uint16_t>(num_rows + has_roster),
                   has_roster ? sequence : roster_sequence_);
  if (has_roster) {
    roster_sequence_ = sequence;
    num_changes_ = is_change ? num_changes_ + 1 : 0;
  }
  if (!is_known) {
    std::swap(roster_, next_);
  }
  return true;
}

PyType_Spec* FastSenderSpec() {
  static PyMethodDef methods[] = {
      {"adopt", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(AdoptSend)), METH_FASTCALL,
       "adopt(roster_sequence, num_changes, roster): notes what readers know after a frame that Python has sent."},
      {"roster", RosterOfSend, METH_NOARGS, "roster(): what `adopt` takes, as readers know it now; or None."},
      {"send", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(SendFast)), METH_FASTCALL,
       "send(step, target, draft): sends a frame and returns its sequence, or returns -1 and sends nothing."},
      {"drop", DropSend, METH_NOARGS, "drop(): forgets the roster; send returns -1 until adopt is called."},
      {"close", CloseSend, METH_NOARGS, "close(): gives the ring's memory back; send returns -1 from then on."},
      {},
  };
  static PyType_Slot slots[] = {
      {Py_tp_doc,
       const_cast<char*>("FastSender(words, frames, state, Section, max_changes): the writing end of a ring; at "
                         "most `max_changes` changes follow a whole roster.")},
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
