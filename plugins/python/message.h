// The type _lope.Message: a view of a message that Python may keep for longer than there is one.
#pragma once

#include <pybind11/pybind11.h>

#include <lope/handler.hpp>
#include <unordered_set>

namespace lope::python {

namespace py = pybind11;

struct MessageObject;
// Those that an instance keeps; they know it, and leave it when they are settled.
using Held = std::unordered_set<MessageObject*>;

// All of it with the GIL.
struct MessageObject {
  PyObject_HEAD const lope_host* host;
  const lope_message* raw;  // nullptr: settled
  lope_outcome outcome;     // what the function has said
  Held* held;               // where it is kept; nullptr: its call is running
};

// Adds the types Message, Error and MessageStateError to the module _lope.
void add_message_types(py::module_& module);

// A message of a call that begins; `type` is Message or derived from it. Throws error_already_set.
py::object make_message(PyTypeObject* type, const lope_host* host, const lope_message* raw);

inline MessageObject& as_message(const py::handle& object) {
  return *reinterpret_cast<MessageObject*>(object.ptr());
}

// Its call ends: what the function has said, LOPE_NO_OUTCOME if nothing. A message that is kept
// stays valid and goes to `held`; another is valid no more.
lope_outcome end_call(MessageObject& message, Held& held);

// What is still kept, and has been handed back, is valid no more.
void forget(Held& held);

}  // namespace lope::python
