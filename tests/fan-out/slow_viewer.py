#!/usr/bin/env python3
"""A viewer behind a slow line: reads https://board.local/webcam/stream at RATE bytes a second for SECONDS, and fails if
a picture is older than OLDEST seconds when it arrives."""

import re
import socket
import ssl
import sys
import time

rate, seconds, oldest = map(float, sys.argv[1:])
plain = socket.socket()
plain.settimeout(10)
plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
plain.connect(("127.0.0.1", 443))
# pylint: disable-next=protected-access
viewer = ssl._create_unverified_context().wrap_socket(plain, server_hostname="board.local")
viewer.sendall(
    b"GET /webcam/stream HTTP/1.1\r\nHost: board.local\r\nAuthorization: Basic bWU6c2VjcmV0\r\n\r\n"
)
began, received, rest, ages = time.time(), 0, b"", []
while time.time() - began < seconds:
    data = viewer.recv(16384)
    if not data:
        sys.exit(f"the stream ended after {received} bytes")
    received += len(data)
    rest, end = rest + data, 0
    for found in re.finditer(rb"X-Timestamp: ([0-9.]+)\r\n", rest):
        ages.append(time.time() - float(found[1]))
        end = found.end()
    rest = rest[end:][-64:]
    time.sleep(max(0, received / rate - (time.time() - began)))
print(f"{len(ages)} pictures, {min(ages):.1f} to {max(ages):.1f} s old")
if len(ages) < 10 or max(ages) > oldest:
    sys.exit(f"older than {oldest} s")
