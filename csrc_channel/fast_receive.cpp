// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <utility>

#include "fast_path.h"

namespace ascend_ext {
namespace {

PyObject* AdoptReceive(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return Holder<FastReceiver>::Of(self).Adopt(arguments, count);
}

PyObject* RosterOfReceive(PyObject* self, PyObject*) { return Holder<FastReceiver>::Of(self).KnownRoster(); }

PyObject* ReceiveFast(PyObject* self, PyObject* timeout_s) {
  return Holder<FastReceiver>::Of(self).Receive(timeout_s);
}

PyObject* CloseReceive(PyObject* self, PyObject*) { return Holder<FastReceiver>::Of(self).CloseEnd(); }

PyObject* OneThreadOnly() {
  PyErr_SetString(PyExc_RuntimeError, "another thread receives here: a receiver is for one thread");
  return nullptr;
}

PyObject* Number(uint64_t value) { return PyLong_FromUnsignedLongLong(value); }

}  // namespace

bool FastReceiver::Open(PyObject* arguments) {
  PyObject *words, *frames, *state, *rosters, *section_type, *frame_type, *sources, *empty, *int32;
  if (!PyArg_ParseTuple(arguments, "OOOOOOO!OOd", &words, &frames, &state, &rosters, &section_type, &frame_type,
                        &PyTuple_Type, &sources, &empty, &int32, &slice_s_) ||
      !RingEnd::Open(words, frames, state, section_type) || !rosters_.Take(rosters, PyBUF_WRITABLE)) {
    return false;
  }
  if (end_.roster_bytes > rosters_.size() || 2 * RosterPlaceBytes(end_) > rosters_.size()) {
    PyErr_SetString(PyExc_ValueError, "this is not the memory of a ring's rosters");
    return false;
  }
  if (!IsNamedTuple(frame_type) || PyTuple_GET_SIZE(sources) != kNumSources) {
    PyErr_SetString(PyExc_TypeError, "frames are of a class made by NamedTuple, and of two sources");
    return false;
  }
  frame_type_ = Ref::To(frame_type);
  sources_ = Ref::To(sources);
  empty_ = Ref::To(empty);
  int32_ = Ref::To(int32);
  instance_ = Ref(Number(end_.instance));
  replica_ = Ref(Number(end_.replica));
  return instance_ && replica_;
}

PyObject* FastReceiver::Adopt(PyObject* const* arguments, Py_ssize_t count) {
  if (count != 2) {
    PyErr_SetString(PyExc_TypeError, "adopt takes the roster's sequence and the roster");
    return nullptr;
  }
  if (is_busy_) {
    return OneThreadOnly();
  }
  const uint64_t sequence = PyLong_AsUnsignedLongLong(arguments[0]);
  if (PyErr_Occurred()) {
    return nullptr;
  }
  RingEnd::Adopt(sequence, arguments[1]);
  Py_RETURN_NONE;
}

PyObject* FastReceiver::KnownRoster() const {
  if (!is_known_) {
    Py_RETURN_NONE;
  }
  return Py_BuildValue("(KN)", static_cast<unsigned long long>(roster_sequence_), roster_.AsTuple());
}

PyObject* FastReceiver::CloseEnd() {
  if (is_busy_) {
    return OneThreadOnly();
  }
  for (int index = 0; index < kNumSources; ++index) {
    records_[index].Drop();
    packed_[index] = Ref();
  }
  rosters_.Drop();
  Close();
  Py_RETURN_NONE;
}

PyObject* FastReceiver::Receive(PyObject* timeout_s) {
  const double seconds = PyFloat_AsDouble(timeout_s);
  if (seconds == -1.0 && PyErr_Occurred()) {
    return nullptr;
  }
  if (is_busy_) {
    return OneThreadOnly();
  }
  if (is_closed_) {
    Py_RETURN_NONE;
  }
  end_.state->waited_ns = 0;
  if (!is_known_) {
    Py_RETURN_NONE;
  }
  is_busy_ = true;  // what is made here may run a finalizer, which may run anything
  PyObject* frame = ReceiveNext(seconds);
  is_busy_ = false;
  if (!frame && !PyErr_Occurred()) {
    Py_RETURN_NONE;
  }
  return frame;
}

// NULL without an exception where Python must read the next frame, or there is none.
PyObject* FastReceiver::ReceiveNext(double seconds) {
  Acknowledge(end_);
  for (int index = 0; index < kNumSources; ++index) {
    if (shapes_[index].slots && !packed_[index] && !Prepare(index)) {
      return nullptr;
    }
  }
  WholeFrame found;
  Outcome outcome = FindFrame(end_, &found);
  if (outcome == Outcome::kNothing && seconds > 0) {
    const uint64_t begin = MonotonicNs();
    const uint64_t timeout_ns = static_cast<uint64_t>(std::min(seconds, slice_s_) * 1e9);
    Py_BEGIN_ALLOW_THREADS AwaitFrame(end_, timeout_ns);
    Py_END_ALLOW_THREADS outcome = FindFrame(end_, &found);
    if (outcome != Outcome::kRead) {
      end_.state->waited_ns = MonotonicNs() - begin;
    }
  }
  PyObject* frame = outcome == Outcome::kRead ? Read(found) : nullptr;
  end_.state->sequence += frame != nullptr;
  return frame;
}

PyObject* FastReceiver::Read(const WholeFrame& found) {
  bool has_roster = false;
  if (!ReadRosterOf(found, &has_roster)) {
    return nullptr;
  }
  const Roster& roster = has_roster ? next_ : roster_;
  const int num_rows = found.num_sections - has_roster;
  if (num_rows != roster.num_lists()) {
    return nullptr;
  }
  for (int index = 0; index < num_rows; ++index) {
    if (!ReadRecords(found.sections[index + has_roster], index) ||
        shapes_[index].batch != roster.ListOf(index).size()) {
      return nullptr;
    }
  }
  if (has_roster) {
    const SectionPlace& place = found.sections[0];
    const bool is_whole = place.kind == kRosterKind;
    const uint64_t bytes = is_whole ? place.bytes : roster.WholeBytes();
    if (bytes > end_.roster_bytes) {
      return nullptr;
    }
    uint8_t* text = BeginRoster(end_, rosters_.As<uint8_t>());
    if (is_whole) {
      std::memcpy(text, place.body, bytes);
    } else {
      roster.WriteWhole(text);
    }
    FinishRoster(text, bytes, found.stamp.sequence);
  }
  PyObject* frame = NewFrame(found, roster);
  if (frame && has_roster) {
    std::swap(roster_, next_);
    roster_sequence_ = found.stamp.sequence;
  }
  return frame;
}

// Reads the roster that the frame carries, if it does, into `next_`. Returns false when Python must read the
// frame.
bool FastReceiver::ReadRosterOf(const WholeFrame& found, bool* has_roster) {
  if (!found.num_sections) {
    return false;
  }
  const SectionPlace& place = found.sections[0];
  *has_roster = place.kind == kRosterKind || place.kind == kChangeKind;
  if (!*has_roster) {
    return found.stamp.roster_sequence == roster_sequence_;
  }
  if (found.stamp.roster_sequence != found.stamp.sequence) {
    return false;
  }
  return place.kind == kRosterKind ? next_.ReadWhole(place.body, place.bytes)
                                   : next_.ReadChange(place.body, place.bytes, roster_sequence_, roster_);
}

// Reads the records of a section. Returns false, perhaps with an exception, when Python must read the frame.
bool FastReceiver::ReadRecords(const SectionPlace& place, int index) {
  Shape shape;
  if (place.kind != index + kTargetKind || !ReadShape(place.body, place.bytes, &shape)) {
    return false;
  }
  if (!packed_[index] || !(shape == shapes_[index])) {
    shapes_[index] = shape;
    if (!Prepare(index)) {
      return false;
    }
  }
  return ReadRows(place.body, shape, records_[index].As<int32_t>()) == 0;
}

// Makes the memory for records of the shape at `index`.
bool FastReceiver::Prepare(int index) {
  const Shape& shape = shapes_[index];
  records_[index].Drop();
  packed_[index] = Ref();
  Ref size(
      Py_BuildValue("(nn)", static_cast<Py_ssize_t>(shape.batch), static_cast<Py_ssize_t>(RecordWords(shape))));
  if (!size) {
    return false;
  }
  PyObject* const arguments[] = {size.get(), int32_.get()};
  Ref packed(PyObject_Vectorcall(empty_.get(), arguments, 2, nullptr));
  if (!packed || !records_[index].Take(packed.get(), PyBUF_WRITABLE)) {
    return false;
  }
  if (records_[index].size() != shape.batch * RecordWords(shape) * 4) {
    PyErr_SetString(PyExc_ValueError, "the memory for records is of another size");
    return false;
  }
  packed_[index] = std::move(packed);
  return true;
}

PyObject* FastReceiver::NewFrame(const WholeFrame& found, const Roster& roster) {
  Ref sections[kNumSources];
  for (int index = 0; index < roster.num_lists(); ++index) {
    records_[index].Drop();
    sections[index] =
        Ref(MakeTuple(section_type(),
                      {Py_NewRef(PyTuple_GET_ITEM(sources_.get(), index)), Py_NewRef(roster.ListOf(index).tuple()),
                       packed_[index].Release(), Number(shapes_[index].slots), Number(shapes_[index].top_k)}));
    if (!sections[index]) {
      return nullptr;
    }
  }
  PyObject* both = sections[1] ? MakeTuple(&PyTuple_Type, {sections[0].Release(), sections[1].Release()})
                               : MakeTuple(&PyTuple_Type, {sections[0].Release()});
  const Stamp& stamp = found.stamp;
  return MakeTuple(reinterpret_cast<PyTypeObject*>(frame_type_.get()),
                   {Py_NewRef(instance_.get()), Py_NewRef(replica_.get()), Number(stamp.step),
                    Number(stamp.sequence), both, Number(stamp.sent_ns)});
}

PyType_Spec* FastReceiverSpec() {
  static PyMethodDef methods[] = {
      {"adopt", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(AdoptReceive)), METH_FASTCALL,
       "adopt(roster_sequence, roster): notes the roster in force after a frame that Python has read."},
      {"roster", RosterOfReceive, METH_NOARGS, "roster(): what `adopt` takes, as it is in force now; or None."},
      {"close", CloseReceive, METH_NOARGS,
       "close(): gives the ring's memory back; receive returns None from then on."},
      {"receive", ReceiveFast, METH_O,
       "receive(timeout_s): acknowledges the frames read before and returns the next one; returns None when "
       "Python "
       "must read it, or it did not come within the shorter of `timeout_s` and `slice_s` seconds."},
      {},
  };
  static PyType_Slot slots[] = {
      {Py_tp_doc,
       const_cast<char*>("FastReceiver(words, frames, state, rosters, Section, Frame, sources, empty, int32, "
                         "slice_s): the reading end of a ring; `empty` makes an array of a shape and a type.")},
      {Py_tp_new, reinterpret_cast<void*>(Holder<FastReceiver>::New)},
      {Py_tp_dealloc, reinterpret_cast<void*>(Holder<FastReceiver>::Dealloc)},
      {Py_tp_methods, methods},
      {},
  };
  static PyType_Spec spec = {"ascend_ext_channel.FastReceiver", sizeof(Holder<FastReceiver>), 0,
                             Py_TPFLAGS_DEFAULT, slots};
  return &spec;
}

}  // namespace ascend_ext
