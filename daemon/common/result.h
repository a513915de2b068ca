// Result<T>: a value or one error text. For failures that are expected and that
// the caller reports; a broken invariant terminates instead.
#pragma once

#include <cassert>
#include <string>
#include <utility>
#include <variant>

namespace lope {

// What went wrong, as a fragment with its subject:
// "group 'orders': handler '/x.so': no symbol lope_plugin_v1". No final stop, no newline.
struct Error {
  std::string text;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // Only when ok().
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(value()); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& value() & {
    assert(ok());
    return std::get<0>(state_);
  }
  const T& value() const& {
    assert(ok());
    return std::get<0>(state_);
  }
  T&& value() && {
    assert(ok());
    return std::get<0>(std::move(state_));
  }

  // Only when !ok().
  const std::string& error() const {
    assert(!ok());
    return std::get<1>(state_).text;
  }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : text_(std::move(error.text)), failed_(true) {}

  bool ok() const { return !failed_; }
  explicit operator bool() const { return ok(); }
  const std::string& error() const {
    assert(failed_);
    return text_;
  }

 private:
  std::string text_;
  bool failed_ = false;
};

}  // namespace lope
