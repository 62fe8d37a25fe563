"""The instrument itself: each of the camera's faults, seen through uvcvideo by guest/probe.c."""

import re
import threading
import time

from lab import case
from server import expect


class Watch:
    """What probe saw of the frames: `watch SECONDS` with something done one second into it."""

    def __init__(self, lab, seconds, *commands):
        probe = threading.Thread(target=self._probe, args=(lab.guest, seconds))
        probe.start()
        time.sleep(1)
        for command in commands:
            lab.guest.cam(command)
        probe.join()
        found = re.search(r"total (\d+) frames", self.log)
        self.frames = int(found[1]) if found else 0
        numbers = [int(n) for n in re.findall(r"frame=(\d+)", self.log)]
        self.lost = sum(b - a - 1 for a, b in zip(numbers, numbers[1:]))

    def _probe(self, guest, seconds):
        self.log = guest.try_sh(f"probe watch {seconds} 640 480", 60)[1]

    def count(self, text):
        return self.log.count(text)

    def expect_frames(self, least):
        expect(self.frames >= least, f"{self.frames} frames, not {least}: {self.log[-300:]}")
        return self


@case
def clean(lab):
    """Without a fault every frame is whole."""
    watch = Watch(lab, 2).expect_frames(40)
    expect(watch.count("BROKEN") == 0, f"{watch.count('BROKEN')} broken frames")
    return f"{watch.frames} frames"


@case
def damaged(lab):
    """Truncated frames arrive as good buffers; corrupt and padded ones look whole."""
    for fault, broken in (("truncate=3", 3), ("corrupt=3", 0), ("pad=500", 0)):
        watch = Watch(lab, 2, "set " + fault).expect_frames(40)
        expect(watch.count("BROKEN") == broken, f"{fault}: {watch.count('BROKEN')} broken frames, not {broken}")
        lab.guest.cam("reset")
    return "truncate, corrupt, pad"


@case
def dropped(lab):
    """Empty, flagged and oversize frames never arrive with nodrop=0, which is Linux 6.1's default."""
    for fault in ("empty", "error", "oversize"):
        watch = Watch(lab, 2, f"set {fault}=3").expect_frames(40)
        expect(watch.count("(ERROR)") == 0, f"{fault}: flagged buffers arrived")
        expect(watch.lost >= 3, f"{fault}: {watch.lost} frames lost, not 3")
    return "empty, error, oversize"


@case
def flagged(lab):
    """With nodrop=1 a frame with the error bit arrives with V4L2_BUF_FLAG_ERROR."""
    lab.keep_damaged(True)
    watch = Watch(lab, 2, "set error=3").expect_frames(40)
    expect(watch.count("(ERROR)") >= 3, f"{watch.count('(ERROR)')} flagged buffers, not 3")
    return f"{watch.count('(ERROR)')} flagged"


@case
def stalls(lab):
    """A stall shows as nothing but poll's time-out, and ends."""
    watch = Watch(lab, 4, "stall 2").expect_frames(40)
    expect(watch.count("ETIMEDOUT") >= 1, "no time-out of 1 s")
    return f"{watch.count('ETIMEDOUT')} time-outs"


@case
def transfers_fail(lab):
    """One failed USB transfer flags buffers; five end the stream without notice until it is started again."""
    watch = Watch(lab, 3, "urberror")
    expect(watch.count("(ERROR)") >= 1 and watch.count("ETIMEDOUT") == 0, "one failure: " + watch.log[-300:])
    watch = Watch(lab, 4, "urberror 5")
    expect(watch.count("ETIMEDOUT") >= 2, "five failures: " + watch.log[-300:])
    Watch(lab, 2).expect_frames(40)
    return "1 and 5 failures"


@case
def unplugs(lab):
    """Unplugged, DQBUF says ENODEV; plugged in again it works."""
    watch = Watch(lab, 3, "unplug")
    expect(watch.count("DQBUF ENODEV") == 1, "no ENODEV: " + watch.log[-300:])
    lab.guest.cam("plug")
    expect(lab.guest.wait_for("[ -e /dev/video0 ]", 10), "no /dev/video0")
    Watch(lab, 2).expect_frames(40)
    return "ENODEV, then pictures"


@case
def pulled_in_a_commit(lab):
    """Pulled while STREAMON waits and put back at once: that fails after the driver's own 5 s, then the camera is back."""
    lab.guest.sh("dmesg -c >/dev/null")
    lab.guest.cam("set commit_ms=2000")
    probe = threading.Thread(target=lambda: lab.guest.try_sh("probe watch 1 640 480", 60))
    probe.start()
    time.sleep(1)
    lab.guest.cam("replug 0.1")
    lab.guest.cam("reset")
    probe.join()
    expect(lab.guest.wait_for("[ -e /dev/video0 ]", 10), "no /dev/video0")
    Watch(lab, 2).expect_frames(40)
    expect("commit control : -110" in lab.guest.sh("dmesg"), "STREAMON was not waiting")
    return "EIO, then pictures"


@case
def another_node(lab):
    """While somebody holds /dev/video0 open, a camera that is plugged in again gets another name."""
    lab.hold_device()
    lab.guest.cam("replug 0.3")
    expect(lab.guest.wait_for("ls /dev/video* 2>/dev/null | grep -q .", 10), "no node at all")
    nodes = lab.guest.sh("sleep 1; echo /dev/video*").split()
    expect("/dev/video0" not in nodes, f"{nodes}")
    return " ".join(nodes)


@case
def slow_switch(lab):
    """commit_ms and first_ms delay a switch by at least their sum."""
    lab.guest.cam("set commit_ms=500 first_ms=700")
    total = re.search(r"total\s+([\d.]+)", lab.guest.sh("probe switch 3 640 480 1280 720"))
    expect(total and float(total[1]) >= 1200, f"took {total and total[1]} ms")
    return f"{total[1]} ms"


@case
def no_dht(lab):
    """nodht=1 frames have no Huffman tables, others do."""
    seen = []
    for setting in (0, 1):
        lab.guest.cam(f"set nodht={setting}")
        dump = lab.guest.sh("v4l2-ctl -d /dev/video0 --set-fmt-video=width=640,height=480,pixelformat=MJPG "
                            "--stream-mmap --stream-count=1 --stream-to=/tmp/f >/dev/null 2>&1; "
                            "head -c 2000 /tmp/f | od -An -tx1 -v | tr -d ' \\n'")
        seen.append("ffc4" in dump)
    expect(seen == [True, False], f"DHT seen without and with nodht: {seen}")
    return "with and without"
