// What is verified of a TLS peer, and what is said of each that is refused. The peers are openssl's
// own server.
#include "consumer/tls.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/fd.h"
#include "consumer/transport.h"
#include "support/certificates.h"
#include "support/loopback.h"
#include "support/tcp_server.h"

namespace lope::consumer {

using namespace lope::test;
using Catch::Contains;

namespace {

// An openssl s_server with a certificate of the folder.
class Peer {
 public:
  explicit Peer(const Certificates& certificates, const std::string& name,
                std::vector<std::string> more = {}) {
    std::vector<std::string> argv = {"openssl",
                                     "s_server",
                                     "-accept",
                                     "127.0.0.1:0",
                                     "-www",
                                     "-cert",
                                     certificates.at(name + ".pem"),
                                     "-key",
                                     certificates.at(name + ".key")};
    argv.insert(argv.end(), more.begin(), more.end());
    process_ = std::make_unique<Process>(argv);
    const auto line = process_->wait_for_line("ACCEPT 127.0.0.1:", 20s);
    INFO(process_->output());
    REQUIRE(line);
    port_ = std::stoi(line->substr(line->rfind(':') + 1));
  }
  int port() const { return port_; }

 private:
  std::unique_ptr<Process> process_;
  int port_ = 0;
};

UniqueFd connect_to(int port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_in address = loopback(port);
  ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  REQUIRE(*wait_for(fd.get(), POLLOUT, Clock::now() + 10s));
  return fd;
}

TlsSettings trusting(const std::string& ca_file) {
  TlsSettings settings;
  settings.ca_file = ca_file;
  return settings;
}

// "TLSv1.3" when the peer is trusted and trusts us, otherwise why not.
std::string meet(int port, const TlsSettings& settings, const std::string& host = "127.0.0.1",
                 std::chrono::milliseconds timeout = 20s) {
  Transport transport(connect_to(port));
  const TimePoint deadline = Clock::now() + timeout;
  if (auto begun = transport.begin_tls(settings, host, deadline); !begun) return begun.error();
  const std::string version = transport.tls()->version();
  // What the peer thinks of our certificate comes behind the handshake; its answer, else.
  (void)transport.write("GET / HTTP/1.0\r\n\r\n");
  char byte = 0;
  iovec part{&byte, 1};
  while (true) {
    const auto read = transport.read({&part, 1});
    if (!read) return read.error();
    if (*read > 0) return version;
    if (!*wait_for(transport.fd(), POLLIN, deadline)) return "silence";
  }
}

int port_of(const TcpServer& server) {
  const std::string url = server.url();
  return std::stoi(url.substr(url.rfind(':') + 1));
}

}  // namespace

TEST_CASE("a peer is trusted by its CA and its name", "[unit][tls]") {
  const Certificates certificates;
  certificates.sign("server", "DNS:mq.example,DNS:*.wild.example,IP:127.0.0.1,IP:::1");
  const Peer peer(certificates, "server");
  const TlsSettings known = trusting(certificates.at("ca.pem"));
  TlsSettings named = known;
  named.server_name = "mq.example";
  CHECK(meet(peer.port(), known) == "TLSv1.3");
  CHECK(meet(peer.port(), known, "::1") == "TLSv1.3");
  CHECK(meet(peer.port(), known, "mq.example") == "TLSv1.3");
  CHECK(meet(peer.port(), known, "mq.example.") == "TLSv1.3");
  CHECK(meet(peer.port(), known, "a.wild.example") == "TLSv1.3");
  CHECK(meet(peer.port(), named, "elsewhere") == "TLSv1.3");

  const std::string found = "', found 'mq.example', '*.wild.example', '127.0.0.1', '::1'";
  CHECK(meet(peer.port(), known, "127.0.0.2") ==
        "the broker's certificate has another name: expected '127.0.0.2" + found);
  CHECK(meet(peer.port(), known, "wild.example") ==
        "the broker's certificate has another name: expected 'wild.example" + found);
  named.server_name = "other.example";
  CHECK(meet(peer.port(), named, "mq.example") ==
        "the broker's certificate has another name: expected 'other.example" + found);

  TlsSettings other = trusting(certificates.at("other.pem"));
  CHECK(meet(peer.port(), other) ==
        "the broker's certificate is not signed by a known CA: expected one of those in '" +
            other.ca_file + "', found 'CN=ca'");
  CHECK(meet(peer.port(), {}) ==
        "the broker's certificate is not signed by a known CA: expected one of the system's, found "
        "'CN=ca'");
  other.insecure = true;
  CHECK(meet(peer.port(), other, "elsewhere") == "TLSv1.3");

  // Without a name nothing would be compared.
  named.server_name = ".";
  const std::string none = "the name of the broker: expected one, found '.'";
  CHECK(meet(peer.port(), named, "mq.example") == none);
  CHECK(meet(peer.port(), known, ".") == none);
}

TEST_CASE("any of the chain is enough to trust a peer", "[unit][tls]") {
  const Certificates certificates;
  certificates.sign("issuing", "DNS:issuing\\nbasicConstraints=CA:true");
  certificates.sign("server", "IP:127.0.0.1", "issuing");
  const Peer peer(certificates, "server", {"-cert_chain", certificates.at("issuing.pem")});
  for (const char* known : {"ca.pem", "issuing.pem", "server.pem"}) {
    INFO(known);
    CHECK(meet(peer.port(), trusting(certificates.at(known))) == "TLSv1.3");
  }
  CHECK_THAT(meet(peer.port(), trusting(certificates.at("other.pem"))),
             Contains("not signed by a known CA"));
  CHECK_THAT(meet(peer.port(), trusting(certificates.at("issuing.pem")), "127.0.0.2"),
             Contains("another name"));
}

TEST_CASE("a certificate's addresses are shown, whatever their lengths", "[unit][tls]") {
  const Certificates certificates;
  // Three IP addresses, of 1, 4 and 5 bytes.
  certificates.sign("server", "DER:30:10:87:01:0A:87:04:0A:00:00:01:87:05:01:02:03:04:05");
  const Peer peer(certificates, "server");
  CHECK(meet(peer.port(), trusting(certificates.at("ca.pem"))) ==
        "the broker's certificate has another name: expected '127.0.0.1', found 'an address of 1 "
        "bytes', '10.0.0.1', 'an address of 5 bytes', 'server'");
}

TEST_CASE("a handshake has its end in time, however much the peer sends", "[unit][tls]") {
  // HelloRequests, which a client passes over one after another.
  std::string record("\x16\x03\x03\x04\x00", 5);
  record.append(1024, '\0');
  std::string flood;
  for (int i = 0; i < 10'000; ++i) flood += record;
  std::atomic<bool> stop = false;
  const Listener listener = listen_on_loopback(1);
  std::thread peer([&] {
    const UniqueFd fd(::accept(listener.fd.get(), nullptr, nullptr));
    const TimePoint end = Clock::now() + 10s;
    std::size_t at = 0;
    while (!stop && Clock::now() < end) {
      if (!*wait_for(fd.get(), POLLOUT, Clock::now() + 100ms)) continue;
      const ssize_t n =
          ::send(fd.get(), flood.data() + at, flood.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno != EAGAIN) return;
      if (n > 0) at = (at + static_cast<std::size_t>(n)) % flood.size();
    }
  });
  const TimePoint begun = Clock::now();
  const std::string met = meet(listener.port, {}, "127.0.0.1", 300ms);
  const auto took = Clock::now() - begun;
  stop = true;
  peer.join();
  CHECK(met == "the broker has not finished the handshake in time");
  CHECK(took < 5s);
}

TEST_CASE("a certificate is trusted in its time alone", "[unit][tls]") {
  const Certificates certificates;
  const TlsSettings known = trusting(certificates.at("ca.pem"));
  certificates.sign("old", "IP:127.0.0.1", "ca", -3, -1);
  CHECK_THAT(meet(Peer(certificates, "old").port(), known),
             Catch::Matches("the broker's certificate has expired: it was valid until "
                            "20[0-9-]* [0-9:]* UTC"));
  certificates.sign("new", "IP:127.0.0.1", "ca", 1, 2);
  CHECK_THAT(meet(Peer(certificates, "new").port(), known),
             Catch::Matches("the broker's certificate is not valid yet: it will be from "
                            "20[0-9-]* [0-9:]* UTC .*"));
}

TEST_CASE("a peer without TLS 1.2 is refused, and one without TLS", "[unit][tls]") {
  const Certificates certificates;
  certificates.sign("server", "IP:127.0.0.1");
  const TlsSettings known = trusting(certificates.at("ca.pem"));
  CHECK(meet(Peer(certificates, "server", {"-tls1_2"}).port(), known) == "TLSv1.2");
  CHECK(meet(Peer(certificates, "server", {"-tls1_1", "-cipher", "ALL:@SECLEVEL=0"}).port(),
             known) == "the broker speaks only older versions of TLS: expected 1.2 or later");

  const std::string no_tls =
      "the broker speaks no TLS on this port: expected a TLS listener (5671, as a rule), found ";
  const TcpServer plain(std::string("AMQP\0\0\x09\x01", 8));
  CHECK(meet(port_of(plain), known) == no_tls + "AMQP in plain text");
  const TcpServer web("HTTP/1.1 400 Bad Request\r\n\r\n");
  CHECK(meet(port_of(web), known) == no_tls + "something else");
  const TcpServer silent(TcpServer::Behaviour::silent);
  CHECK(meet(port_of(silent), known, "127.0.0.1", 300ms) ==
        "the broker has not finished the handshake in time");
  const TcpServer reset(TcpServer::Behaviour::reset);
  CHECK_THAT(meet(port_of(reset), known),
             Contains("Connection reset by peer") || Contains("Broken pipe"));
}

TEST_CASE("a peer that wants a certificate is shown ours, or says why not", "[unit][tls]") {
  const Certificates certificates;
  certificates.sign("server", "IP:127.0.0.1");
  certificates.sign("client");
  certificates.sign("stranger", "", "other");
  certificates.sign("old", "", "ca", -3, -1);
  const std::string version = GENERATE("-tls1_2", "-tls1_3");
  CAPTURE(version);
  const Peer peer(
      certificates, "server",
      {version, "-Verify", "1", "-verify_return_error", "-CAfile", certificates.at("ca.pem")});
  const auto as = [&](const std::string& name) {
    TlsSettings settings = trusting(certificates.at("ca.pem"));
    if (!name.empty()) {
      settings.certificate_file = certificates.at(name + ".pem");
      settings.key_file = certificates.at(name + ".key");
    }
    return meet(peer.port(), settings);
  };
  CHECK(as("client") == (version == "-tls1_2" ? "TLSv1.2" : "TLSv1.3"));
  CHECK(as("") == "the broker wants a client certificate: expected one with its key, found none");
  CHECK(as("stranger") == "the broker knows no CA that has signed the client certificate '" +
                              certificates.at("stranger.pem") + "': found 'CN=other'");
  CHECK_THAT(as("old"), Contains("the broker refuses the client certificate '" +
                                 certificates.at("old.pem") + "': it was valid until 20"));
}

TEST_CASE("files that are no good are named, with what is wrong", "[unit][tls]") {
  const Certificates certificates;
  certificates.sign("server", "IP:127.0.0.1");
  certificates.sign("client");
  const TempDir files;
  const std::string text = files.write("text", "no PEM\n");
  const std::string locked = files.file("locked");
  REQUIRE(run({"openssl", "ec", "-aes256", "-passout", "pass:hunter2", "-in",
               certificates.at("client.key"), "-out", locked})
              .status == exited(0));
  const std::string ca = certificates.at("ca.pem"), pem = certificates.at("client.pem"),
                    key = certificates.at("client.key"), rsa = files.file("rsa");
  REQUIRE(run({"openssl", "genrsa", "-out", rsa, "2048"}).status == exited(0));
  const Peer peer(certificates, "server");
  const auto with = [&](const std::string& ca_file, const std::string& certificate,
                        const std::string& key_file) {
    return meet(peer.port(), {ca_file, certificate, key_file, "", false});
  };
  CHECK(with(ca, pem, key) == "TLSv1.3");
  CHECK(with("/none", pem, key) == "the CA certificates '/none': open: No such file or directory");
  CHECK_THAT(with(text, pem, key),
             Contains("the CA certificates '" + text + "': expected certificates in PEM: "));
  CHECK(with(ca, "/none", key) ==
        "the client certificate '/none': open: No such file or directory");
  CHECK_THAT(with(ca, text, key),
             Contains("the client certificate '" + text + "': expected a certificate in PEM: "));
  CHECK(with(ca, pem, "/none") == "the key '/none': open: No such file or directory");
  CHECK_THAT(with(ca, pem, text),
             Contains("the key '" + text + "': expected a private key in PEM: "));
  CHECK(with(ca, pem, locked) == "the key '" + locked + "': expected one without a passphrase");
  for (const std::string& other : {certificates.at("server.key"), rsa}) {
    CHECK(with(ca, pem, other) ==
          "the key '" + other + "' is not the key of the client certificate '" + pem + "'");
  }
}

}  // namespace lope::consumer
