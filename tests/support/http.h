// A client of the monitor, for tests: it says what it likes, and hears the whole answer.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "common/fd.h"
#include "support/eventually.h"

namespace lope::test {

struct HttpReply {
  int status = 0;  // 0: there was no answer
  std::string head;
  std::string body;
};

// A connection to a port of 127.0.0.1. Throws std::runtime_error when there is none to be had.
class HttpClient {
 public:
  explicit HttpClient(int port);

  // False: the other side has closed.
  bool say(std::string_view bytes);
  // The next answer on this connection; of one to HEAD the body is not waited for.
  HttpReply hear(bool has_body = true, std::chrono::milliseconds deadline = 10s);
  // Has the other side closed, or reset, the connection by then?
  bool ended(std::chrono::milliseconds deadline = 10s);

 private:
  bool receive(std::chrono::steady_clock::time_point end);

  UniqueFd socket_;
  std::string input_;
};

// A GET on a connection of its own. Status 0 when nobody is there, or nothing came.
HttpReply http_get(int port, const std::string& path, const std::string& headers = "");

}  // namespace lope::test
