// Certificates of a test's own, made by openssl in a folder that goes with the object.
#pragma once

#include <stdexcept>
#include <string>

#include "support/process.h"
#include "support/temp_dir.h"

namespace lope::test {

class Certificates {
 public:
  // A CA in ca.pem and ca.key, and another one, which has signed nothing, in other.pem.
  Certificates() {
    make(
        "authority() { key $1; openssl req -x509 -new -key $1.key -subj /CN=$1 -days 2 -out "
        "$1.pem; }\n"
        "authority ca; authority other");
  }

  // NAME.pem and NAME.key: signed by the CA `by`, for CN=NAME and these alternative names
  // ("DNS:localhost,IP:127.0.0.1"), from `from` days from now until `until` days from now.
  void sign(const std::string& name, const std::string& names = "", const std::string& by = "ca",
            int from = -1, int until = 2) const {
    const auto day = [](int days) {
      return "$(date -u -d '" + std::to_string(days) + " days' +%Y%m%d%H%M%SZ)";
    };
    // `openssl x509` of Debian 12 knows no -not_before.
    make("key " + name + "\nopenssl req -new -key " + name + ".key -subj /CN=" + name + " -out " +
         name + ".csr\n" +
         "printf "
         "'[ca]\\ndefault_ca=c\\n[c]\\ndatabase=index\\nnew_certs_dir=.\\ndefault_md=sha256\\n"
         "policy=p\\nrand_serial=yes\\nunique_subject=no\\n[p]\\ncommonName=supplied\\n[e]\\n" +
         (names.empty() ? "basicConstraints=CA:false" : "subjectAltName=" + names) +
         "\\n' >conf; : >index\n"
         "openssl ca -batch -notext -config conf -extensions e -cert " +
         by + ".pem -keyfile " + by + ".key -startdate " + day(from) + " -enddate " + day(until) +
         " -in " + name + ".csr -out " + name + ".pem");
  }

  std::string at(const std::string& name) const { return files_.file(name); }
  std::string folder() const { return files_.path().string(); }

 private:
  void make(const std::string& script) const {
    const std::string begin =
        "set -e; cd \"$1\"\n"
        "key() { openssl ecparam -name prime256v1 -genkey -noout -out $1.key; }\n";
    const RunResult made = run({"sh", "-c", begin + script, "sh", folder()});
    if (made.status != exited(0)) throw std::runtime_error("openssl: " + made.output);
  }

  TempDir files_;
};

}  // namespace lope::test
