"""An HTTP server for the tests: takes each request, waits, and answers as its body says.

Writes to standard output: "port N" first, then "most N" whenever more requests than ever before are
being answered at the same time, and "stalled" for each that it does not answer.

The body, or else the path behind its '/', is one of

    STATUS                  an answer with this status
    STATUS after SECONDS    with Retry-After
    STATUS date SECONDS     the same as a date so much later
    redirect PATH           302
    say TEXT                200 with the text, as text/plain
    huge                    200 with an answer that has no end
    stall                   no answer
    slow                    200 with ten bytes, one every 0.1 seconds
    half                    half an answer, then the connection is closed
    hang up                 no answer, and the connection is closed
    close                   200, and the connection is closed behind it without a word

and 200 for any other. With --proxy it is a proxy in place of all that.
"""

import argparse
import asyncio
import email.utils
import hashlib
import hmac
import json
import ssl
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("wait", type=float, help="seconds before an answer")
parser.add_argument("--record", help="file that gets a line of JSON for each request")
parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"))
parser.add_argument("--client-ca", help="whose client certificates are wanted")
parser.add_argument("--secret", help="signatures are wanted: X-Signature-256, with X-Time if there is one")
parser.add_argument("--token-file", help="the bearer token in there is wanted")
parser.add_argument("--proxy", action="store_true")
args = parser.parse_args()

record = open(args.record, "a") if args.record else None
now = most = connections = 0


def refusal(headers, body):
    if args.secret:
        text = body if "x-time" not in headers else headers["x-time"].encode() + b"." + body
        wanted = "sha256=" + hmac.new(args.secret.encode(), text, hashlib.sha256).hexdigest()
        if headers.get("x-signature-256") != wanted:
            return 403
    if args.token_file:
        with open(args.token_file) as file:
            if headers.get("authorization") != "Bearer " + file.read().strip():
                return 401
    return None


def answer(status, body=b"", headers=""):
    return f"HTTP/1.1 {status} Word\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


async def respond(what, writer):
    """Answers; false when the connection is to be closed."""
    words = what.split()
    if what == "hang up":
        return False
    if what == "stall":
        print("stalled", flush=True)
        await asyncio.Event().wait()
    if what == "half":
        writer.write(b"HTTP/1.1 200 Word\r\nContent-Length: 100\r\n\r\nhalf of it")
        await writer.drain()
        return False
    if what == "huge":
        writer.write(b"HTTP/1.1 200 Word\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            await writer.drain()
    if what == "slow":
        writer.write(b"HTTP/1.1 200 Word\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            await asyncio.sleep(0.1)
            writer.write(b"s")
            await writer.drain()
        return True
    if words[:1] == ["say"]:
        writer.write(answer(200, what[4:].encode(), "Content-Type: text/plain\r\n"))
    elif words[:1] == ["redirect"]:
        writer.write(answer(302, b"", f"Location: {words[1]}\r\n"))
    elif words and words[0].isdigit():
        headers = ""
        if words[1:2] == ["after"]:
            headers = f"Retry-After: {words[2]}\r\n"
        if words[1:2] == ["date"]:
            headers = f"Retry-After: {email.utils.formatdate(time.time() + int(words[2]), usegmt=True)}\r\n"
        writer.write(answer(int(words[0]), what.encode() if int(words[0]) >= 300 else b"", headers))
    else:
        writer.write(answer(200))
    await writer.drain()
    return what != "close"


async def read_head(reader):
    """The words of the first line and the headers; None at the end of the connection."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    return head[0].split(" "), [line.split(": ", 1) for line in head[1:] if ": " in line]


async def serve(reader, writer):
    global now, most, connections
    connections += 1
    number = connections
    while head := await read_head(reader):
        (method, path, _), pairs = head
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        now += 1
        if now > most:
            most = now
            print("most", most, flush=True)
        if record:
            line = {"method": method, "path": path, "body": body.decode("latin-1"), "connection": number}
            record.write(json.dumps(line | {"headers": headers, "names": [name for name, _ in pairs]}) + "\n")
            record.flush()
        if args.wait:
            await asyncio.sleep(args.wait)
        now -= 1
        if refused := refusal(headers, body):
            writer.write(answer(refused))
        elif not await respond(body.decode("latin-1") or path[1:], writer):
            break


async def pipe(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def proxy(reader, writer):
    head = await read_head(reader)
    if not head:
        return
    (method, target, version), pairs = head
    print("proxied", method, target, flush=True)
    host, _, port = target.removeprefix("http://").split("/")[0].partition(":")
    up_reader, up_writer = await asyncio.open_connection(host, int(port))
    if method == "CONNECT":
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
    else:
        path = "/" + target.removeprefix("http://").partition("/")[2]
        lines = [f"{method} {path} {version}"] + [": ".join(pair) for pair in pairs]
        up_writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    await asyncio.gather(pipe(reader, up_writer), pipe(up_reader, writer))
    up_writer.close()


async def connection(reader, writer):
    try:
        await (proxy if args.proxy else serve)(reader, writer)
    except (OSError, asyncio.IncompleteReadError):
        pass  # the client has gone
    finally:
        writer.close()


async def main():
    tls = None
    if args.tls:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*args.tls)
        if args.client_ca:
            tls.verify_mode = ssl.CERT_REQUIRED
            tls.load_verify_locations(args.client_ca)
    server = await asyncio.start_server(connection, "127.0.0.1", 0, ssl=tls, backlog=1024)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


try:
    asyncio.run(main())
except KeyboardInterrupt:
    sys.exit(130)
