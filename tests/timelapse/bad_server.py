#!/usr/bin/env python3
"""Answers that a timelapse may meet, good and bad, on 127.0.0.1:8081; the argument is a whole JPEG. Prints what is
asked for."""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD = open(sys.argv[1], "rb").read()


class Handler(BaseHTTPRequestHandler):
    def answer(self, body, status=200, kind="image/jpeg", length=None, **fields):
        """With `length` false there is none, and the end of the connection ends the body."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not False:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        case = self.path.split("?")[0].lstrip("/")
        print(case, flush=True)
        if case == "good":
            self.answer(GOOD)
        elif case == "slow":
            time.sleep(1.5)
            self.answer(GOOD)
        elif case == "moved":
            self.answer(b"over there", 302, "text/plain", Location="/good")
        elif case == "empty":
            self.answer(b"")
        elif case == "html":
            self.answer(b"<p>sign in</p>\n<p>please</p>\n", kind="text/html")
        elif case == "cut":
            self.answer(GOOD[: len(GOOD) // 2], length=False)
        elif case == "short":
            self.answer(GOOD[: len(GOOD) // 2], length=len(GOOD))
        elif case == "silent":
            time.sleep(30)
        elif case == "endless":
            self.answer(b"--b\r\n", kind="multipart/x-mixed-replace;boundary=b", length=False)
            while True:
                self.wfile.write(b"Content-Type: image/jpeg\r\n\r\n" + GOOD + b"\r\n--b\r\n")
                time.sleep(0.1)
        elif case == "busy":
            self.answer(b"no picture: the camera has left\nand more\n", 503, "text/plain")
        else:
            self.answer(b"it is not here\n", 404, "text/plain")

    def handle(self):
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            pass  # clients that gave up, as they should

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", 8081), Handler).serve_forever()
