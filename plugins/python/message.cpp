#include "message.h"

#include <datetime.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "interpreter.h"

namespace lope::python {

namespace {

PyObject* error_type = nullptr;        // lope.Error
PyObject* state_error_type = nullptr;  // lope.MessageStateError

MessageObject& self_of(PyObject* self) { return *reinterpret_cast<MessageObject*>(self); }

// The message, or nullptr and a Python error.
const lope_message* raw_of(PyObject* self) {
  const lope_message* const raw = self_of(self).raw;
  if (raw == nullptr) PyErr_SetString(state_error_type, "the message is settled, and gone");
  return raw;
}

bool has_outcome(const MessageObject& message) {
  return message.outcome != LOPE_NO_OUTCOME && message.outcome != LOPE_HOLD;
}

// The message if it has no outcome yet, or nullptr and a Python error.
const lope_message* open_of(PyObject* self) {
  const MessageObject& message = self_of(self);
  if (message.raw != nullptr && !has_outcome(message)) return message.raw;
  PyErr_SetString(state_error_type, "the message is settled already");
  return nullptr;
}

// Raises what a host function has refused. What a forked process does to a message reaches nobody.
bool check_status(lope_status status, const char* what) {
  if (status == LOPE_OK) return true;
  PyErr_Format(error_type, "%s: %s", what, detail::status_text(status));
  return false;
}
bool check_process(const char* what) {
  if (!is_forked()) return true;
  PyErr_Format(error_type, "%s: expected to be called in the worker, found a process forked of it",
               what);
  return false;
}

// AMQP's texts are UTF-8, mostly.
PyObject* text_object(std::string_view text) {
  return PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "surrogateescape");
}

PyObject* bytes_object(std::string_view bytes) {
  return PyBytes_FromStringAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size()));
}

template <typename T>
T member_at(const lope_message* raw, void* offset) {
  T value;
  std::memcpy(&value, reinterpret_cast<const char*>(raw) + reinterpret_cast<std::uintptr_t>(offset),
              sizeof value);
  return value;
}

// A property: None where the message has none.
PyObject* get_text(PyObject* self, void* offset) {
  const lope_message* const raw = raw_of(self);
  if (raw == nullptr) return nullptr;
  const auto text = detail::to_view(member_at<lope_str>(raw, offset));
  if (text.empty()) Py_RETURN_NONE;
  return text_object(text);
}

// A name, which may be empty.
PyObject* get_name(PyObject* self, void* offset) {
  const lope_message* const raw = raw_of(self);
  if (raw == nullptr) return nullptr;
  return text_object(detail::to_view(member_at<lope_str>(raw, offset)));
}

template <typename T>
PyObject* get_number(PyObject* self, void* offset) {
  const lope_message* const raw = raw_of(self);
  if (raw == nullptr) return nullptr;
  return PyLong_FromUnsignedLongLong(member_at<T>(raw, offset));
}

PyObject* get_timestamp(PyObject* self, void*) {
  const lope_message* const raw = raw_of(self);
  if (raw == nullptr) return nullptr;
  if (raw->timestamp == 0) Py_RETURN_NONE;
  return PyLong_FromUnsignedLongLong(raw->timestamp);
}

PyObject* get_redelivered(PyObject* self, void*) {
  const lope_message* const raw = raw_of(self);
  if (raw == nullptr) return nullptr;
  return PyBool_FromLong((raw->flags & LOPE_MSG_REDELIVERED) != 0);
}

PyObject* get_delivery_mode(PyObject* self, void*) {
  const lope_message* const raw = raw_of(self);
  if (raw == nullptr) return nullptr;
  return PyLong_FromLong((raw->flags & LOPE_MSG_PERSISTENT) != 0 ? 2 : 1);
}

PyObject* get_acknowledged(PyObject* self, void*) {
  const MessageObject& message = self_of(self);
  return PyBool_FromLong(message.raw == nullptr || has_outcome(message));
}

std::string_view body_of(const lope_message* raw) {
  return {static_cast<const char*>(raw->body.data), raw->body.size};
}

PyObject* get_body_bytes(PyObject* self, void*) {
  const lope_message* const raw = raw_of(self);
  return raw == nullptr ? nullptr : bytes_object(body_of(raw));
}

// Text where content_encoding names a charset in which the body is text, as with kombu; else bytes.
PyObject* body(PyObject* self, PyObject*) {
  const lope_message* const raw = raw_of(self);
  if (raw == nullptr) return nullptr;
  const std::string encoding(detail::to_view(raw->content_encoding));
  auto bytes = py::reinterpret_steal<py::object>(bytes_object(body_of(raw)));
  if (!bytes || encoding.empty()) return bytes.release().ptr();
  // A copy is decoded: finding a charset runs Python, and the message may be settled meanwhile.
  PyObject* const text = PyUnicode_FromEncodedObject(bytes.ptr(), encoding.c_str(), "strict");
  if (text != nullptr) return text;
  // No charset (LookupError), or the body is not of it.
  if (!PyErr_ExceptionMatches(PyExc_LookupError) && !PyErr_ExceptionMatches(PyExc_ValueError)) {
    return nullptr;
  }
  PyErr_Clear();
  return bytes.release().ptr();
}

// In UTC and without a time zone, as the Python clients have it.
PyObject* time_object(std::uint64_t seconds) {
  static PyObject* const from_timestamp = PyObject_GetAttrString(
      reinterpret_cast<PyObject*>(PyDateTimeAPI->DateTimeType), "utcfromtimestamp");
  if (from_timestamp == nullptr) return nullptr;
  PyObject* const time =
      PyObject_CallFunction(from_timestamp, "K", static_cast<unsigned long long>(seconds));
  if (time != nullptr) return time;
  PyErr_Clear();  // after the year 9999
  return PyLong_FromUnsignedLongLong(seconds);
}

PyObject* value_object(const lope_value& value) {
  const std::string_view text = value.kind == LOPE_TEXT || value.kind == LOPE_BYTES
                                    ? detail::to_view(value.as.s)
                                    : std::string_view();
  switch (value.kind) {
    case LOPE_INT64: return PyLong_FromLongLong(value.as.i);
    case LOPE_UINT64: return PyLong_FromUnsignedLongLong(value.as.u);
    case LOPE_DOUBLE: return PyFloat_FromDouble(value.as.d);
    case LOPE_BOOL: return PyBool_FromLong(value.as.i != 0);
    case LOPE_BYTES: return bytes_object(text);
    case LOPE_TIMESTAMP: return time_object(value.as.u);
    case LOPE_TEXT: break;
    default: Py_RETURN_NONE;
  }
  PyObject* const decoded =
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "strict");
  if (decoded != nullptr) return decoded;
  PyErr_Clear();
  return bytes_object(text);
}

// Without tables and arrays, which no handler sees. Of several of one name the first counts.
PyObject* headers(PyObject* self, PyObject*) {
  const lope_message* const raw = raw_of(self);
  if (raw == nullptr) return nullptr;
  const lope_host* const host = self_of(self).host;
  auto all = py::reinterpret_steal<py::object>(PyDict_New());
  if (!all) return nullptr;
  for (std::uint32_t i = 0; i < raw->header_count; ++i) {
    lope_header header{};
    if (!check_status(host->header_at(host, raw, i, &header), "headers")) return nullptr;
    if (header.value.kind == LOPE_OTHER) continue;
    const auto name = py::reinterpret_steal<py::object>(text_object(detail::to_view(header.name)));
    const auto value = py::reinterpret_steal<py::object>(value_object(header.value));
    if (!name || !value || PyDict_SetDefault(all.ptr(), name.ptr(), value.ptr()) == nullptr) {
      return nullptr;
    }
  }
  return all.release().ptr();
}

std::string text_from(const py::handle& value, const std::string& what) {
  if (PyBytes_Check(value.ptr())) {
    return {PyBytes_AS_STRING(value.ptr()),
            static_cast<std::size_t>(PyBytes_GET_SIZE(value.ptr()))};
  }
  if (!PyUnicode_Check(value.ptr())) {
    throw py::type_error("expected " + what + " to be text, found " +
                         Py_TYPE(value.ptr())->tp_name);
  }
  const auto bytes = py::reinterpret_steal<py::object>(
      PyUnicode_AsEncodedString(value.ptr(), "utf-8", "surrogateescape"));
  if (!bytes) throw py::error_already_set();
  return text_from(bytes, what);
}

std::int64_t integer_from(const py::handle& value, const std::string& what) {
  if (!PyLong_Check(value.ptr())) {
    throw py::type_error("expected " + what + " to be an int, found " +
                         Py_TYPE(value.ptr())->tp_name);
  }
  const long long number = PyLong_AsLongLong(value.ptr());
  if (number == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return number;
}

bool truth_of(const py::handle& value) {
  const int truth = PyObject_IsTrue(value.ptr());
  if (truth < 0) throw py::error_already_set();
  return truth != 0;
}

void add_header(Publication& publication, const py::handle& key, const py::handle& value) {
  const std::string name = text_from(key, "the name of a header");
  PyObject* const raw = value.ptr();
  if (raw == Py_None) {
    publication.header(name, Value::null());
  } else if (PyBool_Check(raw)) {
    publication.header(name, raw == Py_True);
  } else if (PyLong_Check(raw)) {
    publication.header(name, integer_from(value, "header '" + name + "'"));
  } else if (PyFloat_Check(raw)) {
    publication.header(name, PyFloat_AS_DOUBLE(raw));
  } else if (PyUnicode_Check(raw)) {
    publication.header(name, text_from(value, "a header"));
  } else if (PyBytes_Check(raw)) {
    publication.header(name, Value::bytes(text_from(value, "a header")));
  } else if (PyDateTime_Check(raw)) {
    // Without a time zone it is in UTC, as in the messages that come.
    const py::object utc = py::module_::import("datetime").attr("timezone").attr("utc");
    const bool naive = value.attr("tzinfo").is_none();
    const py::object aware = naive ? value.attr("replace")(py::arg("tzinfo") = utc)
                                   : py::reinterpret_borrow<py::object>(value);
    const auto seconds = static_cast<std::int64_t>(aware.attr("timestamp")().cast<double>());
    publication.header(
        name,
        Value::timestamp(std::chrono::system_clock::time_point(std::chrono::seconds(seconds))));
  } else {
    throw py::type_error("expected header '" + name +
                         "' to be a str, bytes, int, float, bool, datetime or None, found " +
                         Py_TYPE(raw)->tp_name);
  }
}

constexpr std::pair<const char*, std::string Publication::*> kTexts[] = {
    {"exchange", &Publication::exchange},
    {"routing_key", &Publication::routing_key},
    {"content_type", &Publication::content_type},
    {"content_encoding", &Publication::content_encoding},
    {"correlation_id", &Publication::correlation_id},
    {"reply_to", &Publication::reply_to},
    {"message_id", &Publication::message_id},
    {"type", &Publication::type},
};

void set_property(Publication& publication, const std::string& name, const py::handle& value) {
  for (const auto& [known, member] : kTexts) {
    if (name == known) {
      publication.*member = text_from(value, name);
      return;
    }
  }
  if (name == "headers") {
    if (!PyDict_Check(value.ptr())) throw py::type_error("expected headers to be a dict");
    for (const auto& [key, each] : py::reinterpret_borrow<py::dict>(value)) {
      add_header(publication, key, each);
    }
  } else if (name == "persistent") {
    publication.persistent = truth_of(value);
  } else if (name == "may_be_unroutable") {
    publication.may_be_unroutable = truth_of(value);
  } else if (name == "priority") {
    const std::int64_t priority = integer_from(value, name);
    if (priority < 0 || priority > 255) {
      throw py::value_error("expected priority to be 0 to 255, found " + std::to_string(priority));
    }
    publication.priority = static_cast<std::uint32_t>(priority);
  } else if (name == "delay") {
    publication.delay = std::chrono::milliseconds(integer_from(value, name));
  } else if (name == "expiration") {
    publication.expiration = std::chrono::milliseconds(integer_from(value, name));
  } else if (name == "due") {
    publication.due =
        std::chrono::system_clock::time_point(std::chrono::milliseconds(integer_from(value, name)));
  } else {
    throw py::type_error("unexpected property '" + name + "' of a publication");
  }
}

// (is a reply, body, properties)
PyObject* publish(PyObject* self, PyObject* arguments) {
  int is_reply = 0;
  PyObject* bytes = nullptr;
  PyObject* properties = nullptr;
  if (!PyArg_ParseTuple(arguments, "pSO!", &is_reply, &bytes, &PyDict_Type, &properties)) {
    return nullptr;
  }
  if (raw_of(self) == nullptr || !check_process("publish")) return nullptr;
  try {
    Publication publication;
    publication.body = text_from(bytes, "the body");
    for (const auto& [name, value] : py::reinterpret_borrow<py::dict>(properties)) {
      if (!value.is_none()) set_property(publication, name.cast<std::string>(), value);
    }
    // Reading the properties may have run Python, and that have settled it.
    const lope_message* const raw = raw_of(self);
    if (raw == nullptr) return nullptr;
    const Message message(self_of(self).host, raw);
    if (is_reply != 0) {
      message.reply(publication);
    } else {
      message.publish(publication);
    }
    Py_RETURN_NONE;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const Error& error) {
    PyErr_SetString(error_type, error.what());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  }
  return nullptr;
}

PyObject* explain(PyObject* self, PyObject* reason) {
  const lope_message* const raw = open_of(self);
  if (raw == nullptr || !check_process("explain")) return nullptr;
  const auto text = py::reinterpret_steal<py::object>(
      PyUnicode_AsEncodedString(reason, "utf-8", "backslashreplace"));
  if (!text) return nullptr;
  const lope_host* const host = self_of(self).host;
  const lope_str bytes{PyBytes_AS_STRING(text.ptr()),
                       static_cast<std::size_t>(PyBytes_GET_SIZE(text.ptr()))};
  if (!check_status(host->explain(host, raw, bytes), "explain")) return nullptr;
  Py_RETURN_NONE;
}

PyObject* retry_after(PyObject* self, PyObject* milliseconds) {
  const lope_message* const raw = open_of(self);
  if (raw == nullptr || !check_process("retry_after")) return nullptr;
  const unsigned long long ms = PyLong_AsUnsignedLongLong(milliseconds);
  if (PyErr_Occurred() != nullptr) return nullptr;
  const lope_host* const host = self_of(self).host;
  if (!check_status(host->retry_after(host, raw, ms), "retry_after")) return nullptr;
  Py_RETURN_NONE;
}

PyObject* keep_alive(PyObject* self, PyObject*) {
  const lope_message* const raw = raw_of(self);
  if (raw == nullptr || !check_process("keep_alive")) return nullptr;
  const lope_host* const host = self_of(self).host;
  const lope_status status = host->keep_alive(host, raw);
  if (status == LOPE_E_STALE) Py_RETURN_FALSE;
  if (!check_status(status, "keep_alive")) return nullptr;
  Py_RETURN_TRUE;
}

void leave(MessageObject& message) {
  message.raw = nullptr;
  if (message.held != nullptr) message.held->erase(&message);
  message.held = nullptr;
}

// True: the outcome counts. False: it was kept, and taken back meanwhile.
PyObject* settle(PyObject* self, PyObject* number) {
  MessageObject& message = self_of(self);
  const long outcome = PyLong_AsLong(number);
  if (PyErr_Occurred() != nullptr) return nullptr;
  if (open_of(self) == nullptr) return nullptr;
  if (!check_process("settle")) return nullptr;
  if (message.held != nullptr) {
    if (outcome == LOPE_HOLD) Py_RETURN_TRUE;
    const std::uint64_t id = message.raw->id;
    leave(message);
    const lope_status status =
        message.host->settle(message.host, id, static_cast<lope_outcome>(outcome));
    if (status == LOPE_E_STALE) Py_RETURN_FALSE;
    if (!check_status(status, "settle")) return nullptr;
    Py_RETURN_TRUE;
  }
  message.outcome = static_cast<lope_outcome>(outcome);
  Py_RETURN_TRUE;
}

PyObject* is_gone(PyObject* self, PyObject*) {
  return PyBool_FromLong(self_of(self).raw == nullptr);
}

// Nobody can settle a kept message that nobody has any more.
void deallocate(PyObject* self) {
  MessageObject& message = self_of(self);
  if (message.held != nullptr && !is_forked()) {
    const lope_host* const host = message.host;
    const std::uint64_t id = message.raw->id;
    host->explain(host, message.raw,
                  detail::to_str("the function kept the message, and then let go of it"));
    leave(message);
    host->settle(host, id, LOPE_RETRY);
  }
  PyTypeObject* const type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

void* at(std::size_t offset) { return reinterpret_cast<void*>(offset); }

}  // namespace

void add_message_types(py::module_& module) {
  PyDateTime_IMPORT;
  if (PyDateTimeAPI == nullptr) throw py::error_already_set();
  error_type = PyErr_NewExceptionWithDoc("lope.Error", "Lope did not do what it was told to.",
                                         PyExc_RuntimeError, nullptr);
  if (error_type == nullptr) throw py::error_already_set();
  state_error_type = PyErr_NewExceptionWithDoc(
      "lope.MessageStateError", "The message is settled already.", error_type, nullptr);
  if (state_error_type == nullptr) throw py::error_already_set();

  static PyGetSetDef properties[] = {
      {"queue", get_name, nullptr, nullptr, at(offsetof(lope_message, queue))},
      {"exchange", get_name, nullptr, nullptr, at(offsetof(lope_message, exchange))},
      {"routing_key", get_name, nullptr, nullptr, at(offsetof(lope_message, routing_key))},
      {"consumer_tag", get_name, nullptr, nullptr, at(offsetof(lope_message, consumer_tag))},
      {"content_type", get_text, nullptr, nullptr, at(offsetof(lope_message, content_type))},
      {"content_encoding", get_text, nullptr, nullptr,
       at(offsetof(lope_message, content_encoding))},
      {"correlation_id", get_text, nullptr, nullptr, at(offsetof(lope_message, correlation_id))},
      {"reply_to", get_text, nullptr, nullptr, at(offsetof(lope_message, reply_to))},
      {"message_id", get_text, nullptr, nullptr, at(offsetof(lope_message, message_id))},
      {"parent_id", get_text, nullptr, nullptr, at(offsetof(lope_message, parent_id))},
      {"type", get_text, nullptr, nullptr, at(offsetof(lope_message, type))},
      {"app_id", get_text, nullptr, nullptr, at(offsetof(lope_message, app_id))},
      {"user_id", get_text, nullptr, nullptr, at(offsetof(lope_message, user_id))},
      {"expiration", get_text, nullptr, nullptr, at(offsetof(lope_message, expiration))},
      {"priority", get_number<std::uint32_t>, nullptr, nullptr,
       at(offsetof(lope_message, priority))},
      {"attempt", get_number<std::uint32_t>, nullptr, nullptr, at(offsetof(lope_message, attempt))},
      {"crashes", get_number<std::uint32_t>, nullptr, nullptr, at(offsetof(lope_message, crashes))},
      {"delivery_tag", get_number<std::uint64_t>, nullptr, nullptr,
       at(offsetof(lope_message, delivery_tag))},
      {"timestamp", get_timestamp, nullptr, nullptr, nullptr},
      {"redelivered", get_redelivered, nullptr, nullptr, nullptr},
      {"delivery_mode", get_delivery_mode, nullptr, nullptr, nullptr},
      {"acknowledged", get_acknowledged, nullptr, nullptr, nullptr},
      {"body_bytes", get_body_bytes, nullptr, nullptr, nullptr},
      {}};
  static PyMethodDef methods[] = {
      {"_body", body, METH_NOARGS, nullptr},
      {"_headers", headers, METH_NOARGS, nullptr},
      {"_publish", publish, METH_VARARGS, nullptr},
      {"_explain", explain, METH_O, nullptr},
      {"_retry_after", retry_after, METH_O, nullptr},
      {"_settle", settle, METH_O, nullptr},
      {"_is_gone", is_gone, METH_NOARGS, nullptr},
      {"keep_alive", keep_alive, METH_NOARGS,
       "Restarts the timeout. False when it was kept and Lope has taken it back meanwhile."},
      {}};
  static PyType_Slot slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(deallocate)},
                                {Py_tp_getset, properties},
                                {Py_tp_methods, methods},
                                {0, nullptr}};
  static PyType_Spec spec = {"_lope.Message", sizeof(MessageObject), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
  const auto type = py::reinterpret_steal<py::object>(PyType_FromSpec(&spec));
  if (!type) throw py::error_already_set();
  module.attr("Message") = type;
  module.attr("Error") = py::handle(error_type);
  module.attr("MessageStateError") = py::handle(state_error_type);
}

py::object make_message(PyTypeObject* type, const lope_host* host, const lope_message* raw) {
  auto object = py::reinterpret_steal<py::object>(type->tp_alloc(type, 0));  // all zero
  if (!object) throw py::error_already_set();
  MessageObject& message = as_message(object);
  message.host = host;
  message.raw = raw;
  return object;
}

lope_outcome end_call(MessageObject& message, Held& held) {
  if (message.outcome == LOPE_HOLD) {
    message.held = &held;
    held.insert(&message);
  } else {
    message.raw = nullptr;
  }
  return message.outcome;
}

void forget(Held& held) {
  for (MessageObject* const message : held) {
    message->raw = nullptr;
    message->held = nullptr;
  }
  held.clear();
}

}  // namespace lope::python
