// What a postgresql:// URL must not have: libpq would show pieces of its password in a message, or
// take them for the host's name. As daemon/common/postgres_url.cpp.
#pragma once

#include <algorithm>
#include <cctype>
#include <string_view>

namespace lope::plugins {

// Empty: nothing. Otherwise what was expected, without anything that the URL holds.
inline std::string_view unfit_in_postgres_url(std::string_view url) {
  const auto hex = [&url](std::size_t at) {
    return at < url.size() && std::isxdigit(static_cast<unsigned char>(url[at])) != 0;
  };
  for (std::size_t at = url.find('%'); at != std::string_view::npos; at = url.find('%', at + 1)) {
    if (!hex(at + 1) || !hex(at + 2)) return "expected two hexadecimal digits behind each %";
  }
  std::string_view rest = url.substr(std::min(url.size(), url.find("://") + 3));
  const std::size_t slash = std::min(rest.find('/'), rest.size());
  std::string_view hosts = rest.substr(0, slash);
  const std::string_view path = rest.substr(slash, rest.substr(slash).find('?'));
  const std::size_t at = hosts.find('@');
  if (at != std::string_view::npos) hosts.remove_prefix(at + 1);
  if (hosts.find('@') != std::string_view::npos || path.find('@') != std::string_view::npos) {
    return "expected one @, before the host: in a password it is %40, and / is %2F";
  }
  hosts = hosts.substr(0, hosts.find('?'));
  while (!hosts.empty()) {
    std::string_view host = hosts.substr(0, hosts.find(','));
    hosts.remove_prefix(std::min(hosts.size(), host.size() + 1));
    host.remove_prefix(host.starts_with('[') ? std::min(host.find(']'), host.size()) : 0);
    const std::string_view port = host.substr(std::min(host.find(':'), host.size()));
    if (!std::ranges::all_of(port.substr(std::min<std::size_t>(1, port.size())),
                             [](unsigned char c) { return std::isdigit(c) != 0; })) {
      return "expected a number as the port: in a password / is %2F";
    }
  }
  return {};
}

}  // namespace lope::plugins
