"""Many viewers at once, and what each of them gets."""

import time

from lab import TooSlow, case, on_quiet_host, sleep_until
from server import expect
from stream import GuestViewers, Viewer, Viewers, connect, hang_up, jpeg_fault, rigcam

def ten_viewers(lab, size, least):
    """Ten viewers in the guest for `load_seconds`, each of whom must get `least` pictures a second."""
    with lab.server(f"--size {size} --fps 30") as server:
        viewers = GuestViewers(lab.guest, 10)
        time.sleep(lab.counts.load_seconds + 3)
        viewers.expect_ended_by(server)
        expect(all(p.size == size for v in viewers for p in v.parts), "a picture of another size")
        start = max(v.parts[0].at for v in viewers) + 1
        rates = [v.rate(start, start + lab.counts.load_seconds) for v in viewers]
        missed = max(v.lost() for v in viewers)
        figures = f"{min(rates):.1f} to {max(rates):.1f} fps, at most {missed} of {len(viewers[0].parts)} missed"
        if min(rates) < least:
            raise TooSlow(figures)
        return figures


@case
def ten_at_640x480(lab):
    """Ten viewers get 29 pictures a second each, none of them broken, and miss none that is not counted."""
    return on_quiet_host(lab, lambda: ten_viewers(lab, "640x480", 29))


@case
def ten_at_1280x720(lab):
    """Ten viewers get whole pictures at 1280x720 and miss none that is not counted; no rate is asked."""
    return ten_viewers(lab, "1280x720", 1)


@case
def one_misses_nothing(lab):
    """A single viewer gets every frame that the server got, stamped with its time of capture."""
    with lab.server() as server, Viewers(lab.guest.address, 1) as viewers:
        viewers.wait_parts(30 * lab.counts.load_seconds, 3 * lab.counts.load_seconds)
        viewers.expect_ended_by(server)
        # The guest's two clocks differ by a constant: were it the time of sending, this would scatter.
        offsets = sorted(p.timestamp - p.captured for p in viewers[0].parts)
        scatter = offsets[len(offsets) * 99 // 100] - offsets[0]
        expect(scatter < 0.1, f"X-Timestamp scatters by {scatter:.3f} s round the time of capture")
        return f"{len(offsets)} pictures, {viewers[0].lost()} missed, X-Timestamp within {scatter * 1e3:.0f} ms"


@case
def three_modes_at_once(lab):
    """Twenty viewers in each mode: those of `all` get every frame that anybody got, those of `lockstep` the same."""
    return on_quiet_host(lab, lambda: in_three_modes(lab))


def in_three_modes(lab):
    paths = [f"/stream?mode={mode}" for mode in ("newest", "all", "lockstep")]
    seconds = lab.counts.load_seconds
    with lab.server("--size 320x240 --fps 15") as server:
        viewers = GuestViewers(lab.guest, 20, *paths)
        time.sleep(seconds + 3)
        viewers.expect_ended_by(server)
    start, end = max(v.parts[0].frame for v in viewers), min(v.parts[-1].frame for v in viewers)
    seen = [{p.frame for p in v.parts if start <= p.frame <= end} for v in viewers]
    newest, every, lockstep = seen[:20], seen[20:40], seen[40:]
    expect(all(frames == set.union(*seen) for frames in every), "one of `all` lacks a frame that others got")
    expect(all(frames == lockstep[0] for frames in lockstep), "lock-step viewers got different frames")
    counts = [f"{min(map(len, frames))} to {max(map(len, frames))}" for frames in (newest, every, lockstep)]
    figures = "frames of newest {}, all {}, lockstep {} in {} s".format(*counts, seconds)
    if min(map(len, newest)) < 0.9 * 15 * seconds:
        raise TooSlow(figures)
    return figures


@case
def stalled_viewer_costs_nothing(lab):
    """A viewer that never reads leaves the others their rate, and is dropped."""
    return on_quiet_host(lab, lambda: beside_a_stalled_viewer(lab))


def beside_a_stalled_viewer(lab):
    with lab.server() as server, Viewer(lab.guest.address) as viewer:
        viewer.wait_parts(30)
        before = server.readings()
        stalled = connect(lab.guest.address, receive_buffer=4096)
        start = time.monotonic()
        sleep_until(start + 5)
        rate = viewer.rate(start, start + 5)
        flat = wait_flat(server, before, 40)
        dropped_after = time.monotonic() - start
        hang_up(stalled)
        viewer.expect_sound()
        expect(flat["threads"] <= before["threads"], f"not dropped after 40 s: {before} then {flat}")
        if rate < 29:
            raise TooSlow(f"{rate:.1f} fps beside a stalled viewer")
        return f"{rate:.1f} fps beside it, dropped after {dropped_after:.0f} s"


@case
def snapshot_is_fresh(lab):
    """A snapshot was exposed after it was asked for, from a cold and from a warm camera."""
    ages = []
    with lab.server("--idle 5") as server:
        for _ in range(lab.counts.faults):
            asked = int(lab.guest.cam("time")) / 1e9
            status, head, body = server.get("/snapshot")
            expect(status == 200, f"status {status}: {body[:200]!r}")
            expect(jpeg_fault(body) is None, f"{jpeg_fault(body)}")
            for name in ("x-timestamp", "x-frame-seq", "content-length"):
                expect(name in head, f"no {name}")
            captured = rigcam(body)[1]
            # The camera stamps a frame when it begins to send it, uvcvideo when its first bytes arrive.
            expect(captured > asked - 0.05, f"exposed {asked - captured:.3f} s before the request")
            ages.append(captured - asked)
    return f"exposed {min(ages) * 1e3:.0f} to {max(ages) * 1e3:.0f} ms after the request"


@case
def come_and_go(lab):
    """Viewers that come and go, politely or not, leave no thread, descriptor or memory behind."""
    with lab.server() as server, Viewer(lab.guest.address) as steady:
        cycle(lab, 20)  # whatever is made once has been made then
        before = wait_flat(server, server.readings(), 3)
        start = time.monotonic()
        cycle(lab, lab.counts.cycles)
        seconds = time.monotonic() - start
        after = wait_flat(server, before, 15)
        steady.expect_sound()
        steady.wait_parts(10)
        figures = f"{lab.counts.cycles} cycles in {seconds:.0f} s, before {before}, after {after}"
        expect(after["threads"] <= before["threads"] and after["fds"] <= before["fds"], figures)
        expect(after["own_kb"] <= before["own_kb"] + 512, figures)
        return figures


def cycle(lab, count):
    """`count` viewers in fives: some read a picture or two, some leave at once, and some reset the connection."""
    for first in range(0, count, 5):
        viewers = [Viewer(lab.guest.address) for _ in range(3)]
        hang_up(connect(lab.guest.address))
        hang_up(connect(lab.guest.address), with_reset=True)
        for viewer in viewers:
            viewer.wait_parts(1 + first % 2, 20)
            viewer.expect_sound()
            viewer.close()


def wait_flat(server, before, seconds):
    """Waits until threads and descriptors are down to `before`; the last readings."""
    end = time.monotonic() + seconds
    while True:
        now = server.readings()
        if now["threads"] <= before["threads"] and now["fds"] <= before["fds"] or time.monotonic() > end:
            return now
        time.sleep(0.2)
