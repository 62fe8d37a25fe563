"""The attacks: each is one row of the table."""

import os
import resource
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from typing import Callable

from harness import TOKEN, Failed, ask, connect, expect, read_response, request, reset

ROWS = []
OPEN = {"open_to_all": True}
# It is away for 0.6 s and ten dark pictures, twice for each still: the first bright picture for a snapshot that comes with a
# still is due 2 s later, before it has settled.
SLOW_CAMERA = "synthetic:sizes=320x240+1280x720,switch_ms=600,warmup=10"


@dataclass
class Row:
    name: str
    what: str
    function: Callable
    # One of the rows of the short form: those whose kind no other test has.
    short: bool = False
    # Seconds of the attack, short and long.
    seconds: tuple = (2.5, 10)
    server: dict = field(default_factory=dict)
    # What the viewers ask for; None where there is nothing to be seen.
    watch: str = "/stream"
    # What the client with a credential asks for.
    probe: str = "/snapshot"
    # The server is stopped, restarted or starved on purpose: only what comes after counts.
    is_out_of_order: bool = False
    # Seconds for a snapshot during the attack.
    max_snapshot: float = 2
    # Least part of the time for which the camera is live, where the attack switches it.
    min_live: float = 0
    # KiB beyond what there was before: during, and afterwards.
    max_memory: int = 24 * 1024
    # 350 stacks that the C library keeps for the next threads are 8 MiB.
    kept_memory: int = 12 * 1024
    # Seconds for threads, descriptors and memory to come back.
    patience: float = 10
    max_log: int = 400_000
    prepare: Callable = lambda server, folder: None

    def options(self, folder):
        return {key: value(folder) if callable(value) else value for key, value in self.server.items()}


def row(**options):
    def add(function):
        name = function.__name__.replace("_", "-")
        ROWS.append(Row(name=name, what=function.__doc__, function=function, **options))
        return function
    return add


def unread(attack, count, raw, receive_buffer=4096, repeat=1):
    """Connections that send requests as long as they are taken, and read nothing, until the attack's end."""
    sockets = []
    for turn in range(count):
        if not attack.goes_on():
            break
        sock = connect(attack.address, receive_buffer)
        sock.setblocking(False)
        piece = raw[turn % len(raw)] if isinstance(raw, list) else raw
        try:
            sock.send(piece * repeat)
        except OSError:
            pass
        sockets.append(sock)
    attack.rest()
    for sock in sockets:
        sock.close()
    return f"{len(sockets)} connections"


def flood(attack, *raw, end=None, read=True):
    """The same requests in turn again and again, each on a new connection."""
    count = 0
    statuses = {}
    while attack.goes_on():
        try:
            sock = connect(attack.address, timeout=5)
            sock.sendall(raw[count % len(raw)])
            if read:
                status = read_response(sock)[0].status
                statuses[status] = statuses.get(status, 0) + 1
            (end or socket.socket.close)(sock)
        except (OSError, EOFError) as error:
            statuses[type(error).__name__] = statuses.get(type(error).__name__, 0) + 1
        count += 1
    return f"{count} connections {statuses or ''}".strip()


def refused(attack, raw, statuses, and_closed=True):
    """One malformed request in turn: each is refused in words or closed, and nothing behind it is taken for a request."""
    count = 0
    while attack.goes_on():
        with connect(attack.address, timeout=8) as sock:
            try:
                sock.sendall(raw)
                response, rest = read_response(sock)
                expect(response.status in statuses, f"{raw[:60]!r} got {response.status}, expected {statuses}")
                while and_closed and (more := sock.recv(65536)):
                    rest += more
                expect(not and_closed or b"HTTP/1.1 2" not in rest, "what stood behind it was taken for a request")
            except (ConnectionError, BrokenPipeError, EOFError):
                expect(None in statuses, f"{raw[:60]!r} got no response")
        count += 1
    return f"{count} times"


# What broke before.

@row(short=True, server=OPEN, seconds=(3, 10))
def pipelined_404_unread(attack):
    """1,200 connections pipeline GET /nope and read nothing."""
    return unread(attack, 1200, request("/nope"), repeat=100)


@row(server=OPEN, seconds=(4, 10))
def unread_snapshots(attack):
    """120 snapshots that nobody reads."""
    return unread(attack, 120, request("/snapshot"), repeat=8)


@row(short=True, seconds=(4, 10))
def unread_page_by_strangers(attack):
    """100 strangers pipeline /page.js on a server with credentials."""
    return unread(attack, 100, request("/page.js"), repeat=40)


@row(short=True, seconds=(4, 10), server={"device": SLOW_CAMERA, **OPEN}, min_live=0.45, max_snapshot=2.8, max_memory=48 * 1024)
def unread_stills(attack):
    """120 stills that nobody reads."""
    return unread(attack, 120, request("/still"))


def pull(server, folder):
    (folder / "gone").touch()
    time.sleep(0.5)


@row(short=True, watch=None, prepare=pull, probe="/page.js", seconds=(3, 8),
     server={"device": lambda folder: f"synthetic:unplug_file={folder}/gone", **OPEN})
def snapshots_of_an_absent_camera(attack):
    """100 snapshots of a camera that is not there."""
    return unread(attack, 100, request("/snapshot"))


@row(watch=None, prepare=pull, probe="/page.js", seconds=(3, 8),
     server={"device": lambda folder: f"synthetic:unplug_file={folder}/gone", **OPEN}, patience=20)
def viewers_that_leave_an_absent_camera(attack):
    """62 viewers of an absent camera that send one more byte and leave."""
    for _ in range(62):
        sock = connect(attack.address)
        sock.sendall(request("/stream") + b"x")
        sock.close()
    attack.rest()


@row(short=True, seconds=(0.5, 3))
def foreign_origin_with_credential(attack):
    """A page of another site whose proxy adds the credential."""
    for site in ("https://evil.example", "null", "http://127.0.0.1.evil.example"):
        for target, method in (("/controls", "POST"), ("/still", "GET"), ("/?action=command&id=9963776&value=1", "GET")):
            raw = request(target, method, f"Origin: {site}", token=TOKEN, body=b"brightness=1" if method == "POST" else b"")
            status = ask(attack.address, raw).status
            expect(status == 403, f"{method} {target} by {site}: {status}")


@row(short=True, seconds=(6, 20), server={"device": SLOW_CAMERA, **OPEN}, min_live=0.45, max_snapshot=2.8, max_memory=48 * 1024)
def still_loop(attack):
    """One client that takes stills in a loop, some with ?settle=1000, from a camera that is slow to switch."""
    return flood(attack, request("/still?settle=1000"), request("/still"))


@row(seconds=(6, 20), server={"device": SLOW_CAMERA, **OPEN}, min_live=0.45, max_snapshot=2.8, max_memory=48 * 1024)
def still_flood(attack):
    """Thirty clients that take stills in a loop."""
    return floods(attack, 30, request("/still"))


def floods(attack, clients, raw):
    import threading
    notes = []
    threads = [threading.Thread(target=lambda: notes.append(flood(attack, raw))) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return f"{sum(int(note.split()[0]) for note in notes)} requests, one of them: {notes[0]}"


@row(short=True, seconds=(0.5, 3), server={"args": ["--allow-origin", "none"], **OPEN})
def dns_rebinding(attack):
    """A page whose name leads to this machine, and pages that read by CORS."""
    host = request("/state").replace(b"Host: 127.0.0.1", b"Host: evil.example")
    expect(ask(attack.address, host).status == 403, "the foreign name was served")
    for target in ("/state", "/snapshot", "/metrics", "/stream"):
        response = ask_head(attack.address, request(target, "GET", "Origin: https://evil.example"))
        allowed = response.fields.get("access-control-allow-origin")
        expect(allowed is None, f"{target} may be read by {allowed}")


def ask_head(address, raw):
    with connect(address) as sock:
        sock.sendall(raw)
        return read_response(sock, is_head=True)[0]


@row(short=True, seconds=(0.5, 3), server=OPEN)
def framing_the_page(attack):
    """A page that shows ours in a frame, to steal a click."""
    page = ask(attack.address, request("/"))
    policy = page.fields.get("content-security-policy", "")
    for part in ("frame-ancestors 'self'", "base-uri 'none'", "form-action 'none'"):
        expect(part in policy, f"no {part} in {policy!r}")
    for target in ("/", "/state", "/snapshot", "/page.js", "/nope", "/healthz", "/controls", "/metrics"):
        got = ask(attack.address, request(target)).fields.get("x-content-type-options")
        expect(got == "nosniff", f"{target} has no nosniff")


@row(seconds=(5, 25), server={"args": ["--replay", "2", "--all-frames-memory", "16MiB"], **OPEN}, max_memory=40 * 1024,
     kept_memory=20 * 1024)
def slow_readers_of_clips(attack):
    """Four clients that read a clip with a window of 4 KiB, and one more that wants a clip."""
    time.sleep(1)
    slow = [connect(attack.address, 4096) for _ in range(4)]
    for sock in slow:
        sock.sendall(request("/clip?last=1"))
    time.sleep(0.3)
    got = []
    while attack.goes_on():
        status = ask_head(attack.address, request("/clip?last=1")).status
        got.append(status)
        time.sleep(0.5)
    expect(200 in got, f"nobody else gets a clip: {got}")
    return f"clips beside: {got.count(200)} of {len(got)}"


@row(short=True, seconds=(6, 25), server={"device": "synthetic:sizes=320x240+1920x1080,bytes=500000", "args": ["--fps", "5"],
                              **OPEN}, max_memory=110 * 1024, kept_memory=40 * 1024, min_live=0.45)
def slow_readers_of_stills(attack):
    """80 clients that read stills of 500 kB at 40 kB/s."""
    return drip(attack, 80, request("/still"), 4000, 0.1)


def drip(attack, count, raw, size, pause, receive_buffer=4096):
    sockets = []
    for _ in range(count):
        try:
            sock = connect(attack.address, receive_buffer)
            sock.sendall(raw)
            sock.setblocking(False)
            sockets.append(sock)
        except OSError:
            pass
    read = 0
    while attack.goes_on():
        for sock in list(sockets):
            try:
                got = sock.recv(size)
                read += len(got)
                if not got:
                    sockets.remove(sock)
                    sock.close()
            except BlockingIOError:
                pass
            except OSError:
                sockets.remove(sock)
        time.sleep(pause)
    for sock in sockets:
        sock.close()
    return f"{count} connections, {read} bytes"


@row(short=True, seconds=(3, 10), server={"limits": {resource.RLIMIT_NOFILE: 60}, **OPEN})
def descriptors_run_out(attack):
    """Silent connects on a server with 60 descriptors."""
    return unread(attack, 300, b"")


@row(short=True, seconds=(3, 10), server={"as_nobody": True, "limits": {resource.RLIMIT_NPROC: 40}, **OPEN})
def threads_run_out(attack):
    """Silent connects on a server that may have 40 threads."""
    return unread(attack, 300, b"")


@row(short=True, seconds=(3, 10), server={"limits": {resource.RLIMIT_AS: 96 << 20}, **OPEN}, is_out_of_order=True)
def address_space_runs_out(attack):
    """Silent connects and unread pages on a server with 96 MiB of address space."""
    return unread(attack, 500, [b"", request("/page.js") * 20, request("/snapshot")])


@row(short=True, seconds=(0.5, 3))
def secrets_on_the_command_line(attack):
    """Passwords that are misspelt or empty: refused, and not printed."""
    binary = f"/proc/{attack.pid}/exe"
    for args in (["--as", "mjpg_streamer", "-o", "output_http.so -c :S3cret -p 0"], ["--password=S3cret"],
                 ["--as", "ustreamer", "--password=S3cret"]):
        try:
            done = subprocess.run([binary, *args], capture_output=True, timeout=2, text=True, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise Failed(f"{args} starts a server") from None
        expect(done.returncode == 2, f"{args}: exit status {done.returncode}")
        expect("S3cret" not in done.stdout + done.stderr, f"{args} prints the secret")


@row(seconds=(0.5, 3))
def length_with_a_foreign_space(attack):
    """Content-Length with a no-break space behind it, which Unicode calls white space."""
    for space in (b"\xc2\xa0", b"\xa0", b"\xe3\x80\x80", b"\x0b", b"\x0c"):
        raw = b"POST /controls HTTP/1.1\r\nHost: a\r\nContent-Length: 3" + space + b"\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
        refused_once(attack, raw, {400})


def refused_once(attack, raw, statuses):
    kept, attack.until = attack.until, time.monotonic() + 0.001
    refused(attack, raw, statuses)
    attack.until = kept


@row(seconds=(0.5, 3))
def lines_before_a_request(attack):
    """Stray CRLF before a request, which RFC 9112 lets pass."""
    for _ in range(20):
        with connect(attack.address, timeout=3) as sock:
            sock.sendall(b"\r\n\r\n" + request("/snapshot", token=TOKEN) + b"\r\n" + request("/healthz", token=TOKEN))
            first, rest = read_response(sock)
            second, _ = read_response(sock, rest)
            expect((first.status, second.status) == (200, 200), f"{first.status}, {second.status}")


@row(seconds=(3, 10), server=OPEN)
def heads_byte_by_byte(attack):
    """Heads of 8 KiB in segments of one byte: parsing them costs no more than their length."""
    head = request("/healthz", "GET", "X-Long: " + "y" * 7800)
    start, count = attack.server.cpu(), 0
    while attack.goes_on():
        with connect(attack.address) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(len(head)):
                sock.send(head[at:at + 1])
            expect(read_response(sock)[0].status == 200, "the head was not taken")
        count += 1
    spent = (attack.server.cpu() - start) / count
    expect(spent < 0.5, f"{spent:.2f} s of CPU for each head")
    return f"{count} heads, {spent * 1000:.0f} ms of CPU each"


@row(seconds=(2, 8), server=OPEN)
def many_parameters(attack):
    """Queries of 3,900 parameters."""
    raw = request("/stream?mode=none&" + "&".join("a" for _ in range(3900)))
    start, count = attack.server.cpu(), 0
    while attack.goes_on():
        expect(ask(attack.address, raw).status in (400, 414, 431), "it was taken")
        count += 1
    spent = (attack.server.cpu() - start) / count
    return f"{count} requests, {spent * 1000:.1f} ms of CPU each"


@row(seconds=(4, 10), max_log=200_000, server=OPEN)
def come_and_go(attack):
    """Viewers that come and go as fast as they can: the log is limited."""
    return flood(attack, request("/stream"), end=reset, read=False)


@row(seconds=(3, 45), watch="/stream?mode=lockstep", server={"args": ["--lockstep-patience", "1"], **OPEN},
     is_out_of_order=True)
def slow_lockstep_member(attack):
    """A viewer in lock-step that takes nothing: the others go on after the patience."""
    sock = connect(attack.address, 4096)
    sock.sendall(request("/stream?mode=lockstep"))
    attack.rest()
    sock.close()


@row(seconds=(0.5, 3), server=OPEN, watch=None, probe="/page.js")
def camera_kept_awake(attack):
    """/warm?for=3600s by anybody: at most a minute."""
    response = ask(attack.address, request("/warm?for=3600s"))
    expect(response.status in (200, 204, 400), f"{response.status}")
    return response.body.decode(errors="replace").strip()[:60]


@row(seconds=(1, 4), server={"device": SLOW_CAMERA, **OPEN})
def head_of_a_still(attack):
    """HEAD /still switches no camera."""
    count = 0
    while attack.goes_on():
        with connect(attack.address) as sock:
            sock.sendall(request("/still", "HEAD"))
            expect(read_response(sock, is_head=True)[0].status in (200, 405), "an error")
        count += 1
    taken = attack.server.state()["stills"]["switches"]
    expect(taken == 0, f"{taken} switches")
    return f"{count} times"


# Slow and endless requests.

@row(seconds=(3, 12))
def slowloris_in_the_head(attack):
    """300 heads that come a byte at a time."""
    return trickle(attack, 300, b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ", b"y")


@row(seconds=(3, 12))
def slowloris_in_the_body(attack):
    """300 bodies that come a byte at a time."""
    return trickle(attack, 300, b"POST /controls HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", b"y")


def trickle(attack, count, start, byte):
    sockets = []
    for _ in range(count):
        sock = connect(attack.address)
        sock.sendall(start)
        sockets.append(sock)
    while attack.goes_on():
        for sock in list(sockets):
            try:
                sock.send(byte)
            except OSError:
                sockets.remove(sock)
        time.sleep(0.5)
    for sock in sockets:
        sock.close()
    return f"{count} connections"


@row(short=True, seconds=(3, 20))
def silent_connects(attack):
    """800 connects that say nothing."""
    return unread(attack, 800, b"")


@row(seconds=(1, 6))
def endless_request_line(attack):
    """A request line without an end."""
    return endless(attack, b"GET /", b"u" * 65536)


@row(seconds=(1, 6))
def endless_header_line(attack):
    """A header line without an end."""
    return endless(attack, b"GET / HTTP/1.1\r\nHost: a\r\nX-Endless: ", b"h" * 65536)


@row(seconds=(1, 6))
def endless_body(attack):
    """A body without an end, and of 200 GB."""
    return endless(attack, b"POST /controls HTTP/1.1\r\nHost: a\r\nContent-Length: 200000000000\r\n\r\n", b"b" * 65536)


@row(seconds=(1, 6))
def ten_thousand_headers(attack):
    """Heads with 10,000 fields."""
    return endless(attack, b"GET / HTTP/1.1\r\nHost: a\r\n", b"X-Many: 1\r\n" * 10000, most=1)


def endless(attack, start, chunk, most=256):
    """Until it is hung up on, which has to be before all of it was taken."""
    count = 0
    while attack.goes_on():
        with connect(attack.address) as sock:
            sent = 0
            try:
                sock.sendall(start)
                while sent < most:
                    sock.sendall(chunk)
                    sent += 1
                status = read_response(sock)[0].status
                expect(400 <= status < 500 and most == 1, f"{status} after all of it")
            except (OSError, EOFError):
                pass
        count += 1
    return f"{count} times"


# Malformed requests.

@row(seconds=(0.5, 4))
def bare_lf(attack):
    """Lines that end with LF alone, which httparse takes as RFC 9112 allows; with CR in a line, refused."""
    status = ask(attack.address, b"GET /page.js HTTP/1.1\nHost: a\n\n").status
    expect(status in (200, 400), f"{status}")
    return refused(attack, b"GET /page.js HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", {400})


@row(seconds=(0.5, 4))
def nul_bytes(attack):
    """NUL in a field and in the target."""
    refused_once(attack, b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", {400, 404})
    return refused(attack, b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", {400})


@row(seconds=(0.5, 4))
def folded_lines(attack):
    """A field that goes on in the next line (obs-fold)."""
    return refused(attack, b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n GET /snapshot HTTP/1.1\r\n\r\n", {400})


@row(seconds=(0.5, 4))
def tls_hello(attack):
    """A TLS client hello."""
    return refused(attack, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), {400})


@row(seconds=(0.5, 4))
def http2_preface(attack):
    """An HTTP/2 client's preface."""
    return refused(attack, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\4" + bytes(20), {505, 400})


@row(seconds=(0.5, 4))
def absolute_targets(attack):
    """Absolute URIs, .., //, %00 and %2e in targets: nothing but the known URLs."""
    for target in ("http://evil.example/etc/passwd", "/../../etc/passwd", "//etc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
                   "/page.js%00.html", "/page.js/../state", "ftp://x/", "http://", "*", "/" + "a/" * 3000):
        for method in ("GET", "HEAD", "POST"):
            raw = request(target, method, token=TOKEN)
            status = ask(attack.address, raw).status
            expect(status in (200, 400, 404, 405) and (status != 200 or "://" in target), f"{method} {target}: {status}")


@row(seconds=(0.5, 4))
def length_with_chunks(attack):
    """Content-Length with Transfer-Encoding: one of both is for the next request."""
    body = b"0\r\n\r\nGET /page.js HTTP/1.1\r\nHost: a\r\n\r\n"
    head = b"POST /controls HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nTransfer-Encoding: %s\r\n\r\n"
    for coding in (b"chunked", b"identity", b"\tchunked", b"xchunked", b"chunked, identity"):
        refused_once(attack, head % (len(body), coding) + body, {400, 501})
    return refused(attack, head.replace(b"Content-Length: %d\r\n", b"") % b"chunked" + body, {501, 400})


@row(seconds=(0.5, 4))
def wrong_lengths(attack):
    """Content-Length that overflows, is negative, doubled or a list."""
    for length in (b"18446744073709551617", b"-1", b"+3", b"0x3", b"3, 3", b"3\r\nContent-Length: 4", b"", b"3 3", b"1e3"):
        refused_once(attack, b"POST /controls HTTP/1.1\r\nHost: a\r\nContent-Length: " + length + b"\r\n\r\nabc", {400, 413})


@row(seconds=(0.5, 4))
def doubled_hosts(attack):
    """No Host, two of them, and space before the colon."""
    refused_once(attack, b"GET / HTTP/1.1\r\n\r\n", {400})
    refused_once(attack, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", {400})
    return refused(attack, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", {400})


# Connections.

@row(seconds=(2, 8))
def pipelining_a_thousand(attack):
    """1,000 requests at once on one connection, all responses read."""
    with connect(attack.address) as sock:
        import threading
        sender = threading.Thread(target=sock.sendall, args=(request("/healthz") * 1000,))
        sender.start()
        rest = b""
        for turn in range(1000):
            response, rest = read_response(sock, rest)
            expect(response.status == 200, f"response {turn}: {response.status}")
        sender.join()


@row(short=True, seconds=(3, 12), server=OPEN)
def resets(attack):
    """A reset behind each request, 5,000 times."""
    targets = ["/snapshot", "/stream", "/", "/nowhere", "/state"]
    count = 0
    while count < 5000 and (attack.goes_on() or attack.is_long):
        sock = connect(attack.address)
        sock.send(request(targets[count % len(targets)]))
        reset(sock)
        count += 1
    return f"{count} resets"


@row(seconds=(2, 8), server=OPEN)
def half_closes(attack):
    """Clients that close their sending half after the request, and wait."""
    sockets = []
    for turn in range(200):
        sock = connect(attack.address)
        sock.sendall(request(("/healthz", "/stream", "/snapshot", "/nope")[turn % 4]))
        sock.shutdown(socket.SHUT_WR)
        sockets.append(sock)
    got = sum(bool(sock.recv(100)) for sock in sockets)
    attack.rest()
    return f"{got} of 200 got a response"


@row(short=True, seconds=(4, 12), server={"args": ["--replay", "2"], **OPEN}, max_memory=100 * 1024, kept_memory=70 * 1024)
def zero_windows(attack):
    """Clients of every URL that never read."""
    targets = ["/", "/page.js", "/page.css", "/favicon.svg", "/state", "/metrics", "/healthz", "/snapshot", "/stream",
               "/stream?mode=all", "/stream?mode=lockstep", "/clip?last=1", "/clip?format=json", "/controls", "/input.json",
               "/program.json", "/nope", "/warm", "/?action=snapshot", "/?action=stream"]
    return unread(attack, 300, [request(target) * 50 for target in targets])


@row(seconds=(4, 12), server=OPEN)
def drippers(attack):
    """60 viewers and 30 takers of snapshots that read ten bytes at a time."""
    return drip(attack, 90, request("/stream") if attack.is_long else request("/snapshot"), 10, 0.2)


@row(short=True, seconds=(4, 5), max_log=200_000)
def connect_flood(attack):
    """16,000 connects in 4 s."""
    count = 0
    while attack.goes_on() and count < 16000:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(attack.address)
        time.sleep(0)
        reset(sock)
        count += 1
    return f"{count} connects"


@row(seconds=(3, 10))
def connects_that_stay(attack):
    """Connects as fast as they are taken, all kept."""
    return unread(attack, 4000, b"G")


# The process.

@row(short=True, seconds=(2, 6), is_out_of_order=True)
def stopped_and_continued(attack):
    """SIGSTOP and SIGCONT, with clients that arrive in between."""
    while attack.goes_on():
        os.kill(attack.pid, signal.SIGSTOP)
        late = [connect(attack.address) for _ in range(20)]
        for sock in late:
            sock.sendall(request("/healthz"))
        time.sleep(0.4)
        os.kill(attack.pid, signal.SIGCONT)
        for sock in late:
            expect(read_response(sock)[0].status == 200, "who came while it was stopped was not served")
            sock.close()
        time.sleep(0.3)


@row(short=True, seconds=(2, 10), is_out_of_order=True)
def hangup_storm(attack):
    """SIGHUP as fast as it can be sent: the camera is opened again, viewers stay."""
    count = 0
    while attack.goes_on():
        os.kill(attack.pid, signal.SIGHUP)
        count += 1
        time.sleep(0.005)
    return f"{count} signals"


@row(seconds=(3, 10), server={"is_stderr_full": True, **OPEN})
def full_stderr(attack):
    """A log that nobody reads, while every line that can be written is."""
    return flood(attack, request("/stream", "GET", f"User-Agent: {'u' * 300}"), end=reset, read=False)


# Floods.

@row(seconds=(3, 10), server=OPEN)
def snapshot_flood(attack):
    """Twenty clients that take snapshots in a loop."""
    return floods(attack, 20, request("/snapshot"))


@row(seconds=(3, 10), server={"args": ["--replay", "2", "--all-frames-memory", "16MiB"], **OPEN}, max_memory=48 * 1024,
     kept_memory=24 * 1024)
def clip_flood(attack):
    """Six clients that take clips in a loop."""
    return floods(attack, 6, request("/clip?last=1"))


@row(seconds=(3, 10), server=OPEN)
def post_flood(attack):
    """Controls set in a loop, with bodies of 60 kB, nested and broken."""
    bodies = [b"brightness=1", b'{"a": ' + b"[" * 60000, b"a=1&" * 15000, b'{"brightness": "%s"}' % (b"9" * 60000), b"\xff" * 60000]
    count = 0
    while attack.goes_on():
        status = ask(attack.address, request("/controls", "POST", body=bodies[count % len(bodies)])).status
        expect(status in (200, 400, 409, 413, 503), f"{status}")
        count += 1
    return f"{count} requests"


@row(seconds=(3, 10))
def credential_flood(attack):
    """Forty clients that try credentials in a loop."""
    return floods(attack, 40, request("/snapshot", token="wrong"))


@row(seconds=(2, 8))
def method_flood(attack):
    """Methods that nobody knows, TRACE, CONNECT and OPTIONS *."""
    count = 0
    while attack.goes_on():
        for method, target, statuses in (("TRACE", "/", {405, 501}), ("CONNECT", "a:1", {400, 404, 405, 501}),
                                         ("OPTIONS", "*", {200, 204}), ("BREW", "/", {501}), ("A" * 7000, "/", {501, 431})):
            status = ask(attack.address, request(target, method)).status
            expect(status in statuses, f"{method[:10]} {target}: {status}")
            count += 1
    return f"{count} requests"


@row(seconds=(3, 10), server=OPEN)
def viewers_that_come_again(attack):
    """Viewers that take a few frames, leave in any manner and come again."""
    def leave(sock):
        sock.recv(20000)
        (reset if sock.fileno() % 2 else socket.socket.close)(sock)
    return flood(attack, request("/stream"), end=leave, read=False)


@row(seconds=(6, 12), server=OPEN)
def stalled_viewers(attack):
    """64 viewers that take nothing: newcomers get their places after 2 s."""
    sockets = [connect(attack.address, 4096) for _ in range(80)]
    for sock in sockets:
        sock.sendall(request("/stream"))
    time.sleep(2.5)
    status = 503
    while status != 200 and attack.goes_on():
        with connect(attack.address) as sock:
            sock.sendall(request("/stream"))
            status = read_response(sock, is_head=True)[0].status
        time.sleep(0.2)
    expect(status == 200, "a newcomer finds no place")
    for sock in sockets:
        sock.close()
