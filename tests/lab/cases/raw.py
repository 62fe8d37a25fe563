"""Cameras without Motion-JPEG: vivid, the kernel's test driver, in each raw format, and the C920's largest mode."""

import re
import subprocess
import time

from lab import case
from server import expect
from stream import jpeg_fault

FORMATS = ("YUYV", "UYVY", "NV12", "YU12", "GREY", "RGB24", "BGR24")
# vivid's pattern at its start, and how far a decoded picture may be from it.
BARS = [(191, 191, 191), (191, 191, 0), (0, 191, 191), (0, 191, 0), (191, 0, 191), (191, 0, 0), (0, 0, 191), (0, 0, 0)]
TOLERANCE = 6


class Vivid:
    """A webcam of vivid's, plugged in while this lasts."""

    def __init__(self, lab):
        self.guest = lab.guest

    def __enter__(self):
        before = set(self.nodes())
        # One capture node with a webcam's sizes.
        self.guest.sh("modprobe vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0x0", 120)
        new = sorted(set(self.nodes()) - before)
        expect(len(new) == 1, f"vivid made {new}")
        self.node = new[0]
        return self.ready()

    def ready(self):
        # No text over the pattern.
        self.guest.sh(f"v4l2-ctl -d {self.node} -c osd_text_mode=2")
        return self

    def nodes(self):
        return self.guest.sh("ls /dev/video* 2>/dev/null; true").split()

    def unplug(self):
        self.guest.sh("echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind")

    def plug(self):
        self.guest.sh("echo vivid.0 >/sys/bus/platform/drivers/vivid/bind")
        expect(self.guest.wait_for(f"[ -e {self.node} ]", 10), f"vivid came back as {self.nodes()}, not as {self.node}")
        self.ready()

    def __exit__(self, *_):
        self.guest.try_sh("rmmod vivid")


def colours(jpeg, size):
    """Mean colours in the middle of each bar of a JPEG, as ffmpeg decodes it."""
    expect(jpeg_fault(jpeg) is None, jpeg_fault(jpeg))
    width, height = (int(side) for side in size.split("x"))
    command = ["ffmpeg", "-v", "error", "-f", "mjpeg", "-i", "-", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run(command, input=jpeg, stdout=subprocess.PIPE, check=True).stdout
    expect(len(pixels) == width * height * 3, f"{len(pixels)} bytes of pixels are no picture of {size}")
    found = []
    for bar in range(8):
        middle = (2 * bar + 1) * width // 16
        sums, count = [0, 0, 0], 0
        for y in (height // 4, height // 2, height - 1):
            for x in range(middle - width // 64, middle + width // 64):
                at = 3 * (y * width + x)
                sums = [total + value for total, value in zip(sums, pixels[at:at + 3])]
                count += 1
        found.append(tuple(round(total / count) for total in sums))
    return found


def expect_bars(jpeg, size, is_grey=False):
    """The bars of vivid's pattern; the largest difference from them."""
    found = colours(jpeg, size)
    wanted = BARS
    if is_grey:
        # vivid's grey is the luma of BT.709.
        wanted = [(round(0.2126 * r + 0.7152 * g + 0.0722 * b),) * 3 for r, g, b in BARS]
    worst = max(abs(a - b) for seen, bar in zip(found, wanted) for a, b in zip(seen, bar))
    expect(worst <= TOLERANCE, f"bars {found}, not {wanted}")
    return worst


def snapshot(server, size, path="/snapshot"):
    status, head, body = server.get(path, 60)
    expect(status == 200, f"{path}: {status} {body[:300]!r}")
    expect(head.get("x-frame-size", size) == size, f"{path}: {head.get('x-frame-size')}, not {size}")
    return body


@case
def formats_have_their_colours(lab):
    """Each raw format of vivid streams with --encode, and its bars arrive in their colours."""
    figures = []
    with Vivid(lab) as vivid:
        for name in FORMATS:
            with lab.server(f"--device {vivid.node} --encode 90:{name} --size 640x360") as server:
                body = snapshot(server, "640x360")
                expect(f"encoding {name} " in server.log(), f"not {name}: {server.log()[-300:]}")
                figures.append(f"{name} {expect_bars(body, '640x360', name == 'GREY')}")
    return "largest difference from the pattern: " + ", ".join(figures)


@case
def still_in_a_larger_raw_mode(lab):
    """A still of a raw camera has a larger mode, and the live stream comes back."""
    with Vivid(lab) as vivid:
        with lab.server(f"--device {vivid.node} --encode 80 --size 320x180 --still-size 1280x720") as server:
            expect_bars(snapshot(server, "320x180"), "320x180")
            started = time.monotonic()
            worst = expect_bars(snapshot(server, "1280x720", "/still"), "1280x720")
            seconds = time.monotonic() - started
            expect_bars(snapshot(server, "320x180"), "320x180")
            return f"320x180 live, 1280x720 after {seconds:.1f} s, largest difference {worst}"


@case
def still_in_the_c920s_largest_mode(lab):
    """The C920 has 2304x1536 in YUYV only: with --encode a still has it, without it the largest in Motion-JPEG."""
    lab.guest.cam("profile c920")
    try:
        expect(lab.guest.wait_for("[ ! -e /dev/video0 ]", 10), "the other camera does not go")
        lab.guest.cam("plug")
        expect(lab.guest.wait_for("[ -e /dev/video1 ]", 20), "the camera does not come")
        sizes = []
        for options, size in (("--encode 80", "2304x1536"), ("", "1920x1080")):
            with lab.server(f"--still-deadline 20 --still-settle 1 {options}") as server:
                server.wait_status("/snapshot", 200, 20)
                body = snapshot(server, size, "/still")
                expect(jpeg_fault(body) is None, jpeg_fault(body))
                # The driver of this kind of bus takes its time to end a stream of such pictures.
                server.wait_status("/snapshot", 200, 60)
                sizes.append(f"{size} {options}".strip())
        return ", ".join(sizes)
    finally:
        lab.guest.cam("profile rig")
        lab.guest.wait_for("[ ! -e /dev/video0 ]", 10)
        lab.guest.cam("plug")


@case
def unplugged_and_plugged_in_again(lab):
    """A raw camera whose driver lets go of it is lost in words and streams again when it is back."""
    times = []
    with Vivid(lab) as vivid, lab.server(f"--device {vivid.node} --encode 80 --size 320x180") as server:
        expect_bars(snapshot(server, "320x180"), "320x180")
        for _ in range(lab.counts.replugs):
            vivid.unplug()
            server.wait_status("/snapshot", 503, 10)
            vivid.plug()
            times.append(server.wait_status("/snapshot", 200, 15))
            expect_bars(snapshot(server, "320x180"), "320x180")
        expect("unplugged?" in server.log(), "the log does not say why")
    return f"{len(times)} times, pictures {max(times):.1f} s after the driver had it again at the latest"


@case
def without_the_option_it_is_refused_in_words(lab):
    """Without --encode the refusal names the option and what it would cost here, and --check measures it."""
    with Vivid(lab) as vivid:
        with lab.server(f"--device {vivid.node}") as server:
            status, _, body = server.get("/snapshot")
            refusal = body.decode()
            expect(status == 503, f"{status} {refusal}")
            for words in ("no Motion-JPEG", "YUYV", "--encode 80", "% of a processor", "--check"):
                expect(words in refusal, f"{words!r} is not in: {refusal}")
        status, report = lab.guest.try_sh(f"/srv/framehub --check --device {vivid.node} --size 640x360 "
                                          "--still-size 640x480 2>&1", 120)
        expect(status == 1 and "FAILED without --encode" in report, f"exit status {status}: {report}")
        share = re.search(r"processor +(.* ms for each picture, .* % of one processor)", report)
        expect(share, f"no share of a processor in: {report}")
        return f"{refusal.strip()}; --check: {share[1]}"
