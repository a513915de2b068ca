#include "journal/journal.h"

namespace lope::journal {

std::size_t text_bytes(const Event& event) {
  std::size_t bytes = 0;
  for (const TextField& field : kTextFields) bytes += (event.*field.member).size();
  return bytes;
}

Result<std::unique_ptr<Reader>> open_journal(const std::string& store, const Limits& limits) {
  if (store.starts_with("postgresql://") || store.starts_with("postgres://")) {
    return open_postgres_journal(store, limits);
  }
  if (store.find("://") != std::string::npos) {
    return Error{"expected the path of a file or postgresql://…, found another kind of URL"};
  }
  return open_sqlite_journal(store);
}

}  // namespace lope::journal
