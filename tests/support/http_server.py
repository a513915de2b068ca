"""An HTTP server for the tests: takes each POST, waits, and answers as the body says.

Writes to standard output: "port N" first, then "most N" whenever more requests than ever before are
being answered at the same time.

    http_server.py WAIT_SECONDS
"""

import http.server
import sys
import threading
import time

wait = float(sys.argv[1])
lock = threading.Lock()
now = 0
most = 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        global now, most
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with lock:
            now += 1
            if now > most:
                most = now
                print("most", most, flush=True)
        time.sleep(wait)
        with lock:
            now -= 1
        word = body.decode()
        if word == "hang up":
            self.close_connection = True
            return
        self.send_response(int(word) if word.isdigit() else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


server = Server(("127.0.0.1", 0), Handler)
print("port", server.server_address[1], flush=True)
server.serve_forever()
