#!/usr/bin/python3
"""Publishes with confirms, whatever happens to the broker: what is not confirmed is published again under the same id,
through the next node.

  steady_publisher.py QUEUE PREFIX AHEAD CONFIRMED HANDLED URL...: writes the ids that are confirmed to the file
CONFIRMED, and keeps so many ahead of the lines of the file HANDLED. A line "use N" on the standard input makes it go on through that URL, and is answered with the same line; at the end of
the input it ends. Declares nothing: what no queue takes is tried again.
"""
import select
import signal
import sys
import time

import pika

kPatience = 10  # for one confirm, in seconds
kOptions = "heartbeat=4&socket_timeout=2&stack_timeout=4&blocked_connection_timeout=4&connection_attempts=1"


def give_up(*_):
    raise TimeoutError


def main():
    signal.signal(signal.SIGALRM, give_up)
    queue, prefix, ahead, confirmed_path, handled_path, *urls = sys.argv[1:]
    at, channel, number = 0, None, 1
    handled = 0
    next_at = time.monotonic()
    with open(confirmed_path, "a", encoding="ascii") as confirmed, open(handled_path, "rb") as lines:
        while True:
            handled += lines.read().count(b"\n")
            if number - handled > int(ahead):
                next_at = max(next_at, time.monotonic() + 0.02)
            wait = max(0, next_at - time.monotonic())
            if select.select([sys.stdin], [], [], wait)[0]:
                line = sys.stdin.readline()
                if not line:
                    return
                at, channel = int(line.split()[1]), None
                print(line, end="", flush=True)
            if time.monotonic() < next_at:
                continue
            try:
                signal.alarm(kPatience)
                if channel is None:
                    parameters = pika.URLParameters(f"{urls[at]}/%2F?{kOptions}")
                    channel = pika.BlockingConnection(parameters).channel()
                    channel.confirm_delivery()
                channel.basic_publish("", queue, b"x", mandatory=True, properties=pika.BasicProperties(
                    delivery_mode=2, message_id=f"{prefix}{number}"))
            except pika.exceptions.UnroutableError:
                next_at = time.monotonic() + 0.2
                continue
            except (pika.exceptions.AMQPError, OSError):
                at, channel, next_at = (at + 1) % len(urls), None, time.monotonic() + 0.1
                continue
            finally:
                signal.alarm(0)
            confirmed.write(f"{prefix}{number}\n")
            confirmed.flush()
            number += 1


main()
