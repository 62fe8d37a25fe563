"""The camera's faults while viewers watch: skipped or mended, never passed on, nobody disconnected."""

import time

from lab import case
from server import CaseFailed, expect
from stream import Viewers


def watch(lab, fault, seconds=1.5):
    """Two viewers see the stream before, under and after a fault, and miss nothing that is not counted.
    Returns them and the server's totals."""
    with lab.server() as server, Viewers(lab.guest.address, 2) as viewers:
        viewers.wait_parts(20)
        lab.guest.cam(fault)
        viewers.wait_parts(int(30 * seconds), 10 * seconds)
        lab.guest.cam("reset")
        viewers.wait_parts(10)
        viewers.expect_ended_by(server)
        return viewers, server.camera_totals()


def expect_skipped(lab, fault, counter):
    """Each of the damaged frames is missing, and counted: under its own name, or as lost by the driver."""
    count = lab.counts.faults
    viewers, totals = watch(lab, f"set {fault}={count}", 1.5 + count / 30)
    lost = [v.lost() for v in viewers]
    counted = {name: totals[name] for name in (counter, "lost")}
    figures = f"{count} set, {lost} missing, counted {counted}"
    expect(min(lost) >= count and sum(counted.values()) >= count and totals[counter] > 0, figures)
    return figures


@case
def truncated(lab):
    """Truncated frames are skipped."""
    return expect_skipped(lab, "truncate", "broken")


@case
def empty(lab):
    """Empty frames are skipped."""
    return expect_skipped(lab, "empty", "lost")


@case
def oversize(lab):
    """Frames larger than the buffer are skipped."""
    return expect_skipped(lab, "oversize", "lost")


@case
def flagged(lab):
    """Frames with the error bit are skipped, whether the driver drops them or hands them out flagged."""
    figures = [expect_skipped(lab, "error", "lost")]
    lab.keep_damaged(True)
    figures.append(expect_skipped(lab, "error", "flagged"))
    return "dropped by the driver: {}; handed out: {}".format(*figures)


@case
def oversize_handed_out(lab):
    """Frames larger than the buffer are skipped too where the driver hands out their first part."""
    lab.keep_damaged(True)
    return expect_skipped(lab, "oversize", "flagged")


@case
def corrupt(lab):
    """Damage inside the scan cannot be seen and passes; the markers are intact."""
    viewers, _ = watch(lab, f"set corrupt={lab.counts.faults}")
    return f"{[v.lost() for v in viewers]} missing"


@case
def without_dht(lab):
    """Frames without Huffman tables are given the standard ones."""
    viewers, _ = watch(lab, "set nodht=1")
    for viewer in viewers:
        bare = [p.frame for p in viewer.parts if not p.has_dht]
        expect(not bare, f"{len(bare)} of {len(viewer.parts)} pictures without DHT")
    return f"{[len(v.parts) for v in viewers]} pictures"


@case
def padded(lab):
    """Padding behind EOI is cut off."""  # the viewer finds fault with a picture that does not end in EOI
    viewers, _ = watch(lab, "set pad=500")
    return f"{[len(v.parts) for v in viewers]} pictures"


@case
def one_failed_transfer(lab):
    """A failed USB transfer costs some frames and no restart."""
    viewers, _ = watch(lab, "urberror")
    sessions = {p.session for v in viewers for p in v.parts}
    expect(len(sessions) == 1, f"the stream was restarted: sessions {sorted(sessions)}")
    return f"{[v.lost() for v in viewers]} missing"


def pictures_again(lab, fault, limit):
    """Sets a fault, waits for the silence and for its end: the longest pause that a viewer saw."""
    with lab.server() as server, Viewers(lab.guest.address, 2) as viewers:
        viewers.wait_parts(20)
        lab.guest.cam(fault)
        began = time.monotonic()
        try:
            for viewer in viewers:
                viewer.wait(lambda parts: pause(parts, began) > 1, limit + 2, "a pause with pictures behind it")
        except CaseFailed as failure:
            raise CaseFailed(f"{failure}; {server.log()[-300:]}") from failure
        viewers.wait_parts(30)
        viewers.expect_connected()
        viewers.expect_sound()
        worst = max(pause(v.parts, began) for v in viewers)
        expect(worst <= limit, f"no pictures for {worst:.1f} s, limit {limit} s")
        return worst, len({p.session for p in viewers[0].parts}) - 1


def pause(parts, since):
    times = [p.at for p in parts]
    return max((b - a for a, b in zip(times, times[1:]) if b > since), default=0)


@case
def stall(lab):
    """After a stall of 3 s pictures come again to those that stayed."""
    pause_seconds, restarts = pictures_again(lab, "stall 3", 5)
    return f"pause {pause_seconds:.1f} s, {restarts} restarts"


@case
def five_failed_transfers(lab):
    """Five failed transfers end the stream without notice; the watchdog starts it again."""
    # The watchdog waits 2 s; restarting and the first frame take their time in the guest.
    pause_seconds, restarts = pictures_again(lab, "urberror 5", 4)
    expect(restarts >= 1, "the stream was not restarted")
    return f"pause {pause_seconds:.1f} s, {restarts} restarts"


@case
def low_light(lab):
    """A camera that slows down to one frame a second is not taken for a stalled one."""
    with lab.server() as server, Viewers(lab.guest.address, 2) as viewers:
        viewers.wait_parts(20)
        lab.guest.cam("set fps_max=1")
        viewers.wait_parts(5)
        sessions = {p.session for p in viewers[0].parts}
        expect(len(sessions) == 1, f"restarted: sessions {sorted(sessions)}")
        viewers.expect_sound()
        return f"{len(viewers[0].parts)} pictures in one session"


@case
def streamon_fails_once(lab):
    """A camera that does not answer STREAMON in time (EIO after 6 s) is tried again."""
    lab.guest.cam("set commit_ms=6000")
    with lab.server() as server, Viewers(lab.guest.address, 2) as viewers:
        time.sleep(3)
        lab.guest.cam("set commit_ms=0")
        viewers.wait_parts(10, 20)
        viewers.expect_sound()
        return f"pictures after {viewers[0].parts[0].index} skipped"
