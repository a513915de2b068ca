// `lope check --broker`: what of a configuration would fail on its broker. Asks much and changes
// nothing: no queue is made, no message is touched.
#pragma once

#include "common/settings.h"

namespace lope::cli {

// Errors go to standard error, the rest to standard output; with `json` everything to standard
// output, as one object. Returns the exit code: kExitFailed when something would fail,
// kExitTemporary when no address could be logged in to.
int check_broker(const Settings& settings, bool json);

}  // namespace lope::cli
