"""When the camera is opened and let go, and how the server ends."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

from lab import case
from server import Server, expect
from stream import Viewer, connect, hang_up


def wait_mode(lab, idle, seconds):
    """Waits until the camera is idle, or is not; seconds it took."""
    start = time.monotonic()
    while (lab.guest.status()["mode"] == "idle") != idle:
        expect(time.monotonic() < start + seconds, f"the camera is {'still on' if idle else 'off'} after {seconds} s")
        time.sleep(0.05)
    return time.monotonic() - start


@case
def let_go_when_idle(lab):
    """With `--idle 2` the camera is let go 2 s after the last viewer, and the next one gets pictures."""
    with lab.server("--idle 2") as server:
        expect(lab.guest.status()["mode"] == "idle", "the camera is on before anybody looks")
        with Viewer(lab.guest.address) as viewer:
            viewer.wait_parts(10)
        off = wait_mode(lab, True, 5)
        expect(off > 1.5, f"let go after {off:.1f} s")
        held = lab.guest.sh("ls -l /proc/$(cat /tmp/server.pid)/fd | grep -c /dev/video; true").strip()
        expect(held == "0", "the device is still open")
        with Viewer(lab.guest.address) as viewer:
            viewer.wait_parts(10)
            viewer.expect_sound()
        return f"off {off:.1f} s after the last viewer"


@case
def kept_open(lab):
    """With `--idle 0` the camera is never let go."""
    with lab.server("--idle 0") as server:
        wait_mode(lab, False, 5)
        with Viewer(lab.guest.address) as viewer:
            viewer.wait_parts(10)
        time.sleep(4)
        expect(lab.guest.status()["mode"] != "idle", "let go")
        commits = lab.guest.status()["commits"]
        return f"on after 4 s, {commits} commits"


@case
def cold_requests_make_one_open(lab):
    """Three snapshots at once from a cold camera open it once."""
    with lab.server() as server:
        wait_mode(lab, True, 10)
        before = int(lab.guest.status()["commits"])
        with ThreadPoolExecutor(3) as requests:
            answers = [status for status, _, _ in requests.map(server.get, ["/snapshot"] * 3)]
        commits = int(lab.guest.status()["commits"]) - before
        expect(answers == [200] * 3, f"{answers}")
        expect(commits == 1, f"{commits} times")
        return "one commit"


@case
def opened_and_closed(lab):
    """A camera that is opened for each snapshot and let go leaves no descriptor, map, thread or memory behind."""
    with lab.server("--idle 0.05") as server:
        open_and_close(lab, server, 10)  # whatever is made once has been made then
        before = server.readings()
        maps = "wc -l </proc/$(cat /tmp/server.pid)/maps"
        maps_before = int(lab.guest.sh(maps))
        open_and_close(lab, server, lab.counts.cycles)
        after, maps_after = server.readings(), int(lab.guest.sh(maps))
        figures = f"{lab.counts.cycles} times, before {before} and {maps_before} maps, after {after} and {maps_after} maps"
        expect(after["threads"] <= before["threads"] and after["fds"] <= before["fds"], figures)
        expect(after["own_kb"] <= before["own_kb"] + 512 and maps_after <= maps_before + 4, figures)
        return figures


def open_and_close(lab, server, count):
    for _ in range(count):
        commits = lab.guest.status()["commits"]
        status, _, body = server.get("/snapshot?settle=0")
        expect(status == 200, f"{status} {body[:100]!r}")
        wait_mode(lab, True, 5)
        expect(lab.guest.status()["commits"] != commits, "the camera was not opened again")


@case
def buffers_are_accounted_for(lab):
    """Of the driver's buffers framehub holds at most one, after viewers left, faults, stills and a replug, too."""
    seen = set()

    def check(after):
        for _ in range(10):
            line = lab.guest.sh("probe buffers $(cat /tmp/server.pid)").strip()
            count = dict((name, int(value)) for name, value in (word.split("=") for word in line.split()))
            expect(count["total"] >= 2 and count["held"] <= 1, f"after {after}: {line}")
            seen.add(f"{count['total']} with {count['held']} held")

    with lab.server("--still-size 1920x1080") as server, Viewer(lab.guest.address) as viewer:
        viewer.wait_parts(10)
        check("the start")
        for with_reset in (False, True):
            others = [connect(lab.guest.address) for _ in range(10)]
            viewer.wait_parts(5)
            for other in others:
                hang_up(other, with_reset)
            viewer.wait_parts(5)
            check("viewers that left")
        for after, command in (("a failed transfer", "urberror 1"), ("a stall", "stall 3"), ("a replug", "replug 1")):
            lab.guest.cam(command)
            time.sleep(4)
            viewer.wait_parts(10)
            check(after)
        expect(server.get("/still", 20)[0] == 200, "/still")
        viewer.wait_parts(10)
        check("a still")
    return "buffers: " + ", ".join(sorted(seen))


@case
def stopped_and_continued(lab):
    """A process that is stopped and continued, which interrupts its system calls (EINTR), goes on by itself."""
    with lab.server() as server, Viewer(lab.guest.address) as viewer:
        viewer.wait_parts(10)
        for _ in range(lab.counts.faults):
            lab.guest.sh("kill -STOP $(cat /tmp/server.pid); usleep 300000; kill -CONT $(cat /tmp/server.pid)")
            viewer.wait_parts(5, 3)
        viewer.expect_sound()
        expect("warn" not in server.log().lower(), f"{server.log()[-300:]}")
        return f"{lab.counts.faults} times"


@case
def ends_at_once(lab):
    """SIGTERM and SIGINT end it in less than a second with a stalled viewer, and streams with the last boundary."""
    took = []
    for signal in ("TERM", "INT"):
        with lab.server() as server, Viewer(lab.guest.address) as viewer:
            viewer.wait_parts(20)
            stalled = connect(lab.guest.address, receive_buffer=4096)
            time.sleep(3)  # until it really is
            status, seconds = server.signal(signal)
            end = viewer.wait_end(5)
            hang_up(stalled)
            expect(status == 0, f"exit status {status} on SIG{signal}")
            expect(seconds < 1, f"SIG{signal} took {seconds} s")
            expect(end == "last boundary", f"the stream's end: {end}")
            viewer.expect_sound()
            took.append(seconds)
    return f"{took} s"


@case
def ends_without_camera(lab):
    """SIGTERM ends it at once too while a viewer waits for a camera that is unplugged."""
    with lab.server() as server, Viewer(lab.guest.address) as viewer:
        viewer.wait_parts(10)
        lab.guest.cam("unplug")
        time.sleep(1.5)
        status, seconds = server.signal("TERM")
        end = viewer.wait_end(5)
        expect((status, end) == (0, "last boundary"), f"exit status {status}, the stream's end: {end}")
        expect(seconds < 1, f"took {seconds} s")
        return f"{seconds} s"


@case
def in_place_of_mjpgserver(lab):
    """MJPGServer's sample config in its place, and the program that its unit file starts, as they are."""
    sample = json.dumps({"port": 8080, "device": "/dev/video0", "daemonize": False, "logLevel": 0, "lowResWidth": 640,
                         "lowResHeight": 480, "closeDeviceTimeoutSec": 0, "securityToken": "verySecretToken"})
    lab.guest.sh("mkdir -p /usr/local/bin /etc/mjpgserver; ln -sf /srv/framehub /usr/local/bin/mjpgsrv; "
                 f"echo '{sample}' >/etc/mjpgserver/config.json")
    with Server(lab.guest, "-j /etc/mjpgserver/config.json", "/usr/local/bin/mjpgsrv") as server:
        expect(server.get("/mjpg")[0] == 401, "no token is needed")
        with Viewer(lab.guest.address, "/mjpg?token=verySecretToken") as viewer:
            viewer.wait_parts(10)
            status, headers, body = server.get("/full_res?token=verySecretToken")
            expect(status == 200 and body[:2] + body[-2:] == b"\xff\xd8\xff\xd9", f"/full_res: {status} {body[:200]!r}")
            viewer.expect_sound(may_repeat=True)
        log = server.log()
        expect("verySecretToken" not in log, "the token is in the log")
        said = next(line for line in log.splitlines() if "started as mjpgsrv" in line)
        return f"a still of {headers['x-frame-size']}; \"{said}\""
