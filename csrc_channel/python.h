// SPDX-License-Identifier: Apache-2.0
// Owned references, buffers, and Python types around C++ objects, which the bindings share.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <initializer_list>
#include <new>
#include <utility>

namespace ascend_ext {

// An owned reference, or none.
class Ref {
 public:
  Ref() = default;
  explicit Ref(PyObject* owned) : object_(owned) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref&& other) noexcept {
    PyObject* old = std::exchange(object_, std::exchange(other.object_, nullptr));
    Py_XDECREF(old);
    return *this;
  }
  ~Ref() { Py_XDECREF(object_); }
  static Ref To(PyObject* borrowed) { return Ref(Py_XNewRef(borrowed)); }

  PyObject* get() const { return object_; }
  PyObject* Release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  PyObject* object_ = nullptr;
};

// The memory of an object, which stays where it is meanwhile.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { Drop(); }

  // Returns false, with an exception set, when `object` has no C-contiguous buffer like that.
  bool Take(PyObject* object, int flags) {
    Drop();
    is_held_ = PyObject_GetBuffer(object, &view_, flags) == 0;
    return is_held_;
  }

  void Drop() {
    if (std::exchange(is_held_, false)) {
      PyBuffer_Release(&view_);
    }
  }

  const Py_buffer& view() const { return view_; }
  size_t size() const { return static_cast<size_t>(view_.len); }

  template <typename T>
  T* As() const {
    return static_cast<T*>(view_.buf);
  }

 private:
  Py_buffer view_{};
  bool is_held_ = false;
};

// A tuple, or an instance of a class made by NamedTuple, of these references, which are taken over. NULL with an
// exception set when memory is short.
inline PyObject* MakeTuple(PyTypeObject* type, std::initializer_list<PyObject*> items) {
  const Py_ssize_t size = static_cast<Py_ssize_t>(items.size());
  PyObject* tuple = nullptr;
  bool is_whole = true;
  for (PyObject* item : items) {
    is_whole = is_whole && item;
  }
  if (is_whole) {
    tuple = type == &PyTuple_Type ? PyTuple_New(size) : type->tp_alloc(type, size);
  }
  Py_ssize_t index = 0;
  for (PyObject* item : items) {
    if (tuple) {
      PyTuple_SET_ITEM(tuple, index++, item);
    } else {
      Py_XDECREF(item);
    }
  }
  return tuple;
}

// Whether `type` is a class made by NamedTuple: a tuple with nothing added to its memory.
inline bool IsNamedTuple(PyObject* type) {
  if (!PyType_Check(type)) {
    return false;
  }
  const PyTypeObject* of = reinterpret_cast<PyTypeObject*>(type);
  return PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(type), &PyTuple_Type) &&
         of->tp_basicsize == PyTuple_Type.tp_basicsize && of->tp_dictoffset == 0;
}

// A Python object that holds a T, which is made of the arguments of the call to the type.
template <typename T>
struct Holder {
  PyObject_HEAD T* held;

  static T& Of(PyObject* self) { return *reinterpret_cast<Holder*>(self)->held; }

  static PyObject* New(PyTypeObject* type, PyObject* arguments, PyObject* keywords) {
    if (keywords && PyDict_GET_SIZE(keywords)) {
      PyErr_Format(PyExc_TypeError, "%s takes no keyword arguments", type->tp_name);
      return nullptr;
    }
    Ref self(type->tp_alloc(type, 0));
    if (!self) {
      return nullptr;
    }
    T* held = new (std::nothrow) T;
    reinterpret_cast<Holder*>(self.get())->held = held;
    if (!held) {
      return PyErr_NoMemory();
    }
    return held->Open(arguments) ? self.Release() : nullptr;
  }

  static void Dealloc(PyObject* self) {
    PyTypeObject* type = Py_TYPE(self);
    delete reinterpret_cast<Holder*>(self)->held;
    type->tp_free(self);
    Py_DECREF(type);
  }
};

}  // namespace ascend_ext
