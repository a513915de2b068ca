#include "consumer/recollection.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <string>

using namespace lope;
using namespace lope::consumer;

namespace {

std::unique_ptr<Delivery> delivery(const std::string& id, const std::string& body,
                                   std::uint64_t tag = 1) {
  auto made = std::make_unique<Delivery>();
  DeliveryView view;
  view.delivery_tag = tag;  // of no account
  view[TextProperty::queue] = "q";
  view[TextProperty::message_id] = id;
  std::memcpy(encode_delivery(view, body.size(), made->frame), body.data(), body.size());
  return made;
}

}  // namespace

TEST_CASE("what was tried is known once, when it comes again", "[unit][recollection]") {
  Recollection recollection;
  CHECK_FALSE(recollection.take(*delivery("m", "body")));
  auto tried = delivery("m", "body");
  tried->attempt = 3;
  tried->crashes = 1;
  tried->earlier = {{1, 10, "g/0", "first"}, {2, 20, "g/1", "second"}};
  tried->due = TimePoint() + std::chrono::hours(7);
  recollection.keep(*tried);
  CHECK_FALSE(recollection.take(*delivery("m", "another body")));
  CHECK_FALSE(recollection.take(*delivery("n", "body")));
  const auto known = recollection.take(*delivery("m", "body", 9));
  REQUIRE(known);
  CHECK(known->attempt == 3);
  CHECK(known->crashes == 1);
  REQUIRE(known->earlier.size() == 2);
  CHECK(known->earlier[1].reason == "second");
  CHECK(known->due == tried->due);
  CHECK_FALSE(recollection.take(*delivery("m", "body", 9)));
}

TEST_CASE("of messages that are alike the first comes first again", "[unit][recollection]") {
  Recollection recollection;
  auto first = delivery("", "same");
  first->attempt = 2;
  auto second = delivery("", "same");
  second->attempt = 5;
  recollection.keep(*first);
  recollection.keep(*second);
  const auto known = recollection.take(*delivery("", "same"));
  REQUIRE(known);
  CHECK(known->attempt == 2);
}

TEST_CASE("another attempt is told in the frame", "[unit][recollection]") {
  auto it = delivery("m", "body");
  set_attempt(it->frame, 4, 2);
  const auto view = decode_delivery(it->frame.bytes());
  REQUIRE(view);
  CHECK(view->attempt == 4);
  CHECK(view->crashes == 2);
  CHECK((*view)[TextProperty::message_id] == "m");
  CHECK(view->body == "body");
}
