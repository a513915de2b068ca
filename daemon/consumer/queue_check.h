// Does a queue still answer through the node that we are connected to? A node that is cut off from
// the rest of its cluster goes on with its clients for a minute or longer: heartbeats come and acks
// are taken, while a queue that is elsewhere, or has no majority here, delivers nothing. So a queue
// that is silent is asked for what only itself can answer. Pure: time and events in, decisions out.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace lope::consumer {

class QueueCheck {
 public:
  enum class Next { nothing, ask, lost };

  // To be called four times in each heartbeat's time. `deliveries` changes with each one.
  // ask: it has been silent for half that time. lost: it has not answered for three quarters.
  Next tick(std::uint64_t deliveries);
  void answered();

 private:
  std::uint64_t seen_ = 0;
  int silent_ = 0;      // ticks
  bool asked_ = false;  // and not answered
};

// How long a request that a queue is set up with may take until the next address is tried. What a
// broker has begun for a queue without a leader it goes on with for seconds after there is one,
// while an attempt after that is answered at once; a broker that is only slow needs its time. So it
// is a quarter of a heartbeat at first, and one more for each round over the addresses, up to two
// heartbeats. `quarter`: of a heartbeat; `given_up`: connections in a row, for such a request;
// `addresses`: how many there are.
std::chrono::milliseconds set_up_patience(std::chrono::milliseconds quarter, std::size_t given_up,
                                          std::size_t addresses);

// Is a connection given up for a queue that does not answer? One that is silent at every address (a
// quorum queue without a majority) is no sign that a node is cut off: the others do not pay for it
// again and again. Pure.
class Suspicion {
 public:
  // It does not answer. `addresses`: how many there are; `others`: other queues are consumed from
  // over this connection, and answer. True: the connection is to be given up.
  bool silent(std::size_t addresses, bool others);
  void answered() { given_up_ = 0; }

 private:
  std::size_t given_up_ = 0;  // connections in a row, though others were consumed from
};

}  // namespace lope::consumer
