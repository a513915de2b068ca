#include "store.h"

namespace lope::plugins {

std::unique_ptr<Store> open_store(const std::string& store, int busy_ms) {
  if (store.starts_with("postgresql://") || store.starts_with("postgres://")) {
#ifdef LOPE_WITH_POSTGRESQL
    return open_postgres_store(store);
#else
    throw std::runtime_error("option 'store': this build has no PostgreSQL");
#endif
  }
  // As the path of a file it would be shown, with the password that may be in it.
  if (store.find("://") != std::string::npos) {
    throw std::runtime_error(
        "option 'store': expected the path of a file or postgresql://…, found another kind of URL");
  }
  return open_sqlite_store(store, busy_ms);
}

}  // namespace lope::plugins
