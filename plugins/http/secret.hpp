// A password or token that stands outside the configuration: in a systemd credential, a file, or a
// variable of the environment.
#pragma once

#include <sys/stat.h>

#include <lope/handler.hpp>
#include <optional>
#include <string>
#include <utility>

namespace lope::http {

class Secret {
 public:
  // From one of the options NAME.credential, NAME.file and NAME.env; nothing when none is set.
  // Throws InvalidConfiguration when there are several, and when there is no secret to be read.
  static std::optional<Secret> from_options(const Host& host, const std::string& name);

  // The secret as it is now: a file is read again when it has changed. When that fails the last one
  // stays, and the log says why.
  const std::string& get();
  // It was refused: get() reads the file again in any case.
  void forget() { seen_ = {}; }

 private:
  Secret(const Host& host, std::string option) : host_(host), option_(std::move(option)) {}
  void read();

  Host host_;
  std::string option_;  // whose, for messages
  std::string path_;    // of the file; empty: it never changes
  std::string value_;
  struct stat seen_ {};  // of the file, when it was read
  bool failing_ = false;
};

}  // namespace lope::http
