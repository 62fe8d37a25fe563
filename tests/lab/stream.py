"""A viewer of the MJPEG stream that checks every byte that arrives.

Each frame of the emulated camera says in a COM segment which one it is:
RIGCAM frame=135 mono_ns=2783064396 session=3 index=0 size=640x480
"""

import re
import shlex
import socket
import struct
import threading
import time
from collections import namedtuple

from server import CaseFailed, expect

BOUNDARY = b"boundarydonotcross"
TAIL = b"\r\n--" + BOUNDARY + b"\r\n"  # behind every part
LAST = b"\r\n--" + BOUNDARY + b"--\r\n"  # where the server ends the stream
PART_HEAD_LIMIT = 1024
HEAD = re.compile(rb"HTTP/1\.[01] 200 .*\r\ncontent-type: *multipart/x-mixed-replace; ?boundary=" + BOUNDARY,
                  re.I | re.S)
RIGCAM = re.compile(rb"RIGCAM frame=(\d+) mono_ns=(\d+) session=(\d+) index=(\d+) size=(\S+)")
CAMERA_LOSSES = ("lost", "flagged", "broken", "wrong_size", "late")  # as the server's log calls them
X_TIMESTAMP = re.compile(rb"\d+\.\d{6}")

# at: arrival here, time.monotonic(); timestamp: X-Timestamp, captured: mono_ns, both in seconds.
Part = namedtuple("Part", "at timestamp frame captured session index size length has_dht")


def jpeg_fault(jpeg):
    """What is wrong with a JPEG's outer form, or None."""
    if not jpeg.startswith(b"\xff\xd8\xff"):
        return "no SOI"
    if not jpeg.endswith(b"\xff\xd9"):
        return "no EOI at the end"
    return None


def rigcam(jpeg):
    """The numbers in the COM segment: (frame, captured, session, index, size)."""
    found = RIGCAM.search(jpeg, 0, 400)
    if not found:
        return None
    frame, mono_ns, session, index = (int(found[i]) for i in range(1, 5))
    return frame, mono_ns / 1e9, session, index, found[5].decode()


class BrokenStream(Exception):
    """Bytes after which a viewer cannot know where the next part begins."""


class Seen:
    """What a viewer saw: `parts` are the pictures, `faults` what was wrong on the wire, `ended` how it ended, `no_signal`
    when a picture came that said why there was none."""

    def __init__(self):
        self.parts, self.faults, self.ended, self.no_signal = [], [], None, []

    def take(self, line):
        """A line of camera/src/view.rs about this viewer."""
        if line.startswith("end "):
            self.ended = line[4:]
        elif line.startswith("fault "):
            self.faults.append(line[6:])
        else:
            arrived, timestamp, length, has_dht, comment = line.split(" ", 4)
            numbers = rigcam(comment.encode())
            if not numbers or not X_TIMESTAMP.fullmatch(timestamp.encode()):
                self.faults.append(line)
                return
            self.parts.append(Part(int(arrived) / 1e9, float(timestamp), *numbers, int(length), has_dht == "1"))

    def rate(self, start, end):
        """Pictures per second that arrived between two times."""
        return sum(start <= p.at < end for p in self.parts) / (end - start)

    def lost(self):
        """Frames of the camera that never came: gaps in its numbers."""
        return sum(max(0, later.frame - earlier.frame - 1) for earlier, later in zip(self.parts, self.parts[1:]))

    def expect_sound(self, may_repeat=False):
        """No fault on the wire, no frame out of order, and none twice except while a still is taken."""
        expect(not self.faults, f"{len(self.faults)} broken part(s): {self.faults[:1]}")
        for earlier, later in zip(self.parts, self.parts[1:]):
            is_repeated = may_repeat and later.frame == earlier.frame
            expect(later.frame > earlier.frame or is_repeated, f"frame {later.frame} after frame {earlier.frame}")


class Viewer(Seen, threading.Thread):
    """One connection to /stream, read as the pictures come."""

    def __init__(self, address, path="/stream"):
        threading.Thread.__init__(self, daemon=True)
        Seen.__init__(self)
        self.head = b""
        self._news = threading.Condition()
        self._closing = False
        self._socket = connect(address, path)
        self.start()

    def run(self):
        try:
            self._read()
        except BrokenStream as fault:
            self.faults.append(str(fault))
            self._end("broken")
        except OSError as error:
            self._end("closed here" if self._closing else repr(error))

    def _read(self):
        buffer = bytearray()
        take = self._take_head
        while self.ended is None:
            while length := take(buffer):
                del buffer[:length]
                take = self._take_part
            if not self._receive(buffer):
                if buffer and buffer != LAST and not self._closing:
                    raise BrokenStream(f"the stream ended inside a part, after {len(buffer)} bytes")
                self._end("last boundary" if buffer else "closed by the server")

    def _receive(self, buffer):
        data = self._socket.recv(1 << 18)
        buffer += data
        return len(data)

    def _take_head(self, buffer):
        """Checks the answer's head and the first boundary. Their length, 0 if they are still to come."""
        first = b"\r\n\r\n--" + BOUNDARY + b"\r\n"
        end = buffer.find(first)
        if end < 0:
            if b"\r\n\r\n" in buffer[:-len(first)]:
                raise BrokenStream(f"no stream: {bytes(buffer[:200])!r}")
            return 0
        self.head = bytes(buffer[:end])
        if not HEAD.match(self.head):
            raise BrokenStream(f"head of the answer: {self.head!r}")
        return end + len(first)

    def _take_part(self, buffer):
        """Checks one part with the boundary behind it. Their length, 0 if not all has come."""
        head_end = buffer.find(b"\r\n\r\n", 0, PART_HEAD_LIMIT)
        if buffer.startswith(LAST) and len(buffer) > len(LAST):
            raise BrokenStream(f"behind the last boundary: {bytes(buffer[:100])!r}")
        if head_end < 0:
            if len(buffer) > PART_HEAD_LIMIT:
                raise BrokenStream(f"part without head: {bytes(buffer[:100])!r}")
            return 0
        lines = bytes(buffer[:head_end]).lower().split(b"\r\n")
        head = dict(line.split(b": ", 1) for line in lines if b": " in line)
        if not head.get(b"content-length", b"").isdigit():
            raise BrokenStream(f"part without Content-Length: {lines}")
        start = head_end + 4
        end = start + int(head[b"content-length"])
        tail = bytes(buffer[end:end + len(TAIL)])
        if len(tail) < len(TAIL):
            return 0
        if tail != TAIL:
            raise BrokenStream(f"behind the part: {tail!r}")
        if head.get(b"x-framehub-no-signal") == b"1" and b"x-timestamp" not in head:
            self.no_signal.append(time.monotonic())
        else:
            self._check_picture(head, bytes(buffer[start:end]))
        return end + len(tail)

    def _check_picture(self, head, jpeg):
        at = time.monotonic()
        timestamp = head.get(b"x-timestamp", b"")
        numbers = rigcam(jpeg)
        fault = jpeg_fault(jpeg)
        if head.get(b"content-type") != b"image/jpeg":
            fault = f"content type {head.get(b'content-type')}"
        elif not X_TIMESTAMP.fullmatch(timestamp):
            fault = f"X-Timestamp {timestamp}"
        elif not numbers:
            fault = fault or "not the camera's picture"
        if fault:
            self.faults.append(f"part {len(self.parts)}: {fault}, {len(jpeg)} bytes")
            return
        has_dht = b"\xff\xc4" in jpeg[:jpeg.find(b"\xff\xda")]
        part = Part(at, float(timestamp), *numbers, len(jpeg), has_dht)
        with self._news:
            self.parts.append(part)
            self._news.notify_all()

    def _end(self, how):
        with self._news:
            self.ended = self.ended or how
            self._news.notify_all()

    def wait(self, condition, seconds, what):
        """Waits until condition(parts) holds."""
        with self._news:
            done = self._news.wait_for(lambda: condition(self.parts) or self.ended, seconds)
            if condition(self.parts):
                return
        raise CaseFailed(f"{what}: not within {seconds} s, {len(self.parts)} pictures so far" if not done
                         else f"{what}: the stream ended ({self.ended}{'; ' + self.faults[0] if self.faults else ''})")

    def wait_parts(self, count, seconds=15):
        """Waits for `count` more pictures."""
        have = len(self.parts)
        self.wait(lambda parts: len(parts) >= have + count, seconds, f"{count} more pictures")

    def first_after(self, at, seconds):
        """Waits for a picture that arrived later than `at`; returns it."""
        self.wait(lambda parts: parts and parts[-1].at > at, seconds, "a picture")
        return next(p for p in self.parts if p.at > at)

    def wait_end(self, seconds):
        """Waits for the end of the stream, as which it counts."""
        self.join(seconds)
        expect(self.ended, f"the stream has not ended within {seconds} s")
        return self.ended

    def close(self):
        self._closing = True
        hang_up(self._socket)
        self.join(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Together(list):
    """Several viewers at once, and what must be true of all of them."""

    def expect_sound(self):
        for viewer in self:
            viewer.expect_sound()

    def expect_connected(self):
        gone = [viewer.ended for viewer in self if viewer.ended]
        expect(not gone, f"{len(gone)} of {len(self)} streams ended: {gone[:1]}")

    def expect_ended_by(self, server):
        """Ends the server. Every stream must end in order, and whatever its viewer missed the server must have
        counted: as skipped for him, or as lost on the camera's side."""
        server.signal("TERM")
        self.wait_ends(20)
        self.expect_sound()
        ends = {viewer.ended for viewer in self}
        expect(ends == {"last boundary"}, f"ends of the streams: {ends}")
        # The log does not tell viewers apart, so they are compared in order of size.
        told = server.viewer_totals()
        sent, received = sorted(t["frames"] for t in told), sorted(len(v.parts) for v in self)
        expect(sent == received, f"sent {sent}, received {received}")
        camera = server.camera_totals()
        by_camera = sum(camera.get(name, 0) for name in CAMERA_LOSSES)
        missing = sorted(v.lost() for v in self)
        counted = sorted(t.get("skipped", 0) + by_camera for t in told)
        expect(all(m <= c for m, c in zip(missing, counted)), f"missing {missing}, counted {counted}")


class Viewers(Together):
    """Viewers on the host, over the emulated network."""

    def __init__(self, address, count, path="/stream"):
        super().__init__(Viewer(address, path) for _ in range(count))

    def wait_parts(self, count, seconds=15):
        for viewer in self:
            viewer.wait_parts(count, seconds)

    def wait_ends(self, seconds):
        for viewer in self:
            viewer.wait_end(seconds)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for viewer in self:
            viewer.close()


class GuestViewers(Together):
    """Viewers in the guest (camera/src/view.rs), for rates that the emulated network cannot carry. They read until
    the server ends; what they saw is known then, with arrival times by the guest's clock."""

    def __init__(self, guest, count, *paths):
        """`count` of each path."""
        paths = paths or ("/stream",)
        super().__init__(Seen() for _ in range(count * len(paths)))
        self._report = ""
        command = " ".join(["rigcam view 8080", str(count), *map(shlex.quote, paths)])
        self._thread = threading.Thread(target=self._run, args=(guest, command), daemon=True)
        self._thread.start()

    def _run(self, guest, command):
        self._report = guest.try_sh(command, 600)[1]

    def wait_ends(self, seconds):
        self._thread.join(seconds)
        expect(not self._thread.is_alive(), f"the streams have not ended within {seconds} s")
        for line in self._report.splitlines():
            viewer, what = line.split(" ", 1)
            self[int(viewer)].take(what)


def connect(address, path="/stream", receive_buffer=0):
    """A socket that has asked for `path` and read nothing yet."""
    s = socket.socket()
    if receive_buffer:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    s.settimeout(60)
    s.connect(address)
    s.sendall(b"GET %s HTTP/1.1\r\nHost: lab\r\n\r\n" % path.encode())
    return s


def hang_up(s, with_reset=False):
    """Closes a socket, with RST instead of FIN on demand."""
    if with_reset:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was first
    s.close()
