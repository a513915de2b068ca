import signal
import sys

import kombu

host, port, queue, prefetch, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
seen = 0


def handle(message):
    global seen
    message.ack()
    seen += 1


with kombu.Connection(f"amqp://guest:guest@{host}:{port}//", transport="pyamqp") as connection:
    name = kombu.Queue(queue, no_declare=True)
    with connection.Consumer(name, on_message=handle, prefetch_count=prefetch, auto_declare=False):
        while seen < count:
            connection.drain_events()
    print("done", flush=True)
    signal.pause()
