"""What the Python clients here do with a message, as functions for the handler python."""


def empty(message):
    pass


def pika(channel, method, properties, body):
    channel.basic_ack(method.delivery_tag)


def kombu(body, message):
    message.ack()
