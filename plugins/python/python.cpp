// Calls a Python function for each message. The instances of a process share one interpreter, and
// have its lock, the GIL, only while Python runs.
#include <unistd.h>

#include <condition_variable>
#include <exception>
#include <lope/handler.hpp>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "interpreter.h"
#include "message.h"

namespace lope::python {

namespace {

constexpr lope_option kOptions[] = {
    lope::defaulted("module", "", "module that has the function; either this or 'file'"),
    lope::defaulted("file", "", "Python file that has it; its folder is on sys.path"),
    lope::defaulted("function", "handle", "its name, or that of a method: consumer.handle"),
    lope::defaulted("style", "",
                    "how it is called: message, kombu, pika, batch, message_result; without one by "
                    "the number of its arguments: 1 is message, 2 kombu, 4 pika"),
    lope::defaulted("path.*", "", "list of folders that come first on sys.path"),
    lope::defaulted("venv", "", "folder of a virtual environment, whose packages are used"),
    lope::defaulted("options.*", "", "map that the function finds in lope.options"),
    lope::defaulted("aliases.*", "", "list of names by which lope.consume can be imported too"),
    lope::defaulted("next.exchange", "", "where a nextMessage goes that does not say it"),
    lope::defaulted("next.routing_key", "", "the routing key of such a nextMessage"),
    lope::kEndOfOptions};

// Gives the GIL back at the end of a scope that has it already.
struct GiveGil {
  GiveGil() = default;
  GiveGil(const GiveGil&) = delete;
  GiveGil& operator=(const GiveGil&) = delete;
  ~GiveGil() { Thread::give_gil(); }
};

// What the instances of a process have in common. Lives as long as the process: at its end there is
// nobody to take the GIL.
struct Shared {
  explicit Shared(Host of_first) : host(of_first) {}

  const Host host;
  py::object lope;
  py::object function;
  PyTypeObject* message_type = nullptr;
};

[[noreturn]] void throw_created(const py::object& lope, const py::error_already_set& error) {
  const auto is = [&](const char* name) { return lope && error.matches(lope.attr(name)); };
  if (is("InvalidConfiguration")) {
    throw InvalidConfiguration(py::str(error.value()).cast<std::string>());
  }
  throw std::runtime_error(is("Error") ? py::str(error.value()).cast<std::string>()
                                       : text_of(error));
}

// Starts Python and finds the function. Throws what a handler's constructor may.
void start(Shared& shared) {
  const Host& host = shared.host;
  start_interpreter(host, host.option_as<std::string>("venv"));
  const GiveGil give_gil;
  try {
    shared.lope = import_lope();
    const py::object& lope = shared.lope;
    const auto list_of = [&host](const char* option) {
      py::list list;
      for (const std::string& each : host.option_list(option)) list.append(each);
      return list;
    };
    lope.attr("_begin")(std::string(host.options_json()), list_of("path"), list_of("aliases"));
    shared.function = lope.attr("_find")(host.option_as<std::string>("module"),
                                         host.option_as<std::string>("file"),
                                         host.option_as<std::string>("function"));
    shared.message_type = reinterpret_cast<PyTypeObject*>(lope.attr("Message").ptr());
  } catch (const py::error_already_set& error) {
    throw_created(shared.lope, error);
  }
}

// The instances come and go at the same time, each on its thread.
class Instances {
 public:
  // The one of thread 0 starts Python, whose main thread is the worker's then. The others wait for
  // it, and fail as it does.
  Shared& shared(Host host) {
    std::unique_lock lock(mutex_);
    if (host.thread_index() == 0) {
      try {
        auto* const made = new Shared(host);
        start(*made);
        shared_ = made;
      } catch (...) {
        failure_ = std::current_exception();
      }
      changed_.notify_all();
    }
    changed_.wait(lock, [this] { return shared_ != nullptr || failure_ != nullptr; });
    if (failure_ != nullptr) std::rethrow_exception(failure_);
    return *shared_;
  }

  void began() {
    const std::lock_guard lock(mutex_);
    ++count_;
  }
  void ended() {
    const std::lock_guard lock(mutex_);
    --count_;
    changed_.notify_all();
  }
  void wait_until_last() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return count_ == 1; });
  }

 private:
  std::mutex mutex_;  // guards the rest
  std::condition_variable changed_;
  Shared* shared_ = nullptr;
  std::exception_ptr failure_;
  int count_ = 0;
};

Instances instances;

// The error that Python has just raised, with its traceback.
py::object take_error() {
  PyObject* type = nullptr;
  PyObject* value = nullptr;
  PyObject* trace = nullptr;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  if (trace != nullptr) PyException_SetTraceback(value, trace);
  Py_XDECREF(type);
  Py_XDECREF(trace);
  return py::reinterpret_steal<py::object>(value);
}

class Python final : public Handler {
 public:
  explicit Python(Host host)
      : host_(host), shared_(instances.shared(host)), is_first_(host.thread_index() == 0) {
    const WithGil gil(thread_);
    try {
      py::dict to;
      for (const char* name : {"exchange", "routing_key"}) {
        to[name] = host.option_as<std::string>(std::string("next.") + name);
      }
      handler_ =
          shared_.lope.attr("_handler")(shared_.function, host.option_as<std::string>("style"), to);
      call_ = handler_.attr("call");
      batch_ = handler_.attr("batch");
      flush_ = handler_.attr("flush");
      returned_ = shared_.lope.attr("_returned");
      failed_ = shared_.lope.attr("_failed");
    } catch (const py::error_already_set& error) {
      throw_created(shared_.lope, error);
    }
    instances.began();
  }

  // The last to go is the first. It ends with the GIL: nothing of Python runs from then on, while
  // the process exits.
  ~Python() override {
    if (is_first_) instances.wait_until_last();
    thread_.take_gil();
    end_with([&] { handler_.attr("close")(); });
    forget(held_);
    if (is_first_) end_with([&] { shared_.lope.attr("_end")(); });
    for (py::object* object : {&handler_, &call_, &batch_, &flush_, &returned_, &failed_}) {
      *object = py::object();
    }
    if (!is_first_) {
      thread_.end();
      instances.ended();
    }
  }

  Outcome handle(const Message& message) override {
    const WithGil gil(thread_);
    const py::object object = make_message(shared_.message_type, host_.raw(), message.raw());
    if (batch_.is_none()) {
      call(object);
    } else {
      py::list list;
      list.append(object);
      call_batch(list);
    }
    end_if_forked();
    return Outcome{end_call(as_message(object), held_)};
  }

  void handle_batch(Batch& batch) override {
    const WithGil gil(thread_);
    const auto object_of = [&](std::size_t i) {
      return make_message(shared_.message_type, host_.raw(), batch[i].raw());
    };
    if (batch_.is_none()) {
      for (std::size_t i = 0; i < batch.size(); ++i) {
        const py::object object = object_of(i);
        call(object);
        end_if_forked();
        batch.set(i, Outcome{end_call(as_message(object), held_)});
      }
      return;
    }
    std::vector<py::object> objects;
    py::list list;
    for (std::size_t i = 0; i < batch.size(); ++i) list.append(objects.emplace_back(object_of(i)));
    call_batch(list);
    end_if_forked();
    for (std::size_t i = 0; i < batch.size(); ++i) {
      batch.set(i, Outcome{end_call(as_message(objects[i]), held_)});
    }
  }

  void flush(FlushReason) override {
    if (flush_.is_none()) return;
    const WithGil gil(thread_);
    try {
      flush_();
    } catch (const py::error_already_set& error) {
      throw std::runtime_error(text_of(error));
    }
  }

 private:
  // A child that returns from the function would go on as a second worker.
  static void end_if_forked() {
    if (is_forked()) ::_exit(0);
  }

  void call(const py::object& message) {
    const auto result =
        py::reinterpret_steal<py::object>(PyObject_CallOneArg(call_.ptr(), message.ptr()));
    lope_outcome& outcome = as_message(message).outcome;
    if (result && result.is_none() && outcome == LOPE_NO_OUTCOME) {
      outcome = LOPE_ACK;  // as most do
      return;
    }
    if (result) {
      PyObject* const arguments[] = {message.ptr(), result.ptr()};
      Py_XDECREF(PyObject_Vectorcall(returned_.ptr(), arguments, 2, nullptr));
    }
    if (PyErr_Occurred() == nullptr) return;
    py::list list;
    list.append(message);
    failed(list);
  }

  void call_batch(const py::list& messages) {
    const auto none =
        py::reinterpret_steal<py::object>(PyObject_CallOneArg(batch_.ptr(), messages.ptr()));
    if (!none) failed(messages);
  }

  // Those that have no outcome get one.
  void failed(const py::list& messages) {
    const py::object error = take_error();
    PyObject* const arguments[] = {messages.ptr(), error.ptr()};
    const auto none = py::reinterpret_steal<py::object>(
        PyObject_Vectorcall(failed_.ptr(), arguments, 2, nullptr));
    if (none) return;
    const py::error_already_set again;
    const std::string reason = "what the function has raised cannot be told: " + text_of(again);
    for (const py::handle& each : messages) {
      MessageObject& message = as_message(each);
      if (message.outcome != LOPE_NO_OUTCOME) continue;
      message.outcome = LOPE_RETRY;
      Message(host_.raw(), message.raw).explain(reason);
    }
  }

  template <typename Function>
  void end_with(Function function) {
    try {
      function();
    } catch (const py::error_already_set& error) {
      host_.error("at the end of Python: " + text_of(error));
    }
  }

  const Host host_;
  Shared& shared_;
  const bool is_first_;
  Thread thread_;
  Held held_;
  // With the GIL.
  py::object handler_;
  py::object call_;
  py::object batch_;  // None: it takes single messages
  py::object flush_;  // None: it keeps none
  py::object returned_;
  py::object failed_;
};

}  // namespace

}  // namespace lope::python

LOPE_HANDLER_WITH(lope::python::Python, "python", "1.0.0",
                  "calls a Python function for each message", lope::python::kOptions)
