#include "common/postgres_url.h"

#include <catch2/catch.hpp>
#include <string>

#include "postgres_url.h"

using namespace lope;

TEST_CASE("a URL of PostgreSQL that libpq reads as it is meant", "[unit][postgres_url]") {
  const auto* const url = GENERATE(
      "postgresql://", "postgresql://db", "postgresql://db/x", "postgresql://lope:50%25off@db/x",
      "postgres://lope:pa%40ss%2F@db:5432/x", "postgresql:///x?host=/run/x&user=a@b",
      "postgresql://lope@h1:1,h2,[::1]:3/x", "postgresql://[::1]", "postgresql://h1:?user=a",
      "postgresql://%2Frun%2Fpg/x", "postgresql://lope:p?ss#:w@db/x");
  CAPTURE(url);
  CHECK(unfit_in_postgres_url(url) == "");
  CHECK(plugins::unfit_in_postgres_url(url) == "");
}

TEST_CASE("of a URL of PostgreSQL that is not meant so nothing is told", "[unit][postgres_url]") {
  const auto* const url = GENERATE("postgresql://lope:50%off@db/x", "postgresql://lope:pw%",
                                   "postgresql://lope:pa@ss@db/x", "postgresql://lope:pa/ss@db/x",
                                   "postgresql://lope:pw/x", "postgresql://lope:pa/ss",
                                   "postgresql://db/x?password=%zz", "postgresql://lope@[::1]:pw/x",
                                   "postgresql://lope@h1:1,h2:pw");
  CAPTURE(url);
  const std::string problem(unfit_in_postgres_url(url));
  CHECK(problem.starts_with("expected "));
  CHECK(problem == plugins::unfit_in_postgres_url(url));
}
