#include "journal/journal.h"

namespace lope::journal {

Result<std::unique_ptr<Reader>> open_journal(const std::string& store) {
  if (store.starts_with("postgresql://") || store.starts_with("postgres://")) {
    return open_postgres_journal(store);
  }
  if (store.find("://") != std::string::npos) {
    return Error{"expected the path of a file or postgresql://…, found another kind of URL"};
  }
  return open_sqlite_journal(store);
}

}  // namespace lope::journal
