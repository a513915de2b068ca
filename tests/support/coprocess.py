#!/usr/bin/python3
"""A co-process of the handler exec that does with each message as its body says; what it has got, and
that it was told to end, goes into a file."""
import base64
import json
import os
import signal
import sys


def say(text):
    sys.stdout.write(text)
    sys.stdout.flush()


def answer(message, outcome="ack", **more):
    say(json.dumps({"id": message["id"], "outcome": outcome, **more}) + "\n")


def first_time(message):
    return message["attempt"] == 1


ledger = open(sys.argv[1], "a", buffering=1)
ledger.write(f"start {os.getpid()}\n")
for line in sys.stdin:
    message = json.loads(line)
    word, _, rest = message.get("body", "base64").partition(" ")
    ledger.write(f"got {message['message_id']} {message['attempt']}\n")
    if word == "show":
        ledger.write(f"shown {json.dumps(message, sort_keys=True)}\n")
    elif word == "base64":
        ledger.write(f"bytes {base64.b64decode(message['body_base64']).hex()}\n")
    elif word in ("retry", "reject"):
        answer(message, word, reason=rest)
        continue
    elif word == "retry_after" and first_time(message):
        answer(message, "retry", retry_after_ms=int(rest))
        continue
    elif word == "publish":
        answer(message, publish=[{"routing_key": rest, "body": "one", "headers": {"n": 1}},
                                 {"routing_key": rest, "body_base64": "dHdvAA==", "content_type": "x/y"}])
        continue
    elif word == "reply":
        answer(message, reply={"body": rest})
        continue
    elif word == "answer":  # as it is, with the message's id
        say(rest.replace("ID", str(message["id"])) + "\n")
        if first_time(message):
            continue
    elif word == "crash" and first_time(message):
        print("about to crash", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    elif word == "exit" and first_time(message):
        sys.exit(7)
    elif word == "hang" and first_time(message):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()
    elif word == "silent" and first_time(message):
        continue
    elif word == "deaf" and first_time(message):
        os.close(0)
        signal.pause()
    elif word == "twice":
        answer(message)
    elif word == "long" and first_time(message):
        say("x" * int(rest) + "\n")
        continue
    elif word == "partial":
        text = json.dumps({"id": message["id"], "outcome": "ack"}) + "\n"
        for character in text:
            say(character)
        continue
    elif word == "wait":
        open(rest).read()
    elif word == "noise":
        os.write(2, b"noise\n" * int(rest))
    answer(message)
ledger.write("end\n")
