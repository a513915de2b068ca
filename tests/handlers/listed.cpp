// Takes a list, a map, and a map with a secret in it; logs what it was given.
#include <lope/handler.hpp>

namespace {

constexpr lope_option kOptions[] = {lope::required("words.*", "a list"),
                                    lope::defaulted("sizes.*", "", "a map", LOPE_INT64),
                                    lope::secret(lope::defaulted("keys.*", "", "a map", LOPE_BOOL)),
                                    lope::defaulted("sizes.name", "", "text"), lope::kEndOfOptions};

class Listed final : public lope::Handler {
 public:
  explicit Listed(lope::Host host) {
    for (const std::string& word : host.option_list("words")) host.info("word " + word);
    host.info("width " + std::to_string(host.option_or<int>("sizes.width", -1)));
  }
  lope::Outcome handle(const lope::Message&) override { return lope::Outcome::ack; }
};

}  // namespace

LOPE_HANDLER_WITH(Listed, "listed", "1.0.0", "for the tests", kOptions)
