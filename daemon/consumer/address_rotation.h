// Which of a broker's addresses is tried next, and after what pause. The order is shuffled once, so
// that the clients of a list spread over it, and those of a node that is gone over the others.
// Pure.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <vector>

namespace lope::consumer {

class AddressRotation {
 public:
  // Of addresses 0 to count - 1; count > 0. `random` gives numbers from 0 to 1.
  AddressRotation(std::size_t count, const std::function<double()>& random);

  // The address to try now.
  std::size_t current() const { return order_[next_]; }
  // The current one does not answer, or has been lost: the next one is current. Returns the pause
  // before it is tried: none until each has failed once, then one for each round.
  std::chrono::milliseconds failed(double random);
  // The current one has gone silent, as a node does that is cut off: when its turn comes again, the
  // others have one more before.
  void pass_over() { passed_over_ = current(); }
  // Since the last good connection no address has been tried more than twice.
  bool in_first_rounds() const { return failures_ <= 2 * order_.size(); }
  // The connection to the current one was a good one: its end is the first failure.
  void lasted();

 private:
  std::vector<std::size_t> order_;
  std::size_t next_ = 0;
  std::size_t failures_ = 0;  // in a row
  std::optional<std::size_t> passed_over_;
};

}  // namespace lope::consumer
