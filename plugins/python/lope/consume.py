"""Names of consumer functions that were written for other places: see the options `style` and `aliases`."""
from lope import ACK, REJECT, RETRY, MessageResult

CONSUME_SUCCESS = ACK
CONSUME_REDELIVER = RETRY
CONSUME_REJECT = REJECT

__all__ = ["CONSUME_SUCCESS", "CONSUME_REDELIVER", "CONSUME_REJECT", "MessageResult"]
