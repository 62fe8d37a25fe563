"""Full-resolution stills from a camera that is being watched, and what can happen to it during one."""

import json
import re
import statistics
import threading
import time

from lab import case
from server import CaseFailed, expect
from stream import Viewer, Viewers, connect, hang_up, jpeg_fault, rigcam

PERIOD = 1 / 30
SLACK_PERIODS = 4  # what the issue allows on top of the camera's own time


def still(server, size, path="/still", asked=None):
    """One still: checked to be whole, of this size and exposed after it was asked for. Its headers and numbers."""
    asked = asked or int(server.guest.cam("time")) / 1e9
    while True:
        status, head, body = server.get(path, 30)
        # The live stream may have to run first for longer than a still waits.
        if status != 503 or b"viewers have the live picture" not in body:
            break
        time.sleep(int(head["retry-after"]))
    expect(status == 200, f"{path}: {status} {body[:200]!r}")
    expect(jpeg_fault(body) is None, f"{path}: {jpeg_fault(body)}")
    numbers = rigcam(body)
    expect(numbers and numbers[4] == size and head.get("x-frame-size") == size, f"{path}: not {size}: {numbers}")
    # The camera stamps a frame when it begins to send it, which may be a moment before the driver sees it.
    expect(numbers[1] > asked - 0.05, f"{path}: exposed {asked - numbers[1]:.3f} s before it was asked for")
    return head, numbers


def pauses(viewer):
    """The times between pictures across each change of the camera's session, by the camera's own clock."""
    pairs = zip(viewer.parts, viewer.parts[1:])
    return [later.captured - earlier.captured for earlier, later in pairs if later.session != earlier.session]


def own_switch(lab, size):
    """What the camera and its driver take for one switch and its first picture: median of probe's, in seconds."""
    width, height = size.split("x")
    report = lab.guest.sh(f"probe switch 10 640 480 {width} {height}", 120)
    total = re.search(r"total +(\S+) +(\S+) +(\S+)", report)  # min, median, max in ms
    expect(total, f"the lab: probe says {report[-200:]!r}")
    return float(total[2]) / 1e3


def median_and_p99(values):
    values = sorted(values)
    return f"{statistics.median(values) * 1e3:.0f}/{values[min(len(values) - 1, len(values) * 99 // 100)] * 1e3:.0f} ms"


def stills_under_load(lab, size):
    own = own_switch(lab, size)
    with lab.server(f"--still-size {size} --still-min-interval 0") as server, Viewers(lab.guest.address, 10) as viewers:
        viewers.wait_parts(10, 30)
        switches = []
        for _ in range(lab.counts.stills):
            head, _ = still(server, size)
            switches.append(int(head["x-still-switch-ms"]) / 1e3)
            viewers[0].wait_parts(3)
        viewers.expect_connected()
        for viewer in viewers:
            expect(not viewer.faults, f"{viewer.faults[:1]}")
        seen = pauses(viewers[0])
        expect(len(seen) >= lab.counts.stills, f"{len(seen)} pauses for {lab.counts.stills} stills")
        # The settling frames at the still mode's own rate, as the server saw them come.
        settle = json.loads(server.get("/state")[2])["framehub"]["stills"]["settle_ms"] / 1e3
        allowed = 2 * own + settle + SLACK_PERIODS * PERIOD
        median = statistics.median(seen)
        expect(median <= allowed, f"pause {median * 1e3:.0f} ms in the median, allowed {allowed * 1e3:.0f}")
        return (f"{lab.counts.stills} stills, pause median/p99 {median_and_p99(seen)}, "
                f"switch there {median_and_p99(switches)}, settling {settle * 1e3:.0f} ms, "
                f"the camera's own {own * 1e3:.0f} ms each way, allowed {allowed * 1e3:.0f}")


@case
def many_at_1920x1080(lab):
    """Stills under ten viewers: each whole, fresh and of the right size, nobody lost, short pauses."""
    return stills_under_load(lab, "1920x1080")


@case
def many_at_3840x2160(lab):
    """The same in 4K."""
    return stills_under_load(lab, "3840x2160")


@case
def twenty_at_once(lab):
    """Twenty requests at once make one or two switches, and all twenty answers are right."""
    # On a busy host the last of twenty comes later than this camera switches; real ones take longer.
    lab.guest.cam("set commit_ms=500")
    with lab.server("--still-size 1920x1080") as server, Viewer(lab.guest.address) as viewer:
        viewer.wait_parts(10)
        commits = int(lab.guest.status()["commits"])
        results = []
        asked = int(lab.guest.cam("time")) / 1e9

        def ask():
            try:
                results.append(still(server, "1920x1080", asked=asked)[1])
            except CaseFailed as failure:
                results.append(failure)

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wrong = [r for r in results if isinstance(r, CaseFailed)]
        expect(not wrong, f"{len(wrong)} of 20 wrong: {wrong[:1]}")
        viewer.wait_parts(5)
        # There and back again: two commits a switch.
        switches = (int(lab.guest.status()["commits"]) - commits) / 2
        expect(1 <= switches <= 2, f"{switches} switches")
        viewer.expect_sound(may_repeat=True)
        return f"{switches:.0f} switches, {len({r[0] for r in results})} different pictures"


@case
def cold_pictures_are_bright(lab):
    """A camera whose first 15 frames are dark: snapshot and still wait for light, the live stream does not."""
    lab.guest.cam("set warmup=15")
    with lab.server("--idle 1 --still-size 1920x1080") as server:
        figures = []
        for path in ("/snapshot", "/still", "/still?settle=0"):
            server.wait_status("/healthz", 200, 5)
            expect(lab.guest.wait_for(ASLEEP, 15), "the camera is not let go")
            status, head, body = server.get(path, 20)
            expect(status == 200, f"{path}: {status} {body[:200]!r}")
            index = rigcam(body)[3]
            if "settle=0" in path:
                expect(index < 15, f"{path}: picture {index}, so it has waited")
            else:
                expect(index >= 15, f"{path}: picture {index} of the stream is still dark")
            figures.append(f"{path} picture {index}")
        expect(lab.guest.wait_for(ASLEEP, 15), "the camera is not let go")
        with Viewer(lab.guest.address) as viewer:
            viewer.wait_parts(1)
            expect(viewer.parts[0].index < 5, f"the live stream began with picture {viewer.parts[0].index}")
    return ", ".join(figures)


ASLEEP = "! ls -l /proc/$(cat /tmp/server.pid)/fd | grep -q /dev/video"


@case
def answered_before_the_way_back(lab):
    """A still is answered as soon as it is taken, however long the camera takes for the way back."""
    delays = {}
    with lab.server("--still-size 1920x1080") as server, Viewer(lab.guest.address) as viewer:
        viewer.wait_parts(10)
        for first_ms in (0, 300):
            lab.guest.cam(f"set first_ms={first_ms}")
            seen = []
            for _ in range(max(3, lab.counts.faults)):
                seen.append(head_delay(lab))
                viewer.wait_parts(3)
                time.sleep(0.6)
            delays[first_ms] = statistics.median(seen)
    later = delays[300] - delays[0]
    expect(later < PERIOD, f"answered {later * 1e3:.0f} ms later where the way back takes 300 ms more")
    return f"head {delays[0] * 1e3:.0f} ms after the exposure began, {delays[300] * 1e3:.0f} ms with a slow way back"


def head_delay(lab):
    """From a still's exposure to the arrival of the answer's head."""
    offset = clock_offset(lab)
    s = connect(lab.guest.address, "/still")
    data = s.recv(1 << 16)
    arrived = time.monotonic() + offset
    while b"RIGCAM" not in data or len(data) < 2000:
        data += s.recv(1 << 16)
    hang_up(s)
    return arrived - rigcam(data[data.find(b"\xff\xd8"):])[1]


def clock_offset(lab):
    """The guest's monotonic clock minus ours, from the quickest of some exchanges."""
    best = None
    for _ in range(5):
        start = time.monotonic()
        guest = int(lab.guest.cam("time")) / 1e9
        end = time.monotonic()
        if best is None or end - start < best[0]:
            best = (end - start, guest - (start + end) / 2)
    return best[1]


@case
def slow_reader_holds_nothing(lab):
    """A client that reads a still at 10 kB/s pauses the live stream no longer than one that reads it at once."""
    with lab.server("--still-size 1920x1080") as server, Viewer(lab.guest.address) as viewer:
        viewer.wait_parts(10)
        still(server, "1920x1080")
        viewer.wait_parts(10)
        slow = connect(lab.guest.address, "/still", receive_buffer=4096)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            slow.recv(1000)
            time.sleep(0.1)
        viewer.wait_parts(10)
        hang_up(slow)
        fast, slow = pauses(viewer)
        viewer.expect_sound(may_repeat=True)
        expect(slow <= fast * 1.5 + PERIOD, f"pause {slow * 1e3:.0f} ms, with a fast reader {fast * 1e3:.0f} ms")
        return f"pause {slow * 1e3:.0f} ms, with a fast reader {fast * 1e3:.0f} ms"


@case
def same_size_needs_no_switch(lab):
    """Where the still has the stream's size the answer is a fresh live picture."""
    with lab.server("--still-size 640x480") as server, Viewer(lab.guest.address) as viewer:
        viewer.wait_parts(10)
        commits = lab.guest.status()["commits"]
        for _ in range(5):
            still(server, "640x480")
        expect(lab.guest.status()["commits"] == commits, "the camera was switched")
        viewer.expect_sound()
        return "no switch"


@case
def failing_switch_gives_the_stream_back(lab):
    """STREAMON that fails after 6 s, or a stream that dies: 503 with the reason, then live pictures again."""
    figures = []
    with lab.server("--still-size 1920x1080") as server, Viewers(lab.guest.address, 2) as viewers:
        viewers.wait_parts(10)
        for fault, during, repair in (("set commit_ms=6000", None, "set commit_ms=0"),
                                      ("set first_ms=2000", "urberror 5", "set first_ms=0")):
            lab.guest.cam(fault)
            timer = threading.Timer(1, lambda: lab.guest.cam(during or repair))
            repaired = threading.Timer(3, lambda: lab.guest.cam(repair))
            timer.start()
            repaired.start()
            start = time.monotonic()
            status, head, body = server.get("/still", 40)
            took = time.monotonic() - start
            timer.join()
            repaired.join()
            expect(status == 503 and "retry-after" in head, f"{fault}: {status} {body[:100]!r}")
            viewers.wait_parts(20, 15)
            figures.append(f"503 after {took:.1f} s ({body.decode().strip()})")
        viewers.expect_connected()
        still(server, "1920x1080")
    return "; ".join(figures)


def answer_when_pulled(lab, server, delay, path="/still"):
    """Asks for a still, pulls the plug so many seconds later or, with None, on the way back: the answer's status."""
    if delay is None:
        status = server.get(path, 40)[0]
        time.sleep(0.4)
        lab.guest.cam("unplug")
        return status
    puller = threading.Timer(delay, lambda: lab.guest.cam("unplug"))
    puller.start()
    status = server.get(path, 40)[0]
    puller.join()
    return status


def plug_in_again(lab, server, viewers, step):
    """Puts the plug back; every viewer has to get pictures, and the next still has to be right."""
    lab.guest.cam("reset")
    time.sleep(0.5)
    lab.guest.cam("plug")
    # The driver lets go of a camera pulled in a commit only after its own 5 s.
    expect(lab.guest.wait_for("[ -e /dev/video0 ]", 10), f"{step}: no /dev/video0: is its descriptor kept?")
    back = time.monotonic()
    late = max(v.first_after(back, 15).at for v in viewers) - back
    expect(late <= 2.5, f"{step}: pictures {late:.1f} s after the return")
    still(server, "1920x1080")
    viewers.wait_parts(5)


@case
def unplugged_at_each_step(lab):
    """The plug pulled at each step of a still, under ten viewers: pictures after the replug, nothing left over."""
    # What slows the camera at the step, when to pull after the request, and the answer if it was pulled in time.
    steps = {
        "before STREAMOFF": ("reset", 0.0, 503),
        "after S_FMT": ("set commit_ms=1500", 0.7, 503),
        "before the first picture": ("set first_ms=1500", 0.7, 503),
        # Not by a dark camera: the live stream, which has just begun, would be as dark, and the still right at once.
        "while settling": ("reset", 1.2, 503),
        "on the way back": ("set commit_ms=1000", None, 200),
    }
    with lab.server("--still-size 1920x1080") as server, Viewers(lab.guest.address, 10) as viewers:
        viewers.wait_parts(10, 30)
        before = server.readings()
        for step, (slow, delay, wanted) in steps.items():
            for _ in range(3):  # a busy host may pull too late
                lab.guest.cam(slow)
                path = "/still?settle=60" if step == "while settling" else "/still"
                status = answer_when_pulled(lab, server, delay, path)
                plug_in_again(lab, server, viewers, step)
                if status == wanted:
                    break
            expect(status == wanted, f"{step}: {status}, not {wanted}")
        viewers.expect_connected()
        after = server.readings()
        expect(after["fds"] <= before["fds"] and after["threads"] <= before["threads"], f"{before} then {after}")
        return ", ".join(steps)


@case
def warm_budgets(lab):
    """Warm, a snapshot takes less than 1 s, and a still less than 2 s on a camera that needs 300 ms to switch."""
    lab.guest.cam("set commit_ms=150 first_ms=150")
    with lab.server("--still-size 1920x1080") as server:
        expect(server.get("/warm?for=60s")[0] == 200, "/warm")
        time.sleep(4)
        took = {}
        for path in ("/snapshot", "/still"):
            start = time.monotonic()
            status, _, body = server.get(path)
            took[path] = time.monotonic() - start
            expect(status == 200, f"{path}: {status} {body[:100]!r}")
        expect(took["/snapshot"] < 1 and took["/still"] < 2, f"{took}")
        return ", ".join(f"{path} {seconds:.2f} s" for path, seconds in took.items())


@case
def last_picture_while_away(lab):
    """While a slow still is taken viewers get the last picture again at least once a second, as it was."""
    with lab.server("--still-size 1920x1080") as server, Viewer(lab.guest.address) as viewer:
        viewer.wait_parts(30)
        lab.guest.cam("set first_ms=2500")
        start = time.monotonic()
        still(server, "1920x1080")
        viewer.first_after(start + 5, 10)
        lab.guest.cam("reset")
        times = [p.at for p in viewer.parts if p.at > start - 0.5]
        longest = max(b - a for a, b in zip(times, times[1:]))
        expect(longest <= 1.3, f"{longest:.1f} s without a picture")
        again = sum(later.frame == earlier.frame for earlier, later in zip(viewer.parts, viewer.parts[1:]))
        expect(again >= 2, f"only {again} repeated pictures")
        wrong = [1 for a, b in zip(viewer.parts, viewer.parts[1:]) if a.frame == b.frame and a.timestamp != b.timestamp]
        expect(not wrong and not viewer.faults, f"{len(wrong)} with another time, {viewer.faults[:1]}")
        return f"{again} repeated, {longest:.2f} s between pictures at most"
