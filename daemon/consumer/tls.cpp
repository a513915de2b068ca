#include "consumer/tls.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <vector>

#include "common/fd.h"
#include "common/text.h"
#include "consumer/transport.h"

namespace lope::consumer {

namespace {

template <auto kFree>
struct Freed {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Context = std::unique_ptr<SSL_CTX, Freed<SSL_CTX_free>>;
using SslConnection = std::unique_ptr<SSL, Freed<SSL_free>>;
using Names = std::unique_ptr<GENERAL_NAMES, Freed<GENERAL_NAMES_free>>;

constexpr std::size_t kMostNames = 10;  // of a certificate, in an error
constexpr const char* kLate = "the broker has not finished the handshake in time";

// ---- The socket, as OpenSSL's own would raise SIGPIPE and keep no errno.

struct Socket {
  int fd;
  int error = 0;       // errno of what failed for good
  bool ended = false;  // the peer has
  std::array<char, 8> first{};
  std::size_t first_size = 0;  // of what was received at all
  // Nothing is received after it: OpenSSL may read on and on in one call.
  TimePoint deadline = TimePoint::max();
  bool late = false;
};

Socket& socket_of(BIO* bio) { return *static_cast<Socket*>(BIO_get_data(bio)); }

int receive(BIO* bio, char* to, std::size_t size, std::size_t* got) {
  Socket& socket = socket_of(bio);
  BIO_clear_retry_flags(bio);
  if (socket.deadline != TimePoint::max() && Clock::now() >= socket.deadline) {
    socket.late = true;
    return 0;
  }
  const ssize_t n = ::recv(socket.fd, to, size, MSG_DONTWAIT);
  if (n > 0) {
    *got = static_cast<std::size_t>(n);
    if (socket.first_size < socket.first.size()) {
      const std::size_t more = std::min(*got, socket.first.size() - socket.first_size);
      std::copy_n(to, more, socket.first.begin() + static_cast<std::ptrdiff_t>(socket.first_size));
      socket.first_size += more;
    }
    return 1;
  }
  if (n == 0) {
    socket.ended = true;
  } else if (errno == EAGAIN || errno == EINTR) {
    BIO_set_retry_read(bio);
  } else {
    socket.error = errno;
  }
  return 0;
}

int send(BIO* bio, const char* from, std::size_t size, std::size_t* taken) {
  Socket& socket = socket_of(bio);
  BIO_clear_retry_flags(bio);
  const ssize_t n = ::send(socket.fd, from, size, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n >= 0) {
    *taken = static_cast<std::size_t>(n);
    return 1;
  }
  if (errno == EAGAIN || errno == EINTR) {
    BIO_set_retry_write(bio);
  } else {
    socket.error = errno;
  }
  return 0;
}

long control(BIO* bio, int command, long, void*) {
  if (command == BIO_CTRL_EOF) return socket_of(bio).ended ? 1 : 0;
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

const BIO_METHOD* socket_method() {
  static const BIO_METHOD* const method = [] {
    BIO_METHOD* const made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket");
    if (made != nullptr) {
      BIO_meth_set_read_ex(made, receive);
      BIO_meth_set_write_ex(made, send);
      BIO_meth_set_ctrl(made, control);
    }
    return made;
  }();
  return method;
}

// ---- Texts

// OpenSSL's own words for what failed last.
std::string reason() {
  const char* const text = ERR_reason_error_string(ERR_peek_last_error());
  return text != nullptr ? text : "unknown reason";
}

std::string text_of(const ASN1_TIME* time) {
  std::tm parts{};
  char text[32];
  if (ASN1_TIME_to_tm(time, &parts) != 1 ||
      std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &parts) == 0) {
    return "an unknown time";
  }
  return text;
}

std::string text_of(const X509_NAME* name) {
  const std::unique_ptr<BIO, Freed<BIO_free_all>> out(BIO_new(BIO_s_mem()));
  if (out == nullptr ||
      X509_NAME_print_ex(out.get(), name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB) < 0) {
    return "?";
  }
  char* text = nullptr;
  const long size = BIO_get_mem_data(out.get(), &text);
  return escape({text, static_cast<std::size_t>(size)}, 200);
}

// "'mq1.example', '10.0.0.1'": those that are compared with the host.
std::string names_of(X509* certificate) {
  std::vector<std::string> found;
  bool has_dns = false;
  const Names names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    int type = 0;
    const auto* const value = static_cast<const ASN1_STRING*>(
        GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type));
    if (type != GEN_DNS && type != GEN_IPADD) continue;
    has_dns = has_dns || type == GEN_DNS;
    const auto* const data = ASN1_STRING_get0_data(value);
    const int size = ASN1_STRING_length(value);
    char address[INET6_ADDRSTRLEN];
    if (type == GEN_DNS) {
      found.push_back(
          escape({reinterpret_cast<const char*>(data), static_cast<std::size_t>(size)}, 100));
    } else if (size != sizeof(in_addr) && size != sizeof(in6_addr)) {
      found.push_back("an address of " + std::to_string(size) + " bytes");
    } else if (::inet_ntop(size == sizeof(in_addr) ? AF_INET : AF_INET6, data, address,
                           sizeof address) != nullptr) {
      found.emplace_back(address);
    }
  }
  char common_name[256];
  if (!has_dns && X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName,
                                            common_name, sizeof common_name) > 0) {
    found.push_back(escape(common_name, 100));
  }
  if (found.empty()) return "none";
  std::string text;
  for (std::size_t i = 0; i < std::min(found.size(), kMostNames); ++i) {
    text += (text.empty() ? "'" : ", '") + found[i] + "'";
  }
  return found.size() > kMostNames ? text + ", …" : text;
}

bool is_ip_address(const std::string& host) {
  unsigned char address[sizeof(in6_addr)];
  return ::inet_pton(AF_INET, host.c_str(), address) == 1 ||
         ::inet_pton(AF_INET6, host.c_str(), address) == 1;
}

// ---- The files

Result<void> readable(const std::string& what, const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return Error{errno_text(what + " '" + path + "': open", errno)};
  return {};
}

// Nobody is there to be asked for a passphrase.
int no_passphrase(char*, int, int, void* asked) {
  *static_cast<bool*>(asked) = true;
  return -1;
}

Result<void> use_own_certificate(SSL_CTX* context, const TlsSettings& settings) {
  const std::string certificate = "the client certificate '" + settings.certificate_file + "'";
  const std::string key = "the key '" + settings.key_file + "'";
  if (auto there = readable("the client certificate", settings.certificate_file); !there) {
    return there;
  }
  if (auto there = readable("the key", settings.key_file); !there) return there;
  if (SSL_CTX_use_certificate_chain_file(context, settings.certificate_file.c_str()) != 1) {
    return Error{certificate + ": expected a certificate in PEM: " + reason()};
  }
  bool asked = false;
  SSL_CTX_set_default_passwd_cb(context, no_passphrase);
  SSL_CTX_set_default_passwd_cb_userdata(context, &asked);
  const bool used =
      SSL_CTX_use_PrivateKey_file(context, settings.key_file.c_str(), SSL_FILETYPE_PEM) == 1;
  SSL_CTX_set_default_passwd_cb_userdata(context, nullptr);
  if (asked) return Error{key + ": expected one without a passphrase"};
  // Of another kind, it is found out only when both are compared.
  const bool mismatch = used ? SSL_CTX_check_private_key(context) != 1
                             : ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH;
  if (mismatch) return Error{key + " is not the key of " + certificate};
  if (!used) return Error{key + ": expected a private key in PEM: " + reason()};
  return {};
}

// The store of a context with `ca_file`, or the system's.
Result<void> use_authorities(SSL_CTX* context, const TlsSettings& settings) {
  if (settings.ca_file.empty()) {
    if (SSL_CTX_set_default_verify_paths(context) == 1) return {};
    return Error{"the system's CA certificates: " + reason()};
  }
  if (auto there = readable("the CA certificates", settings.ca_file); !there) return there;
  // The CA that has signed the broker's certificate is enough, without those above it.
  X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_PARTIAL_CHAIN);
  if (SSL_CTX_load_verify_file(context, settings.ca_file.c_str()) == 1) return {};
  return Error{"the CA certificates '" + settings.ca_file +
               "': expected certificates in PEM: " + reason()};
}

}  // namespace

struct Tls::Impl {
  Impl(int fd, const TlsSettings& of) : socket{.fd = fd}, settings(of) {}

  Result<void> prepare(const std::string& host);
  Result<void> shake_hands(TimePoint deadline);
  // The call before failed for good.
  Error failure() {
    lost = why_lost();
    return Error{lost};
  }
  std::string why_lost() const;

  static Impl& of(const SSL* ssl) { return *static_cast<Impl*>(SSL_get_app_data(ssl)); }
  static int on_verified(int trusted, X509_STORE_CTX* store);
  static int on_asked_for_own(SSL* ssl, X509** certificate, EVP_PKEY** key);
  std::string about_certificate(X509_STORE_CTX* store) const;
  std::string about_alert(int alert) const;

  Socket socket;
  const TlsSettings settings;
  std::string name;            // that the peer's certificate is to have
  std::string distrust;        // why it is not trusted
  bool asked_for_own = false;  // for a certificate of ours, and there is none
  bool established = false;
  std::string lost;  // why nothing can be read or written any more
  Context context;
  SslConnection session;  // goes before its context
};

int Tls::Impl::on_verified(int trusted, X509_STORE_CTX* store) {
  const auto* const ssl = static_cast<const SSL*>(
      X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  Impl& impl = of(ssl);
  if (trusted == 0 && impl.distrust.empty()) impl.distrust = impl.about_certificate(store);
  return trusted;
}

int Tls::Impl::on_asked_for_own(SSL* ssl, X509**, EVP_PKEY**) {
  of(ssl).asked_for_own = true;
  return 0;  // none
}

std::string Tls::Impl::about_certificate(X509_STORE_CTX* store) const {
  X509* const certificate = X509_STORE_CTX_get_current_cert(store);
  const int error = X509_STORE_CTX_get_error(store);
  const std::string words = X509_verify_cert_error_string(error);
  if (certificate == nullptr) return "the broker's certificate: " + words;
  const std::string subject = text_of(X509_get_subject_name(certificate));
  const std::string which = X509_STORE_CTX_get_error_depth(store) == 0
                                ? "the broker's certificate"
                                : "'" + subject + "', in the broker's chain of certificates,";
  switch (error) {
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
    case X509_V_ERR_CERT_UNTRUSTED:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
      return "the broker's certificate is not signed by a known CA: expected one of " +
             (settings.ca_file.empty() ? "the system's" : "those in '" + settings.ca_file + "'") +
             ", found '" + text_of(X509_get_issuer_name(certificate)) + "'";
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return "the broker's certificate has another name: expected '" + escape(name, 200) +
             "', found " + names_of(certificate);
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return which + " has expired: it was valid until " + text_of(X509_get0_notAfter(certificate));
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return which + " is not valid yet: it will be from " +
             text_of(X509_get0_notBefore(certificate)) + " (or this machine's clock is wrong)";
    default: return which + " is not to be trusted: " + words;
  }
}

// What the peer said when it ended the connection.
std::string Tls::Impl::about_alert(int alert) const {
  const std::string own = "the client certificate '" + settings.certificate_file + "'";
  const X509* const certificate = SSL_get_certificate(session.get());
  const std::string words = SSL_alert_desc_string_long(alert);
  if (alert == SSL_AD_PROTOCOL_VERSION) {
    return "the broker speaks only older versions of TLS: expected 1.2 or later";
  }
  if (certificate == nullptr &&
      (alert == SSL_AD_CERTIFICATE_REQUIRED ||
       (asked_for_own && (alert == SSL_AD_HANDSHAKE_FAILURE || alert == SSL_AD_BAD_CERTIFICATE)))) {
    return "the broker wants a client certificate: expected one with its key, found none";
  }
  if (certificate == nullptr) return "the broker ends the connection: " + words;
  switch (alert) {
    case SSL_AD_UNKNOWN_CA:
      return "the broker knows no CA that has signed " + own + ": found '" +
             text_of(X509_get_issuer_name(certificate)) + "'";
    case SSL_AD_CERTIFICATE_EXPIRED:
      return "the broker refuses " + own + ": it was valid until " +
             text_of(X509_get0_notAfter(certificate));
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_ACCESS_DENIED: return "the broker refuses " + own + ": " + words;
    default: return "the broker ends the connection: " + words;
  }
}

std::string Tls::Impl::why_lost() const {
  if (!distrust.empty()) return distrust;
  const unsigned long code = ERR_peek_error();
  const int why = ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;
  if (why > SSL_AD_REASON_OFFSET) return about_alert(why - SSL_AD_REASON_OFFSET);
  if (established) {
    if (socket.error != 0) return errno_text("socket", socket.error);
    if (socket.ended || code == 0) return "the broker has closed the connection";
    return "TLS: " + reason();
  }
  constexpr char kFirstOfTls = 20, kLastOfTls = 23;  // kinds of its records
  if (socket.first_size > 0 && (socket.first[0] < kFirstOfTls || socket.first[0] > kLastOfTls)) {
    const bool amqp = std::string_view(socket.first.data(), 4) == "AMQP";
    return std::string(
               "the broker speaks no TLS on this port: expected a TLS listener (5671, as a "
               "rule), found ") +
           (amqp ? "AMQP in plain text" : "something else");
  }
  if (why == SSL_R_UNSUPPORTED_PROTOCOL || why == SSL_R_WRONG_SSL_VERSION ||
      why == SSL_R_VERSION_TOO_LOW) {
    return about_alert(SSL_AD_PROTOCOL_VERSION);
  }
  if (socket.late) return kLate;
  if (socket.error != 0) return errno_text("the handshake", socket.error);
  if (socket.ended) return "the broker closed the connection during the handshake";
  return reason();
}

Result<void> Tls::Impl::prepare(const std::string& host) {
  context.reset(SSL_CTX_new(TLS_client_method()));
  if (context == nullptr || SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION) != 1) {
    return Error{reason()};
  }
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_mode(context.get(),
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  // One recv() for many records.
  SSL_CTX_set_read_ahead(context.get(), 1);
  SSL_CTX_set_default_read_buffer_len(context.get(), kReadAhead);
  if (!settings.insecure) {
    if (auto used = use_authorities(context.get(), settings); !used) return used;
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, on_verified);
  }
  if (!settings.certificate_file.empty()) {
    if (auto used = use_own_certificate(context.get(), settings); !used) return used;
  } else {
    SSL_CTX_set_client_cert_cb(context.get(), on_asked_for_own);
  }

  session.reset(SSL_new(context.get()));
  if (session == nullptr) return Error{reason()};
  SSL_set_app_data(session.get(), this);
  name = settings.server_name.empty() ? host : settings.server_name;
  if (name.ends_with('.')) name.pop_back();  // certificates do not have it
  if (name.empty()) return Error{"the name of the broker: expected one, found '.'"};
  SSL_set_hostflags(session.get(), X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  const bool named =
      is_ip_address(name)
          ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(session.get()), name.c_str()) == 1
          : SSL_set1_host(session.get(), name.c_str()) == 1 &&
                SSL_set_tlsext_host_name(session.get(), name.c_str()) == 1;
  if (!named) return Error{"the name '" + escape(name, 200) + "': " + reason()};
  BIO* const bio = BIO_new(socket_method());
  if (bio == nullptr) return Error{reason()};
  BIO_set_data(bio, &socket);
  BIO_set_init(bio, 1);
  SSL_set_bio(session.get(), bio, bio);
  return {};
}

Result<void> Tls::Impl::shake_hands(TimePoint deadline) {
  socket.deadline = deadline;
  while (true) {
    ERR_clear_error();
    const int done = SSL_connect(session.get());
    if (done == 1) break;
    const int error = SSL_get_error(session.get(), done);
    if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) return failure();
    const auto ready =
        wait_for(socket.fd, error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, deadline);
    if (!ready) return Error{ready.error()};
    if (!*ready) return Error{kLate};
  }
  socket.deadline = TimePoint::max();
  established = true;
  return {};
}

Result<std::unique_ptr<Tls>> Tls::connect(int fd, const TlsSettings& settings,
                                          const std::string& host, TimePoint deadline) {
  // Whoever ends the process does not wait for the thread that shakes hands just now.
  OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, nullptr);
  ERR_clear_error();
  auto impl = std::make_unique<Impl>(fd, settings);
  if (auto prepared = impl->prepare(host); !prepared) return Error{prepared.error()};
  if (auto shaken = impl->shake_hands(deadline); !shaken) return Error{shaken.error()};
  return std::unique_ptr<Tls>(new Tls(std::move(impl)));
}

Tls::Tls(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Tls::~Tls() {
  if (!impl_->lost.empty()) return;
  ERR_clear_error();
  SSL_shutdown(impl_->session.get());
}

Result<std::size_t> Tls::read(std::span<iovec> parts) {
  SSL* const session = impl_->session.get();
  std::size_t got = 0;
  reading_needs_room_ = false;
  if (!impl_->lost.empty()) return Error{impl_->lost};
  for (const iovec& part : parts) {
    for (std::size_t filled = 0; filled < part.iov_len;) {
      std::size_t count = 0;
      ERR_clear_error();
      if (SSL_read_ex(session, static_cast<char*>(part.iov_base) + filled, part.iov_len - filled,
                      &count) == 1) {
        filled += count;
        got += count;
        continue;
      }
      const int error = SSL_get_error(session, 0);
      reading_needs_room_ = error == SSL_ERROR_WANT_WRITE;
      if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return got;
      const Error failure = impl_->failure();
      if (got == 0) return failure;
      return got;  // and the next read fails
    }
  }
  return got;
}

Result<std::size_t> Tls::write(std::string_view bytes) {
  std::size_t count = 0;
  if (!impl_->lost.empty()) return Error{impl_->lost};
  ERR_clear_error();
  if (SSL_write_ex(impl_->session.get(), bytes.data(), bytes.size(), &count) == 1) return count;
  const int error = SSL_get_error(impl_->session.get(), 0);
  if (error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ) return std::size_t{0};
  return Error{impl_->why_lost()};  // what the peer has said of it can still be read
}

std::string Tls::version() const { return SSL_get_version(impl_->session.get()); }

std::string Tls::own_name() const {
  const X509* const certificate = SSL_get_certificate(impl_->session.get());
  return certificate == nullptr ? "" : text_of(X509_get_subject_name(certificate));
}

}  // namespace lope::consumer
