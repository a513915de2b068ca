"""A handler to start from: takes one option, and greets whoever the message names."""
import lope


def handle(message):
    name = message.body_bytes.decode()
    if not name:
        # Nobody will ever be able to handle this one: it is dead-lettered. To have a message come
        # again, raise lope.Retry, or anything else.
        raise lope.Reject("an empty body: nobody to greet")
    print(f"{lope.options['greeting']}, {name}!")
