// Which process has claimed a message: its name in a store, and whether the process of such a name
// is alive. A number alone would not do: it is given out again.
#pragma once

#include <string>
#include <string_view>

namespace lope::consumer {

// "BOOT NAMESPACE PID START", of this process. Computed anew each time: it differs after a fork.
std::string own_name();

enum class OwnerLife {
  alive,
  dead,
  other_boot,  // of another machine, or of this one before it was started anew
  unknown,     // in another namespace of processes, or hidden, or this is no such name
};
OwnerLife life_of(std::string_view owner);

// What the kernel calls this run of the machine; empty when it does not say.
std::string boot_id();

}  // namespace lope::consumer
