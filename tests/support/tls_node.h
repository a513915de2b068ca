// A node of its own with a TLS listener, and a Broker on it; gone with the object.
#pragma once

#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/broker.h"
#include "support/certificates.h"

namespace lope::test {

class TlsNode {
 public:
  TlsNode() {
    certificates.sign("server", "DNS:localhost,DNS:mq.example,IP:127.0.0.1");
    certificates.sign("app");
    std::string url;
    try {
      url = script({"start", folder_, certificates.folder()});
      port_ = std::stoi(script({"tls-port", folder_}));
    } catch (...) {
      remove();
      throw;
    }
    url.erase(url.find_last_not_of('\n') + 1);
    set("LOPE_TEST_AMQP_URL", url);
    set("LOPE_TEST_BROKER_DIR", folder_);
    broker.emplace();
  }
  TlsNode(const TlsNode&) = delete;
  TlsNode& operator=(const TlsNode&) = delete;
  ~TlsNode() {
    broker.reset();
    for (const auto& [name, value] : before_) {
      if (value) {
        ::setenv(name.c_str(), value->c_str(), 1);
      } else {
        ::unsetenv(name.c_str());
      }
    }
    remove();
  }

  std::string url(const std::string& user = "guest:guest@", const std::string& host = "127.0.0.1",
                  const std::string& vhost = "") const {
    return "amqps://" + user + host + ":" + std::to_string(port_) + vhost;
  }
  // The configuration's broker, with what stands in its `tls`.
  std::string with(const std::string& tls = "", const std::string& more = "") const {
    return "{ url: \"" + url() + "\", " + more + "tls: { ca: " + certificates.at("ca.pem") + tls +
           " } }";
  }
  // With a client certificate, which says who it is.
  std::string as(const std::string& name) const {
    return "{ url: \"" + url("") + "\", login: external, tls: { ca: " + certificates.at("ca.pem") +
           ", certificate: " + certificates.at(name + ".pem") +
           ", key: " + certificates.at(name + ".key") + " } }";
  }
  int port() const { return port_; }

  Certificates certificates;
  std::optional<Broker> broker;

 private:
  static constexpr const char* kScript = LOPE_SOURCE_DIR "/tests/support/broker.sh";

  static std::string script(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), kScript);
    const RunResult result = run(arguments, {}, 120s);
    if (result.status != exited(0)) throw std::runtime_error("broker.sh: " + result.output);
    return result.output;
  }
  void remove() const { run({kScript, "remove", folder_}, {}, 120s); }
  void set(const char* name, const std::string& value) {
    const char* const old = std::getenv(name);
    before_.emplace_back(name, old != nullptr ? std::optional<std::string>(old) : std::nullopt);
    ::setenv(name, value.c_str(), 1);
  }

  TempDir files_;
  const std::string folder_ = files_.file("tls");
  int port_ = 0;
  std::vector<std::pair<std::string, std::optional<std::string>>> before_;
};

}  // namespace lope::test
