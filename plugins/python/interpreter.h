// Python in this process: one interpreter, started once and never finalized, since what it has
// loaded may outlive any moment that could be chosen.
#pragma once

#include <pybind11/pybind11.h>

#include <lope/handler.hpp>
#include <string>

namespace lope::python {

namespace py = pybind11;

// The modules lope and lope.consume: built in, as the handler may be loaded from a private copy.
extern const char* const kLopeSource;
extern const char* const kConsumeSource;

// Starts Python, with the calling thread as its main thread, which has the GIL then. `host` is that
// of this thread, and what all threads of Python log to; it has to stay. `venv`: the folder of a
// virtual environment, or empty. Throws InvalidConfiguration, std::runtime_error.
void start_interpreter(const Host& host, const std::string& venv);

// The module lope, with its own modules behind it. With the GIL. Throws py::error_already_set.
py::module_ import_lope();

// Whether this is a process that was forked from the worker, which the host knows nothing of.
bool is_forked();

// The text of a Python error: "ValueError: no".
std::string text_of(const py::error_already_set& error);

// A handler's thread as Python knows it.
class Thread {
 public:
  // Of the thread that has started Python, and has the GIL; or a new one, without it.
  Thread() : state_(PyGILState_GetThisThreadState()) {
    if (state_ == nullptr) state_ = PyThreadState_New(PyInterpreterState_Main());
  }
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

  void take_gil() { PyEval_RestoreThread(state_); }
  static void give_gil() { PyEval_SaveThread(); }
  // With the GIL, which is given up with it. Not for Python's main thread.
  void end() {
    PyThreadState_Clear(state_);
    PyThreadState_DeleteCurrent();
  }

 private:
  PyThreadState* state_;
};

// The GIL, for a scope.
class WithGil {
 public:
  explicit WithGil(Thread& thread) { thread.take_gil(); }
  WithGil(const WithGil&) = delete;
  WithGil& operator=(const WithGil&) = delete;
  ~WithGil() { Thread::give_gil(); }
};

}  // namespace lope::python
