#!/usr/bin/env bash
# Runs a test on the node that ctest chose for it among those of ./dev test: with_broker.sh PROGRAM ARG...
# Outside of that, on the one that LOPE_TEST_AMQP_URL and LOPE_TEST_BROKER_DIR name already.
set -euo pipefail

if [[ ${CTEST_RESOURCE_GROUP_0_BROKERS:-} =~ ^id:([a-z0-9_]+),slots:1$ ]]; then
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
  LOPE_TEST_BROKER_DIR=$root/build/broker/${BASH_REMATCH[1]}-${LOPE_TEST_RUN:?is not set}
  LOPE_TEST_AMQP_URL=$("$root/tests/support/broker.sh" url "$LOPE_TEST_BROKER_DIR")
  export LOPE_TEST_BROKER_DIR LOPE_TEST_AMQP_URL
fi
exec "$@"
