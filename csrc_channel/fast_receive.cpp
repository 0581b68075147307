// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "fast_path.h"

namespace ascend_ext {
namespace {

PyObject* CacheReceive(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return Holder<FastReceiver>::Of(self).Cache(arguments, count);
}

PyObject* ReceiveFast(PyObject* self, PyObject* timeout_s) {
  return Holder<FastReceiver>::Of(self).Receive(timeout_s);
}

PyObject* CloseReceive(PyObject* self, PyObject*) { return Holder<FastReceiver>::Of(self).CloseEnd(); }

PyObject* OneThreadOnly() {
  PyErr_SetString(PyExc_RuntimeError, "another thread receives here: a receiver is for one thread");
  return nullptr;
}

}  // namespace

bool FastReceiver::Open(PyObject* arguments) {
  PyObject *words, *frames, *state, *section_type, *frame_type, *empty, *int32;
  if (!PyArg_ParseTuple(arguments, "OOOOOOOd", &words, &frames, &state, &section_type, &frame_type, &empty, &int32,
                        &slice_s_) ||
      !RingEnd::Open(words, frames, state, section_type)) {
    return false;
  }
  if (!IsNamedTuple(frame_type)) {
    PyErr_SetString(PyExc_TypeError, "frames are of a class made by NamedTuple");
    return false;
  }
  frame_type_ = Ref::To(frame_type);
  empty_ = Ref::To(empty);
  int32_ = Ref::To(int32);
  instance_ = Ref(PyLong_FromUnsignedLongLong(end_.instance));
  replica_ = Ref(PyLong_FromUnsignedLongLong(end_.replica));
  return instance_ && replica_;
}

PyObject* FastReceiver::Cache(PyObject* const* arguments, Py_ssize_t count) {
  if (count != 2 || !PyTuple_Check(arguments[1]) || PyTuple_GET_SIZE(arguments[1]) > kNumSources) {
    PyErr_SetString(PyExc_TypeError, "cache takes the roster's sequence and a tuple of sections");
    return nullptr;
  }
  if (is_waiting_) {
    return OneThreadOnly();
  }
  DropPrepared();
  DropCache();
  end_.expected.roster_sequence = PyLong_AsUnsignedLongLong(arguments[0]);
  if (PyErr_Occurred()) {
    return nullptr;
  }
  const Py_ssize_t num_sections = is_closed_ ? 0 : PyTuple_GET_SIZE(arguments[1]);
  for (int index = 0; index < num_sections; ++index) {
    if (!RingEnd::Cache(PyTuple_GET_ITEM(arguments[1], index), index)) {
      DropCache();  // a draft without a target, say
      break;
    }
    const Shape& shape = end_.expected.shapes[index];
    shapes_[index] = Ref(
        Py_BuildValue("(nn)", static_cast<Py_ssize_t>(shape.batch), static_cast<Py_ssize_t>(RecordWords(shape))));
    if (!shapes_[index]) {
      DropCache();
      return nullptr;
    }
  }
  Py_RETURN_NONE;
}

PyObject* FastReceiver::CloseEnd() {
  if (is_waiting_) {
    return OneThreadOnly();
  }
  DropPrepared();
  Close();
  Py_RETURN_NONE;
}

PyObject* FastReceiver::Receive(PyObject* timeout_s) {
  const double seconds = PyFloat_AsDouble(timeout_s);
  if (seconds == -1.0 && PyErr_Occurred()) {
    return nullptr;
  }
  if (is_waiting_) {
    return OneThreadOnly();
  }
  if (is_closed_) {
    Py_RETURN_NONE;
  }
  end_.state->waited_ns = 0;
  if (!cached_[0]) {
    Py_RETURN_NONE;
  }
  Acknowledge(end_);
  if (!sections_ && !Prepare()) {
    return nullptr;
  }
  int32_t* const records[kNumSources] = {records_[0].As<int32_t>(), records_[1].As<int32_t>()};
  Stamp stamp;
  Outcome outcome = ascend_ext::Receive(end_, records, &stamp);
  if (outcome == Outcome::kNothing && seconds > 0) {
    const uint64_t begin = MonotonicNs();
    const uint64_t timeout_ns = static_cast<uint64_t>(std::min(seconds, slice_s_) * 1e9);
    is_waiting_ = true;
    Py_BEGIN_ALLOW_THREADS AwaitFrame(end_, timeout_ns);
    Py_END_ALLOW_THREADS is_waiting_ = false;
    outcome = ascend_ext::Receive(end_, records, &stamp);
    if (outcome != Outcome::kRead) {
      end_.state->waited_ns = MonotonicNs() - begin;
    }
  }
  if (outcome != Outcome::kRead) {
    Py_RETURN_NONE;
  }
  PyObject* frame = NewFrame(stamp);
  end_.state->sequence += frame != nullptr;
  return frame;
}

// Makes the sections of the next frame, whose records are to be filled.
bool FastReceiver::Prepare() {
  Ref sections[kNumSources];
  for (int index = 0; index < kNumSources && cached_[index]; ++index) {
    const CachedSection& cached = cached_[index];
    PyObject* const arguments[] = {shapes_[index].get(), int32_.get()};
    Ref packed(PyObject_Vectorcall(empty_.get(), arguments, 2, nullptr));
    if (!packed || !records_[index].Take(packed.get(), PyBUF_WRITABLE)) {
      return false;
    }
    if (records_[index].size() !=
        end_.expected.shapes[index].batch * RecordWords(end_.expected.shapes[index]) * 4) {
      PyErr_SetString(PyExc_ValueError, "the memory for records is of another size");
      return false;
    }
    sections[index] = Ref(MakeTuple(
        section_type(), {Py_NewRef(cached.source.get()), Py_NewRef(cached.request_ids.get()), packed.Release(),
                         Py_NewRef(cached.num_slots.get()), Py_NewRef(cached.top_k.get())}));
    if (!sections[index]) {
      return false;
    }
  }
  sections_ = Ref(cached_[1] ? MakeTuple(&PyTuple_Type, {sections[0].Release(), sections[1].Release()})
                             : MakeTuple(&PyTuple_Type, {sections[0].Release()}));
  return static_cast<bool>(sections_);
}

void FastReceiver::DropPrepared() {
  for (Buffer& records : records_) {
    records.Drop();
  }
  sections_ = Ref();
}

PyObject* FastReceiver::NewFrame(const Stamp& stamp) {
  for (Buffer& records : records_) {
    records.Drop();
  }
  return MakeTuple(reinterpret_cast<PyTypeObject*>(frame_type_.get()),
                   {Py_NewRef(instance_.get()), Py_NewRef(replica_.get()), PyLong_FromUnsignedLongLong(stamp.step),
                    PyLong_FromUnsignedLongLong(stamp.sequence), sections_.Release(),
                    PyLong_FromUnsignedLongLong(stamp.sent_ns)});
}

PyType_Spec* FastReceiverSpec() {
  static PyMethodDef methods[] = {
      {"cache", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(CacheReceive)), METH_FASTCALL,
       "cache(roster_sequence, sections): keeps the shapes of the frame just read, for the next receive."},
      {"close", CloseReceive, METH_NOARGS,
       "close(): gives the ring's memory back; receive returns None from then on."},
      {"receive", ReceiveFast, METH_O,
       "receive(timeout_s): acknowledges the frames read before and returns the next one; returns None when that "
       "is "
       "not like the cached one, or did not come within the shorter of `timeout_s` and `slice_s` seconds."},
      {},
  };
  static PyType_Slot slots[] = {
      {Py_tp_doc,
       const_cast<char*>("FastReceiver(words, frames, state, Section, Frame, empty, int32, slice_s): the "
                         "reading end of a ring; `empty` makes an array of a shape and a type.")},
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
