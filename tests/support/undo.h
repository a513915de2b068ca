// Undoes what a test did to the shared node, also when the test fails.
#pragma once

#include <functional>
#include <stdexcept>
#include <utility>

namespace lope::test {

class Undo {
 public:
  explicit Undo(std::function<void()> action) : action_(std::move(action)) {}
  Undo(const Undo&) = delete;
  Undo& operator=(const Undo&) = delete;
  ~Undo() {
    try {
      action_();
    } catch (const std::runtime_error&) {  // the node is removed after the run
    }
  }

 private:
  std::function<void()> action_;
};

}  // namespace lope::test
