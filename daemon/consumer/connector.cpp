#include "consumer/connector.h"

#include <unistd.h>

#include <algorithm>
#include <mutex>

#include "common/backoff.h"
#include "common/detached_thread.h"

namespace lope::consumer {

namespace {

constexpr std::chrono::milliseconds kReached{1500};

}  // namespace

struct Connector::Shared {
  UniqueFd event;
  std::mutex mutex;
  std::unique_ptr<Result<std::unique_ptr<Connection>>> result;  // guarded by mutex
};

Result<std::unique_ptr<Connector>> Connector::create(const BrokerSettings& settings,
                                                     std::string connection_name) {
  auto event = make_eventfd();
  if (!event) return Error{event.error()};
  auto shared = std::make_shared<Shared>();
  shared->event = std::move(*event);
  return std::unique_ptr<Connector>(
      new Connector(settings, std::move(connection_name), std::move(shared)));
}

Connector::Connector(const BrokerSettings& settings, std::string connection_name,
                     std::shared_ptr<Shared> shared)
    : settings_(settings),
      connection_name_(std::move(connection_name)),
      shared_(std::move(shared)),
      rotation_(settings.addresses.size(), random_fraction) {}

void Connector::start() {
  const BrokerAddress address = settings_.addresses[rotation_.current()];
  ConnectTimes times{settings_.connect_timeout};
  // One that is cut off takes no connection; one that is good does in a round trip, or after the
  // second, when a packet was lost.
  if (addresses() > 1 && rotation_.in_first_rounds()) {
    times.reached =
        std::min(times.all, std::max(kReached, times.all / static_cast<int>(addresses())));
  }
  const auto finish = [](Shared& shared, Result<std::unique_ptr<Connection>> opened) {
    const std::lock_guard<std::mutex> lock(shared.mutex);
    shared.result = std::make_unique<Result<std::unique_ptr<Connection>>>(std::move(opened));
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(shared.event.get(), &one, sizeof one);
  };
  auto started = start_detached_thread(
      [shared = shared_, address, times, heartbeat = settings_.heartbeat, name = connection_name_,
       tls = settings_.tls, login = settings_.login,
       finish] { finish(*shared, Connection::open(address, times, heartbeat, name, tls, login)); });
  if (!started) finish(*shared_, Error{"connect: " + started.error()});
}

std::chrono::milliseconds Connector::failed() { return rotation_.failed(random_fraction()); }

int Connector::event_fd() const { return shared_->event.get(); }

std::unique_ptr<Result<std::unique_ptr<Connection>>> Connector::take() {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t n = ::read(shared_->event.get(), &count, sizeof count);
  const std::lock_guard<std::mutex> lock(shared_->mutex);
  return std::move(shared_->result);
}

}  // namespace lope::consumer
