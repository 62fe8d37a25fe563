"""The plug pulled and put back; no camera, another camera, somebody else's camera."""

import time

from lab import case
from server import expect
from stream import Viewer, Viewers

RETURN_SECONDS = 2  # from the device's return to pictures


def replug(lab, viewers, seconds_out, between=None, node="/dev/video0"):
    """Unplugs and plugs in again; seconds from the node's return to the last viewer's first picture."""
    guest = lab.guest
    guest.cam("unplug")
    time.sleep(1)  # what was on its way
    gone = [len(v.parts) for v in viewers]
    time.sleep(seconds_out - 1)
    expect(gone == [len(v.parts) for v in viewers], "pictures while the camera is unplugged")
    if between:
        between()
    guest.cam("plug")
    plugged = time.monotonic()
    expect(guest.wait_for(f"[ -e {node} ]", 10), f"no {node} after the plug")
    node_back = time.monotonic()
    firsts = [v.first_after(plugged, 15) for v in viewers]
    late = max(p.at for p in firsts) - node_back
    expect(late <= RETURN_SECONDS, f"pictures {late:.1f} s after the node's return")
    return late


@case
def pulled_under_load(lab):
    """Ten viewers that stay connected get pictures again within 2 s of the camera's return."""
    with lab.server() as server, Viewers(lab.guest.address, 10) as viewers:
        viewers.wait_parts(30, 30)
        before = server.readings()
        late = []
        for turn in range(lab.counts.replugs):
            late.append(replug(lab, viewers, 2 + turn % 3))
            viewers.wait_parts(10)
        viewers.expect_connected()
        viewers.expect_sound()
        after = server.readings()
        expect(after["fds"] <= before["fds"] and after["threads"] <= before["threads"], f"{before} then {after}")
        lines = [line for line in server.log().splitlines() if "lost" in line]
        expect(len(lines) <= 2 * lab.counts.replugs, f"{len(lines)} log lines about {lab.counts.replugs} losses")
        return f"{len(late)} times, pictures {max(late):.2f} s after the node at the latest, {before} then {after}"


@case
def no_camera_at_start(lab):
    """Without a camera the server is up and says so in words; when it comes, pictures come."""
    lab.guest.cam("unplug")
    expect(lab.guest.wait_for("[ ! -e /dev/video0 ]", 5), "the node stays")
    with lab.server() as server:
        expect(server.get("/")[0] == 200, "the page is not there")
        status, head, body = server.get("/snapshot")
        expect(status == 503, f"/snapshot {status}")
        expect(head.get("retry-after", "").isdigit(), f"Retry-After {head.get('retry-after')}")
        words = body.decode(errors="replace").strip()
        expect(len(words.split()) >= 3, f"no reason in words: {words!r}")
        expect(server.get("/healthz")[0] != 200, "/healthz 200 without a camera")
        with Viewer(lab.guest.address) as viewer:
            time.sleep(2)
            lab.guest.cam("plug")
            expect(lab.guest.wait_for("[ -e /dev/video0 ]", 10), "no node after the plug")
            node_back = time.monotonic()
            late = viewer.first_after(0, 15).at - node_back
            expect(late <= RETURN_SECONDS, f"pictures {late:.1f} s after the node's appearance")
            viewer.wait_parts(10)
            viewer.expect_sound()
            server.wait_status("/healthz", 200, 2)
        expect(server.get("/snapshot")[0] == 200, "/snapshot is not 200 with a camera")
        return f'"{words}"'


@case
def found_under_another_node(lab):
    """`--device auto` finds its camera again under another node."""
    with lab.server("--device auto") as server, Viewers(lab.guest.address, 2) as viewers:
        viewers.wait_parts(20)
        lab.hold_device()
        late = replug(lab, viewers, 2, node="/dev/video1")
        expect(lab.guest.try_sh("[ -e /dev/video0 ]")[0], "the lab: /dev/video0 is there")
        viewers.wait_parts(10)
        viewers.expect_sound()
        return f"as /dev/video1, pictures {late:.2f} s after the node"


@case
def found_by_link(lab):
    """A link such as udev makes is resolved again each time."""
    link = "/dev/v4l/by-id/usb-Rig_Camera-video-index0"

    def point(node):
        lab.guest.sh(f"mkdir -p /dev/v4l/by-id; ln -sfn {node} {link}")

    point("/dev/video0")
    with lab.server(f"--device {link}") as server, Viewers(lab.guest.address, 2) as viewers:
        viewers.wait_parts(20)
        lab.hold_device()
        late = replug(lab, viewers, 2, between=lambda: point("/dev/video1"), node="/dev/video1")
        viewers.wait_parts(10)
        viewers.expect_sound()
        return f"as /dev/video1, pictures {late:.2f} s after the node"


@case
def raw_camera_is_skipped(lab):
    """`--device auto` takes no camera without Motion-JPEG, though it be the first."""
    lab.guest.cam("unplug")
    expect(lab.guest.wait_for("[ ! -e /dev/video0 ]", 5), "the node stays")
    try:
        lab.guest.sh("modprobe vivid")
        with lab.server("--device auto") as server, Viewer(lab.guest.address) as viewer:
            time.sleep(1)
            lab.guest.cam("plug")
            viewer.wait_parts(10, 15)
            viewer.expect_sound()
            nodes = lab.guest.sh("cat /sys/class/video4linux/video*/name").split("\n")
            return f"nodes {[n.strip() for n in nodes if n]}"
    finally:
        lab.guest.cam("replug 0.3")
        lab.guest.sh("rmmod vivid")


@case
def metadata_node(lab):
    """uvcvideo's second node gives no pictures: by path it is refused in words, and `auto` passes it over."""
    expect(lab.guest.wait_for("[ -e /dev/video1 ]", 5), "the driver made no second node")
    with lab.server("--device /dev/video1") as server:
        status, _, body = server.get("/snapshot")
        expect(status == 503 and b"no capture node" in body, f"{status} {body!r}")
    with lab.server("--device auto") as server:
        expect(server.get("/snapshot")[0] == 200, "auto")
    return body.decode().strip()


@case
def taken_by_another_program(lab):
    """A camera that another program holds is said to be so, and taken when it is free."""
    lab.guest.sh("probe watch 600 640 480 >/dev/null 2>&1 & echo $! >/tmp/held.pid; usleep 500000")
    with lab.server() as server:
        status, _, body = server.get("/snapshot")
        words = body.decode(errors="replace").strip()
        expect(status == 503, f"/snapshot {status}")
        expect("busy" in words or "use" in words, f"says {words!r}")
        with Viewer(lab.guest.address) as viewer:
            time.sleep(1)
            lab.guest.sh("kill $(cat /tmp/held.pid)")
            free = time.monotonic()
            viewer.wait_parts(10, 10)
            viewer.expect_sound()
            return f'"{words}", pictures {viewer.parts[0].at - free:.1f} s after it was free'
