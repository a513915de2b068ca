import signal
import sys

import pika

host, port, queue, prefetch, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
connection = pika.BlockingConnection(pika.ConnectionParameters(host, port))
channel = connection.channel()
channel.basic_qos(prefetch_count=prefetch)
seen = 0


def handle(channel, method, properties, body):
    global seen
    channel.basic_ack(method.delivery_tag)
    seen += 1
    if seen == count:
        channel.stop_consuming()


channel.basic_consume(queue, handle)
channel.start_consuming()
print("done", flush=True)
signal.pause()
