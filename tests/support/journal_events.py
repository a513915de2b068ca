"""Events as consumers tell them, a line each, for a picture of the journal's page: an order, and what came of it."""

import json
import time
import uuid

number = 0
begin = int(time.time() * 1e6) - 60_000_000


def tell(event, after_ms, queue, message, **more):
    global number
    number += 1
    fields = {"event": event, "source": f"{uuid.getnode():016x}", "n": number, "time_us": begin + int(after_ms * 1000),
              "host": "shop1", "group": queue, "queue": queue, **message, **more}
    print(json.dumps({name: value for name, value in fields.items() if value not in ("", None)}))


def message(parent=None):
    made = str(uuid.uuid4())
    return {"message_id": made, "parent_id": parent and parent["message_id"],
            "trace_id": parent["trace_id"] if parent else made}


def handle(queue, what, came, waited, ran, outcome="ack", attempt=1, **more):
    tell("received", came, queue, what, attempt=attempt, size=412, content_type="application/json")
    tell("handled", came + waited + ran, queue, what, attempt=attempt, outcome=outcome, waited_us=int(waited * 1000),
         ran_us=int(ran * 1000), worker=f"{queue}/{number % 2}", handler=queue, handler_version="1.4.2", **more)


def publish(queue, what, at, to):
    tell("published", at, queue, what, kind="publication", exchange="shop", routing_key=to, fate="confirmed")


for order in range(6):
    at = order * 900
    root = message()
    handle("orders", root, at, 2, 38)
    parts = {to: message(root) for to in ("invoices", "stock", "mail")}
    for to, part in parts.items():
        publish("orders", part, at + 36, to)
    handle("invoices", parts["invoices"], at + 43, 4, 210)
    letter = message(parts["invoices"])
    publish("invoices", letter, at + 250, "mail")
    handle("stock", parts["stock"], at + 44, 12, 61)
    handle("mail", parts["mail"], at + 45, 30, 95, "retry", reason="the mail server is busy", delay_ms=500)
    handle("mail", parts["mail"], at + 680, 9, 88, attempt=2)
    handle("mail", letter, at + 262, 21, 140, *(["dead"] if order == 5 else []),
           reason="no such mailbox" if order == 5 else "")
    for item in range(2):
        shelf = message(parts["stock"])
        publish("stock", shelf, at + 110 + item, "shelves")
        handle("shelves", shelf, at + 121 + 60 * item, 3 + 55 * item, 150 + 70 * item)
