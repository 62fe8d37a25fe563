"""What every attack is measured by: a server, five viewers in another process, and a client with a credential that tries a
snapshot again and again. The attacker is a third process. On a network it has its own processor; here it has a low
priority, and the server and the viewers have a high one where that is allowed, so that what is measured is the server."""

import json
import multiprocessing
import os
import re
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import traceback
from pathlib import Path

TOKEN = "T0ken-of-the-owner"
VIEWERS = 5
# --max-clients, short responses, waiting requests, unfinished heads.
CAP = 64 + 16 + 16 + 256
# Nobody: whom the limit on threads binds.
NOBODY = 65534


class Failed(Exception):
    """The server did not stand an attack."""


def expect(holds, why):
    if not holds:
        raise Failed(why)


def connect(address, receive_buffer=None, timeout=10):
    """A connection; with a small receive buffer and Ethernet's segments, so that the server soon feels who does not read."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1460)
    sock.settimeout(timeout)
    sock.connect(address)
    return sock


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def request(target, method="GET", *fields, token=None, body=b""):
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", *fields]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Response:
    def __init__(self, head, body):
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.fields = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}
        self.body = body


def read_response(sock, rest=b"", is_head=False):
    """The next response and what came behind it. Raises EOFError at an early end."""
    while b"\r\n\r\n" not in rest:
        more = sock.recv(65536)
        if not more:
            raise EOFError(f"no response, but {rest[:80]!r}")
        rest += more
    head, rest = rest.split(b"\r\n\r\n", 1)
    response = Response(head, b"")
    length = 0 if is_head else int(response.fields.get("content-length", 0))
    while len(rest) < length:
        more = sock.recv(65536)
        if not more:
            raise EOFError("the response was cut")
        rest += more
    response.body = rest[:length]
    return response, rest[length:]


def ask(address, raw, timeout=10):
    """One request on its own connection."""
    with connect(address, timeout=timeout) as sock:
        sock.sendall(raw)
        return read_response(sock, is_head=raw.startswith(b"HEAD"))[0]


class Server:
    def __init__(self, binary, folder, device="synthetic:sizes=320x240+640x480", args=(), open_to_all=False, limits=None,
                 is_stderr_full=False, as_nobody=False):
        self.log_path = folder / "log"
        environment = dict(os.environ)
        if not open_to_all:
            environment["FRAMEHUB_TOKEN"] = TOKEN
        if as_nobody and os.getuid() == 0:
            folder.chmod(0o755)
            binary = shutil.copy(binary, folder / "framehub")
        # A pipe that nobody reads behind the address.
        self.pipe, write = os.pipe()
        stderr = write if is_stderr_full else open(self.log_path, "wb")

        def prepare():
            for which, limit in (limits or {}).items():
                resource.setrlimit(which, (limit, limit))
            if as_nobody and os.getuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)

        command = [binary, "--device", device, "--size", "320x240", "--listen", "127.0.0.1:0", *args]
        self.process = subprocess.Popen(command, stderr=stderr, stdin=subprocess.DEVNULL, env=environment,
                                        preexec_fn=prepare, start_new_session=True)
        os.close(write)
        text = b""
        deadline = time.monotonic() + 10
        while not (found := re.search(rb"listening on http://127.0.0.1:(\d+)", text)):
            expect(self.process.poll() is None, f"the server ended: {text[-300:]!r}")
            expect(time.monotonic() < deadline, "the server did not start")
            time.sleep(0.01)
            text = os.read(self.pipe, 65536) if is_stderr_full else self.log_path.read_bytes()
        self.address = ("127.0.0.1", int(found[1]))
        self.pid = self.process.pid
        prefer(self.pid)
        self.is_stderr_full = is_stderr_full

    def figures(self):
        """Threads, descriptors and resident KiB."""
        proc = Path(f"/proc/{self.pid}")
        try:
            resident = re.search(r"VmRSS:\s*(\d+)", (proc / "status").read_text())
            return len(os.listdir(proc / "task")), len(os.listdir(proc / "fd")), int(resident[1]) if resident else 0
        except (FileNotFoundError, ProcessLookupError):
            raise Failed(f"the server ended with {self.process.poll()}") from None

    def state(self):
        return json.loads(ask(self.address, request("/state", token=TOKEN)).body)["framehub"]

    def cpu(self):
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def log(self):
        return "" if self.is_stderr_full else self.log_path.read_text(errors="replace")

    def stop(self):
        """Ends the server and returns what was wrong with its end."""
        if self.process.poll() is not None:
            return f"the server had ended with {self.process.returncode}"
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return "SIGTERM did not end it within 5 s"
        panic = re.search(r".*panicked at.*", self.log())
        return panic[0] if panic else f"exit status {status}" if status else None


def prefer(pid):
    """Gives the session of a process a high priority, where that is allowed."""
    try:
        # Where the kernel groups tasks by session, a thread's priority counts only within its group.
        Path(f"/proc/{pid}/autogroup").write_text("-20")
    except OSError:
        pass
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), -10)
    except PermissionError:
        pass


def in_child(function, *args):
    """Runs a function in another process, which ends with us. Returns the process and the pipe of its result."""
    ours, theirs = multiprocessing.Pipe()

    def run():
        try:
            theirs.send(("ok", function(*args)))
        except (Failed, AssertionError) as error:
            theirs.send(("failed", str(error)))
        except Exception as error:  # pylint: disable=broad-except
            theirs.send(("failed", "".join(traceback.format_exception(error)[-3:])))
        os._exit(0)

    child = multiprocessing.Process(target=run, daemon=True)
    child.start()
    return child, ours


def watch(address, target, control):
    """Five viewers. Reads whatever comes, until told to end; then says which of them were closed."""
    os.setsid()
    prefer(os.getpid())
    poll = selectors.DefaultSelector()
    got, closed = {}, []
    for number in range(VIEWERS):
        sock = connect(address)
        sock.sendall(request(target, "GET", f"User-Agent: watcher-{number}", token=TOKEN))
        sock.setblocking(False)
        poll.register(sock, selectors.EVENT_READ, number)
        got[number] = 0
    poll.register(control, selectors.EVENT_READ, None)
    has_told = False
    buffer = bytearray(1 << 18)
    while True:
        for key, _ in poll.select(1):
            if key.data is None:
                control.recv()
                control.send(closed)
                return None
            try:
                count = key.fileobj.recv_into(buffer)
            except BlockingIOError:
                continue
            except OSError:
                count = 0
            got[key.data] += count
            if not count:
                closed.append(key.data)
                poll.unregister(key.fileobj)
        if not has_told and min(got.values()) > 2000:
            has_told = True
            control.send("all watch")


class Snapshots(threading.Thread):
    """A client with a credential that takes a snapshot each `interval` seconds."""

    def __init__(self, address, interval, target="/snapshot"):
        super().__init__(daemon=True)
        self.address, self.interval, self.target = address, interval, target
        self.took, self.bad, self.is_over = [], [], threading.Event()
        self.start()

    def one(self):
        start = time.monotonic()
        try:
            status = ask(self.address, request(self.target, token=TOKEN), timeout=8).status
        except (OSError, EOFError) as error:
            status = repr(error)
        self.took.append(time.monotonic() - start)
        if status != 200:
            self.bad.append(status)

    def run(self):
        while not self.is_over.is_set():
            start = time.monotonic()
            self.one()
            self.is_over.wait(max(0.0, start + self.interval - time.monotonic()))

    def end(self):
        self.is_over.set()
        self.join(10)


class Attack:
    """What an attack gets: where the server is, and until when it goes on."""

    def __init__(self, server, seconds, is_long, folder):
        self.address, self.pid, self.seconds, self.is_long = server.address, server.pid, seconds, is_long
        self.server, self.folder = server, folder
        self.until = 0

    def goes_on(self):
        return time.monotonic() < self.until

    def rest(self):
        time.sleep(max(0.0, self.until - time.monotonic()))


def attack_in_child(function, attack):
    os.nice(15)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attack.until = time.monotonic() + attack.seconds
    return function(attack)


def measure(row, binary, is_long):
    """One row: what there was before, during and after the attack. Returns its figures and the faults."""
    faults = []
    with tempfile.TemporaryDirectory(prefix="framehub-attack-") as folder:
        folder = Path(folder)
        options = row.options(folder)
        seen = {}
        try:
            server = Server(binary, folder, **options)
        except Failed as failure:
            return seen, [str(failure)]
        try:
            faults += watched(row, server, seen, is_long, folder)
        except Failed as failure:
            faults.append(str(failure))
        finally:
            end = server.stop()
            os.close(server.pipe)
        if end:
            faults.append(end)
        if row.max_log and server.log_path.exists() and server.log_path.stat().st_size > row.max_log:
            faults.append(f"{server.log_path.stat().st_size} bytes of log, at most {row.max_log}")
    return seen, faults


def watched(row, server, seen, is_long, folder):
    faults = []
    watcher = control = None
    try:
        if row.watch:
            ours, theirs = multiprocessing.Pipe()
            watcher, _ = in_child(watch, server.address, row.watch, theirs)
            expect(ours.poll(10), "the viewers got nothing")
            ours.recv()
            control = ours
        else:
            row.prepare(server, folder)
        # The first one waits for a picture that has settled.
        for _ in range(2):
            first = Snapshots(server.address, 60, row.probe)
            first.end()
        before = server.figures()
        state_before, began = server.state(), time.monotonic()
        seen["before"] = (*before, max(first.took) * 1000)
        seconds = row.seconds[1 if is_long else 0]
        attacker, result = in_child(attack_in_child, row.function, Attack(server, seconds, is_long, folder))
        probe = Snapshots(server.address, 1.0 if is_long else 0.4, row.probe)
        peak = before
        deadline = time.monotonic() + seconds + 30
        while not result.poll(0.03):
            expect(time.monotonic() < deadline, "the attack did not end")
            expect(attacker.is_alive() or result.poll(0), "the attacker died")
            peak = tuple(map(max, peak, server.figures()))
        probe.end()
        verdict, note = result.recv()
        state_after, elapsed = server.state(), time.monotonic() - began
        seen["note"] = note or ""
        if verdict != "ok":
            faults.append(note)
            seen["note"] = ""
        faults += during(row, seen, peak, before, probe, (state_before, state_after, elapsed))
        faults += after(row, server, seen, before)
        if control:
            control.send("end")
            expect(control.poll(5), "the viewers' process hangs")
            closed = control.recv()
            if closed:
                faults.append(f"viewers {closed} were disconnected")
    finally:
        if watcher and watcher.is_alive():
            watcher.terminate()
    return faults


def during(row, seen, peak, before, probe, states):
    faults = []
    threads, descriptors, resident = peak
    worst = max(probe.took, default=0)
    lost, live = losses(*states)
    seen["during"] = (threads, descriptors, resident, worst * 1000)
    seen["snapshots"] = (len(probe.took) - len(probe.bad), len(probe.took))
    seen["lost"] = lost if row.watch else None
    # One that is just being accepted, or whose thread has just ended, on each side.
    most = before[0] - (VIEWERS if row.watch else 0) + CAP + 2
    if threads > most:
        faults.append(f"{threads} threads, at most {most}")
    if resident > before[2] + row.max_memory:
        faults.append(f"{resident // 1024} MiB, at most {(before[2] + row.max_memory) // 1024}")
    if not row.is_out_of_order and (probe.bad or worst > row.max_snapshot):
        faults.append(f"snapshots during: worst {worst:.2f} s, not 200: {probe.bad[:5]}")
    if row.watch and not row.is_out_of_order:
        if lost > 1.0:
            faults.append(f"viewers lost {lost:.1f} % of the frames")
        if row.min_live and live < row.min_live:
            faults.append(f"live for {live:.0%} of the time, at least {row.min_live:.0%}")
    panics = states[1]["client_panics"]
    if panics:
        faults.append(f"{panics} panics")
    return faults


def losses(before, after, elapsed):
    """Frames that viewers, or the capture thread, were not ready for, in %; and for how much of the time the camera was live."""
    def sums(state):
        mine = [client for client in state["clients"] if client["user_agent"].startswith("watcher")]
        return sum(client["frames"] for client in mine), sum(client["skipped"] for client in mine)

    frames, skipped = (now - then for now, then in zip(sums(after), sums(before)))
    captured, missed = (after["capture"][key] - before["capture"][key] for key in ("frames", "lost_by_driver"))
    lost = skipped / max(1, frames + skipped) + missed / max(1, captured + missed)
    return lost * 100, captured / max(1, elapsed * (after["camera"]["fps"] or 30))


def after(row, server, seen, before):
    faults = []
    last = Snapshots(server.address, 60, row.probe)
    last.end()
    worst = max(last.took)
    if last.bad or worst > 1:
        faults.append(f"the snapshot after it: {worst:.2f} s, {last.bad or 200}")
    deadline = time.monotonic() + row.patience
    while True:
        now = server.figures()
        # Threads may keep a little of what they had: the allocator's arenas, the pool of frames.
        is_back = now[0] <= before[0] and now[1] <= before[1] and now[2] <= before[2] + row.kept_memory
        if is_back or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    seen["after"] = (*now, worst * 1000)
    if not is_back:
        faults.append(f"not back after {row.patience} s: threads, descriptors, KiB {before} before, {now} after")
    return faults
