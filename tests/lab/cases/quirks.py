"""One buffer is not one JPEG: what cameras put into it besides a picture, each for the live stream and for stills.

Every picture that is served must be exactly one whole one, and the newer where there are two; the camera says in each
what its scan adds up to.
"""

import time

from lab import case
from server import expect
from stream import rigcam
from zoo import ZooViewer, picture_fault


def served(lab, settings, path="/still", size="1920x1080", seconds=15):
    """Thirty live pictures, a still and thirty more from a camera with `settings`; the viewer's parts and the log."""
    lab.guest.cam("set " + settings)
    with lab.server("--still-size " + size) as server, ZooViewer(lab.guest.address, 0) as viewer:
        viewer.wait_parts(30, seconds)
        status, _, body = server.get(path, 40)
        expect(status == 200, f"{path}: {status} {body[:200].decode(errors='replace')}")
        expect(picture_fault(body) is None, f"{path}: {picture_fault(body)}")
        expect(rigcam(body)[4] == size, f"{path} is {rigcam(body)[4]}, not {size}")
        viewer.wait_parts(30, seconds)
        viewer.expect_sound(may_repeat=True)
        return viewer.parts, server.log()


@case
def junk_before_soi(lab):
    """Bytes in front of the picture are cut."""
    parts, _ = served(lab, "junk=3")
    return f"{len(parts)} pictures"


@case
def fill_before_eoi(lab):
    """Fill bytes in front of EOI are no harm."""
    parts, _ = served(lab, "fill=5")
    return f"{len(parts)} pictures"


@case
def zeros_behind_eoi(lab):
    """Zeros behind EOI are cut."""
    parts, _ = served(lab, "pad=3000")
    return f"{len(parts)} pictures"


@case
def stale_tail_behind_eoi(lab):
    """The end of an older picture behind EOI is cut, its EOI with it."""
    parts, _ = served(lab, "stale=3000")
    return f"{len(parts)} pictures"


@case
def two_pictures_in_one_buffer(lab):
    """Of two whole pictures in one buffer the newer is served."""
    with_both, _ = served(lab, "twice=1")
    lab.guest.cam("reset")
    alone, _ = served(lab, "twice=0")
    # The buffer's time is that of the newer one: the older would be one period earlier than alone.
    age = lambda parts: sorted(part.timestamp - part.captured for part in parts)[len(parts) // 2]
    expect(abs(age(with_both) - age(alone)) < 0.02, f"pictures {age(with_both) - age(alone):.3f} s too old")
    return f"{len(with_both)} pictures, {1e3 * (age(with_both) - age(alone)):.0f} ms older than alone"


@case
def half_a_picture_before_a_whole_one(lab):
    """Of half a picture and a whole one behind it the whole one is served."""
    parts, _ = served(lab, "half=1")
    return f"{len(parts)} pictures"


@case
def never_an_eoi(lab):
    """A camera that never sends EOI is served after ten pictures, with one line in the log."""
    parts, log = served(lab, "noeoi=1")
    lines = [line for line in log.splitlines() if "EOI" in line or "end of image" in line.lower()]
    expect(len(lines) == 1, f"said in {len(lines)} lines: {lines[:3]}")
    return f"{len(parts)} pictures; \"{lines[0]}\""


@case
def no_tables(lab):
    """Pictures without Huffman tables (AVI1) get the usual ones."""
    parts, _ = served(lab, "nodht=1")
    expect(all(part.has_dht for part in parts), "no DHT")
    return f"{len(parts)} pictures"


@case
def every_buffer_flagged(lab):
    """A driver that flags every buffer as damaged is believed no more after ten sound pictures, with one line in the log."""
    lab.keep_damaged(True)
    parts, log = served(lab, "error=-1")
    lines = [line for line in log.splitlines() if "flag" in line and "camera closed" not in line]
    expect(len(lines) == 1, f"said in {len(lines)} lines: {lines[:3]}")
    return f"{len(parts)} pictures; \"{lines[0]}\""


@case
def another_size_than_stated(lab):
    """Where the camera sends another size than the driver says, that is the stills' size, and no still takes long for it."""
    lab.guest.cam("set sof_w=1280 sof_h=720")
    took = []
    with lab.server("--still-size 1920x1080") as server, ZooViewer(lab.guest.address, 0) as viewer:
        viewer.wait_parts(30)
        for _ in range(3):
            start = time.monotonic()
            status, head, body = server.get("/still", 40)
            took.append(time.monotonic() - start)
            expect(status == 200, f"/still: {status} {body[:200].decode(errors='replace')}")
            expect(rigcam(body)[4] == head["x-frame-size"] == "1280x720", f"{rigcam(body)[4]}, {head['x-frame-size']}")
            viewer.wait_parts(10)
        viewer.expect_sound(may_repeat=True)
    expect(max(took) < 4, f"stills took {took} s")
    return ", ".join(f"{seconds:.1f} s" for seconds in took)


@case
def damaged_at_the_start(lab):
    """The first picture of each stream, damaged but whole by its markers, is neither a still nor a cold snapshot."""
    lab.guest.cam("set first_bad=1")
    with lab.server("--idle 1 --still-size 1920x1080") as server:
        for path in ("/snapshot", "/still", "/still"):
            expect(lab.guest.wait_for("! ls -l /proc/$(cat /tmp/server.pid)/fd | grep -q /dev/video", 15), "not let go")
            status, _, body = server.get(path, 20)
            expect(status == 200 and picture_fault(body) is None, f"{path}: {status} {picture_fault(body)}")
            expect(rigcam(body)[3] > 0, f"{path}: the first picture of its stream")
    return "/snapshot, /still"


@case
def late_first_picture(lab):
    """A camera whose first picture comes 5 s after each start is no stalled one, and gives stills."""
    _, log = served(lab, "first_ms=5000", seconds=25)
    expect("restarting" not in log and "camera lost" not in log, log[-300:])
    return "5 s"
