"""A collector of OpenTelemetry spans for the tests: takes OTLP over HTTP in JSON, and judges it.

Writes to standard output "port N" first, then for each span one line of JSON: traceId, spanId,
parentSpanId, name, kind, start and end in nanoseconds, error (its message, or null) and its
attributes, those of the resource under "resource". A request that is not as the protocol has it is
told in a line "bad: …" and answered with 400.

With --status every request is answered so, and none of its spans is told; with --stall none is
answered. --answers N: only the first N, then as usual. --header NAME=VALUE is wanted.
"""

import argparse
import json
import re
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("--status", type=int)
parser.add_argument("--stall", action="store_true")
parser.add_argument("--answers", type=int)
parser.add_argument("--header")
parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"))
args = parser.parse_args()

lock = threading.Lock()
answered = 0


def say(text):
    with lock:
        print(text, flush=True)


def want(condition, what):
    if not condition:
        raise ValueError(what)


def only(given, *keys):
    unknown = set(given) - set(keys)
    want(not unknown, f"unknown members {unknown}")
    return given


def value_of(value):
    want(len(value) == 1, f"one kind of value, not {value}")
    kind, content = next(iter(value.items()))
    if kind == "stringValue":
        want(isinstance(content, str), "stringValue is a text")
        return content
    want(kind == "intValue", f"stringValue or intValue, not {kind}")
    want(isinstance(content, str) and re.fullmatch(r"-?[0-9]+", content), "intValue is a text of digits")
    return int(content)


def attributes_of(given):
    attributes = {}
    for attribute in given:
        only(attribute, "key", "value")
        want(attribute["key"] and attribute["key"] not in attributes, "each attribute once")
        attributes[attribute["key"]] = value_of(attribute["value"])
    return attributes


def identity(text, size):
    want(isinstance(text, str) and re.fullmatch(f"[0-9a-f]{{{size}}}", text), f"{size} hex digits, not {text!r}")
    want(set(text) != {"0"}, "an id that is not zero")
    return text


def time_of(text):
    want(isinstance(text, str) and re.fullmatch("[0-9]{19}", text), f"nanoseconds as text, not {text!r}")
    return int(text)


def spans_of(request):
    for of_resource in only(request, "resourceSpans")["resourceSpans"]:
        resource = attributes_of(only(of_resource, "resource", "scopeSpans")["resource"]["attributes"])
        want("service.name" in resource, "a service.name")
        for of_scope in of_resource["scopeSpans"]:
            want(only(of_scope, "scope", "spans")["scope"]["name"] == "lope", "scope lope")
            for span in of_scope["spans"]:
                only(span, "traceId", "spanId", "parentSpanId", "name", "kind", "startTimeUnixNano",
                     "endTimeUnixNano", "attributes", "status")
                start, end = time_of(span["startTimeUnixNano"]), time_of(span["endTimeUnixNano"])
                want(start <= end, "a start before the end")
                want(span["kind"] in (4, 5), "kind PRODUCER or CONSUMER")
                want(span["name"], "a name")
                status = only(span.get("status", {"code": 0}), "code", "message")
                want(status["code"] in (0, 2), "status unset or error")
                yield {
                    "traceId": identity(span["traceId"], 32),
                    "spanId": identity(span["spanId"], 16),
                    "parentSpanId": identity(span["parentSpanId"], 16) if "parentSpanId" in span else None,
                    "name": span["name"],
                    "kind": span["kind"],
                    "start": start,
                    "end": end,
                    "error": status.get("message", "") if status["code"] == 2 else None,
                    "attributes": attributes_of(span["attributes"]),
                    "resource": resource,
                }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        global answered
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with lock:
            answered += 1
            special = args.answers is None or answered <= args.answers
        if special and args.stall:
            say("stalled")
            threading.Event().wait()
        status = args.status if special and args.status else 200
        try:
            want(self.path == "/v1/traces", f"/v1/traces, not {self.path}")
            want(self.headers["Content-Type"] == "application/json", "application/json")
            if args.header:
                name, value = args.header.split("=", 1)
                want(self.headers[name] == value, f"header {name}")
            spans = list(spans_of(json.loads(body)))
            if status == 200:
                for span in spans:
                    say(json.dumps(span))
            else:
                say(f"answered {status}")
        except (ValueError, KeyError, TypeError) as error:
            say(f"bad: {error!r}: {body[:500]!r}")
            status = 400
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
if args.tls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*args.tls)
    server.socket = context.wrap_socket(server.socket, server_side=True)
say(f"port {server.server_address[1]}")
sys.stdout.flush()
server.serve_forever()
