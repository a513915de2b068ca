#include "interpreter.h"

#include <dlfcn.h>
#include <pthread.h>
#include <pybind11/embed.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string_view>

#include "message.h"

namespace lope::python {

namespace {

const Host* log_host = nullptr;  // of the instance of thread 0, which is the last to go
bool forked = false;

Level level_of(int python_level) {
  if (python_level >= 40) return Level::error;
  if (python_level >= 30) return Level::warn;
  return python_level >= 20 ? Level::info : Level::debug;
}

bool log_enabled(int level) {
  return forked || (log_host != nullptr && log_host->log_enabled(level_of(level)));
}

// In a forked process, to the worker's standard error, which becomes lines of the log too.
void log(int level, const py::object& text) {
  if (!log_enabled(level)) return;
  const auto bytes = py::reinterpret_steal<py::object>(
      PyUnicode_AsEncodedString(text.ptr(), "utf-8", "backslashreplace"));
  if (!bytes) throw py::error_already_set();
  std::string line(PyBytes_AS_STRING(bytes.ptr()),
                   static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.ptr())));
  if (!forked) {
    log_host->log(level_of(level), line);
    return;
  }
  line += '\n';
  const int stream = level_of(level) >= Level::warn ? STDERR_FILENO : STDOUT_FILENO;
  for (std::string_view left = line; !left.empty();) {
    const ssize_t n = ::write(stream, left.data(), left.size());
    if (n < 0 && errno != EINTR) return;  // nobody to tell
    if (n > 0) left.remove_prefix(static_cast<std::size_t>(n));
  }
}

PYBIND11_EMBEDDED_MODULE(_lope, module) {
  add_message_types(module);
  module.def("log", log);
  module.def("log_enabled", log_enabled);
  module.def(
      "stopping", [] { return !forked && log_host->stopping(); },
      "Whether the daemon is stopping: finish soon.");
  module.attr("group") = py::str(std::string(log_host->group()));
  module.attr("worker_index") = log_host->worker_index();
}

// Modules in C expect the symbols of libpython to be there for all, as they are in `python3`.
// A handler is loaded for itself alone, and what it needs with it.
void share_libpython() {
  Dl_info info{};
  void* const some = reinterpret_cast<void*>(&Py_InitializeFromConfig);
  if (::dladdr(some, &info) == 0 ||
      ::dlopen(info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD) == nullptr) {
    const char* const text = ::dlerror();
    throw std::runtime_error(std::string("cannot share libpython with its modules: ") +
                             (text == nullptr ? "it is not found" : text));
  }
}

// What Python does itself where it installs its handlers of signals: there, writing to a closed
// socket is an error and no end.
void ignore_as_python_does() {
  for (const int signal : {SIGPIPE, SIGXFSZ}) {
    struct sigaction action {};
    if (::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_DFL) {
      ::signal(signal, SIG_IGN);
    }
  }
}

// The program whose libraries are used; it is what sys.executable says, and what makes a process of
// its own for multiprocessing.
std::string program_of(const std::string& venv) {
  if (venv.empty()) return LOPE_PYTHON_PROGRAM;
  namespace fs = std::filesystem;
  const std::string packages = venv + "/lib/" LOPE_PYTHON_NAME "/site-packages";
  std::error_code error;
  if (!fs::is_regular_file(venv + "/pyvenv.cfg", error)) {
    throw InvalidConfiguration("option 'venv': expected a virtual environment, found no '" + venv +
                               "/pyvenv.cfg'");
  }
  if (!fs::is_directory(packages, error)) {
    throw InvalidConfiguration("option 'venv': expected a virtual environment of " LOPE_PYTHON_NAME
                               ", found no '" +
                               packages + "'");
  }
  return venv + "/bin/python";
}

void check(const PyStatus& status) {
  if (PyStatus_Exception(status) == 0) return;
  throw std::runtime_error(std::string("Python does not start: ") +
                           (status.err_msg == nullptr ? "it exits" : status.err_msg));
}

struct Config : PyConfig {
  Config() { PyConfig_InitPythonConfig(this); }
  Config(const Config&) = delete;
  Config& operator=(const Config&) = delete;
  ~Config() { PyConfig_Clear(this); }
};

void run_source(const char* name, const char* source) {
  const std::string file = "<" + std::string(name) + ">";
  const auto code =
      py::reinterpret_steal<py::object>(Py_CompileString(source, file.c_str(), Py_file_input));
  if (!code) throw py::error_already_set();
  const auto module = py::reinterpret_steal<py::object>(PyImport_ExecCodeModule(name, code.ptr()));
  if (!module) throw py::error_already_set();
}

}  // namespace

void start_interpreter(const Host& host, const std::string& venv) {
  log_host = &host;
  const std::string program = program_of(venv);
  share_libpython();
  ignore_as_python_does();
#if defined(__SANITIZE_ADDRESS__)
  // What Python's own allocator hands out is nothing that a search for leaks looks through.
  PyPreConfig before;
  PyPreConfig_InitPythonConfig(&before);
  before.allocator = PYMEM_ALLOCATOR_MALLOC;
  check(Py_PreInitialize(&before));
#endif
  Config config;
  config.install_signal_handlers = 0;
  config.parse_argv = 0;
  config.buffered_stdio = 0;
  config.faulthandler = 1;
  check(PyConfig_SetBytesString(&config, &config.program_name, program.c_str()));
  check(Py_InitializeFromConfig(&config));
  ::pthread_atfork(nullptr, nullptr, [] { forked = true; });
}

py::module_ import_lope() {
  py::module_::import("_lope");
  run_source("lope", kLopeSource);
  run_source("lope.consume", kConsumeSource);
  py::module_ lope = py::module_::import("lope");
  lope.attr("consume") = py::module_::import("lope.consume");
  return lope;
}

bool is_forked() { return forked; }

std::string text_of(const py::error_already_set& error) {
  const std::string type = reinterpret_cast<PyTypeObject*>(error.type().ptr())->tp_name;
  try {
    return type + ": " + py::str(error.value()).cast<std::string>();
  } catch (const std::exception&) {
    return type;
  }
}

}  // namespace lope::python
