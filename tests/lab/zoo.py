"""The zoo: devices that people have, emulated from profiles (zoo/), and what framehub promises for each.

A promise is kept, broken, or n/a where the device cannot have it. Each profile is run on its own link, in one guest
for all: the camera becomes another device between two of them.
"""

import json
import re
import statistics
import time
import zlib

from guest import HERE, Guest, LabError
from server import CaseFailed, Server, expect
from stream import Viewer, jpeg_fault, rigcam

PROFILES = HERE / "zoo"
# Four for every run: what is most common, an oddly sized one, no camera at all, and bulk.
SHORT = ("c920", "c270", "ms2109", "generic-bulk")
# Of which the full run takes 500 stills each.
MANY = ("c920", "brio-usb2", "imx298-16mp")
LIVE = "640x480"  # framehub's own choice, where the device has it
RIGHT = 127  # the brightness of a picture that is exposed as it should be; the camera has even numbers only
TRUTH = re.compile(rb"level=(\d+) sum=([0-9a-f]{8})")
RETURN_SECONDS = 2


class NotApplicable(Exception):
    """The device cannot have what is promised; says why."""


class Profile:
    """What a run must know of a profile; camera/src/profile.rs reads all of it."""

    def __init__(self, name):
        self.name, self.sizes, self.controls, self.behaviour, self.title = name, {}, {}, {}, ""
        self.assumed, self.link, is_mjpeg = 0, "bulk", False
        self.has_status, self.second = False, ""
        for line in (PROFILES / name).read_text().splitlines():
            self.title = self.title or line.strip("# ")
            self.assumed += "assumed" in line
            words = line.split(" #")[0].split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] == "format":
                is_mjpeg = words[1] == "MJPG"
            elif words[0] == "link":
                self.link = " ".join(word for word in words[1:] if word in ("isoc", "super", "bulk"))
            elif words[0] == "status":
                self.has_status = words[1] == "yes"
            elif words[0] == "second":
                self.second = words[1]
            elif words[0] == "control":
                self.controls[words[1]] = words[2:]
            elif words[0] == "behaviour":
                self.behaviour.update((k, int(v)) for k, v in (word.split("=") for word in words[1:]))
            elif re.fullmatch(r"\d+x\d+", words[0]) and is_mjpeg:
                rate = words[words.index("default") + 1] if "default" in words else words[1].split(",")[0]
                self.sizes.setdefault(words[0], 1e7 / int(rate[1:]) if rate[0] == "@" else float(rate))

    def largest(self):
        return max(self.sizes, key=pixels)

    def first_seconds(self):
        """How late the first picture of a stream may be by the device's own ways."""
        return self.behaviour.get("first_ms", 0) / 1e3

    def wishes(self):
        """A value for every control that differs from its default and from what it has at power-up."""
        modes, values = {}, {}
        for name, words in self.controls.items():
            now = int(words[words.index("now") + 1]) if "now" in words else None
            if "deaf" in words or name == "roll_absolute":
                continue  # the camera takes it and does nothing; uvcvideo does not know this one
            if words[0] == "bool":
                is_mode = name.endswith(("automatic", "continuous"))
                modes[name] = 0 if is_mode else 1 - (int(words[1]) if now is None else now)
            elif words[0] == "menu":
                if "1" in words[1].split(","):
                    modes[name] = 1
            elif name == "exposure_time_absolute":
                # Near the default, so that pictures stay about as bright and the rate stays as it is.
                snaps = words[words.index("snap") + 1].split(",") if "snap" in words else None
                default = int(words[3])
                values[name] = max(int(s) for s in snaps if int(s) < default) if snaps else default * 9 // 10
            else:
                values[name] = another(*map(int, words[:4]), now)
        return {**values, **modes}  # values first: the server has to know that modes come before what they lock


def another(low, high, step, default, now):
    """A value on the grid, halfway to the farther end, that is neither `default` nor `now`."""
    end = high if high - default >= default - low else low
    value = low + ((default + end) // 2 - low) // step * step
    while value in (default, now):
        value = value + step if value + step <= high else low
    return value


def pixels(size):
    width, height = size.split("x")
    return int(width) * int(height)


def picture_fault(jpeg):
    """What is wrong with a picture as a strict decoder sees it, and by the camera's own sum of its scan; or None."""
    if fault := jpeg_fault(jpeg):
        return fault
    at = 2
    while jpeg[at + 1] != 0xDA:
        if jpeg[at] != 0xFF:
            return f"no marker at {at}"
        at += 2 + int.from_bytes(jpeg[at + 2:at + 4], "big")
    at += 2 + int.from_bytes(jpeg[at + 2:at + 4], "big")
    scan = jpeg[at:-2].rstrip(b"\xff")  # fill bytes in front of a marker are allowed
    if (marker := re.search(rb"\xff[^\x00\xd0-\xd7]", scan)):
        return f"marker {marker[0].hex()} in the scan"
    truth = TRUTH.search(jpeg, 0, 400)
    if not truth:
        return "not the camera's picture"
    if zlib.adler32(scan) != int(truth[2], 16):
        return "damaged scan"
    return None


def level(jpeg):
    return int(TRUTH.search(jpeg, 0, 400)[1])


class ZooViewer(Viewer):
    """A viewer that takes pictures as a strict decoder does. Pictures that the camera damages by its nature count apart."""

    def __init__(self, address, damaged_at_start):
        self.damaged_at_start, self.damaged = damaged_at_start, 0
        super().__init__(address)

    def _check_picture(self, head, jpeg):
        fault = picture_fault(jpeg)
        numbers = rigcam(jpeg)
        if fault == "damaged scan" and numbers and numbers[3] < self.damaged_at_start:
            self.damaged += 1
        elif fault:
            self.faults.append(f"part {len(self.parts)}: {fault}, {len(jpeg)} bytes")
        super()._check_picture(head, jpeg)


class Run:
    """One profile, one promise after the other."""

    def __init__(self, zoo, profile):
        self.guest, self.profile = zoo.guest, profile
        self.server = self.viewer = None
        self.stills = 0
        self.live_size = LIVE if LIVE in profile.sizes else None

    def named(self):
        return {name: int(value) for name, value in
                (pair.split(":") for pair in self.guest.status()["named"].split(",") if pair)}

    def plug(self):
        self.guest.cam("plug")
        expect(self.guest.wait_for("[ -e /dev/video0 ]", 15), "no /dev/video0")

    def start(self, args=""):
        self.stop()
        self.server = Server(self.guest, "--listen 0.0.0.0:8080 " + args)
        self.viewer = ZooViewer(self.guest.address, self.profile.behaviour.get("first_bad", 0))

    def stop(self):
        """Ends the server; all that its viewer saw must have been sound."""
        viewer, server = self.viewer, self.server
        self.viewer = self.server = None
        if viewer:
            viewer.close()
        if server:
            server.stop()
        if viewer:
            viewer.expect_sound(may_repeat=True)

    def wait_parts(self, count, seconds=10):
        self.viewer.wait_parts(count, seconds + self.profile.first_seconds())

    def live(self):
        """Live pictures are whole, of the size asked for, and come at the device's own rate for it."""
        self.start()
        self.wait_parts(10)
        size = self.viewer.parts[-1].size
        expect(size == (self.live_size or size), f"{size}, not {self.live_size}")
        self.live_size = size
        wanted = self.profile.sizes[size]
        mode = self.guest.status()["mode"]
        expect(mode == f"mjpeg:{size}@{wanted:.0f}", f"the camera runs {mode}, its own is {wanted:g} fps")
        for _ in range(3):  # a busy host may slow the guest down
            rate, fair = self.rate(wanted)
            if is_right := 0.9 * fair <= rate <= 1.1 * wanted:
                break
        expect(is_right, f"{rate:.1f} fps of {fair:.1f} that the camera sent, its own are {wanted:g}")
        self.viewer.expect_sound()
        return f"{size} {rate:.1f} of {wanted:g} fps"

    def rate(self, wanted):
        """Pictures per second that reached the server, and that the camera sent: a slow guest makes it miss some."""
        def read():
            status, state = self.guest.status(), json.loads(self.server.get("/state")[2])
            at = int(self.guest.cam("time")) / 1e9
            return at, int(status["frames"]), int(status["missed"]), state["framehub"]["capture"]["frames"]
        began, parts = read(), len(self.viewer.parts)
        time.sleep(4)
        seconds, sent, missed, captured = (late - early for late, early in zip(read(), began))
        seen = len(self.viewer.parts) - parts
        expect(seen >= 0.7 * captured - 2, f"the viewer got {seen} of {captured} pictures")
        return captured / seconds, wanted * sent / max(sent + missed, 1)

    def take_still(self, expected=RIGHT):
        size = self.profile.largest()
        if self.live_size and pixels(size) <= pixels(self.live_size):
            raise NotApplicable("no larger size")
        while True:
            asked = int(self.guest.cam("time")) / 1e9
            start = time.monotonic()
            status, head, body = self.server.get("/still", 40)
            took = time.monotonic() - start
            # The live stream may have to run first for longer than a still waits.
            if status != 503 or b"viewers have the live picture" not in body:
                break
            time.sleep(int(head["retry-after"]))
        expect(status == 200, f"/still: {status} {body[:200].decode(errors='replace').strip()}")
        expect(picture_fault(body) is None, f"/still: {picture_fault(body)}")
        numbers = rigcam(body)
        expect(numbers[4] == size and head["x-frame-size"] == size, f"/still is {numbers[4]}, the largest is {size}")
        expect(numbers[1] > asked - 0.05, f"/still: exposed {asked - numbers[1]:.2f} s before it was asked for")
        expect(abs(level(body) - expected) <= 0.1 * expected + 1,
               f"/still: brightness {level(body)}, not {expected}; picture {numbers[3]}, X-Settled {head['x-settled']}")
        return f"{size} in {took:.1f} s, picture {numbers[3]}, brightness {level(body)}, X-Settled {head['x-settled']}"

    def still(self):
        """A still is whole, of the largest MJPG size, fresh, and as bright as it should be."""
        return self.take_still()

    def way_back(self):
        """After the still live goes on for those that watched, in its size."""
        at = time.monotonic()
        first = self.viewer.first_after(at, 5 + self.profile.first_seconds())
        self.wait_parts(10)
        expect(not self.viewer.ended, f"the stream ended: {self.viewer.ended}")
        expect(not self.viewer.faults, f"{self.viewer.faults[:1]}")
        expect(self.viewer.parts[-1].size == (self.live_size or self.viewer.parts[0].size), "another size")
        return f"{first.at - at:.1f} s"

    def five(self):
        """Five stills in a row are right, and nobody loses his stream."""
        times = [self.take_still().split(",")[0] for _ in range(5)]
        self.wait_parts(5)
        expect(not self.viewer.ended and not self.viewer.faults, f"{self.viewer.ended} {self.viewer.faults[:1]}")
        return f"the last {times[-1]}"

    def dusk(self):
        """An exposure that lowers the rate, by itself or by hand, is no stall: the stream is not started again."""
        from cases.controls import set_controls  # registers cases
        exposure = self.profile.controls.get("exposure_time_absolute")
        if "exposure_dynamic_framerate" in self.profile.controls:
            self.guest.cam("set dim=1")
            set_controls(self.server, exposure_dynamic_framerate=1)
            wanted = 2 / self.profile.sizes[self.live_size]
        elif exposure and int(exposure[1]) >= 2000:
            set_controls(self.server, auto_exposure=1, exposure_time_absolute=2000)
            wanted = 0.2
        elif exposure:
            raise NotApplicable("its exposure is never longer than its period")
        else:
            raise NotApplicable("no control of its exposure")
        self.wait_parts(5)
        self.wait_parts(8)
        parts = self.viewer.parts[-8:]
        self.guest.cam("reset")
        expect(parts[0].session == parts[-1].session, "the stream was started again")
        period = (parts[-1].captured - parts[0].captured) / 7
        expect(period >= 0.9 * wanted, f"a period of {period:.3f} s, not {wanted:.3f}: the lab")
        return f"{1 / period:.1f} fps"

    def replug(self):
        """Pulled and put back, pictures come within 2 s beyond the device's own time."""
        self.guest.cam("unplug")
        time.sleep(1.5)
        self.plug()
        back = time.monotonic()
        late = self.viewer.first_after(back, 15 + self.profile.first_seconds()).at - back
        expect(late <= RETURN_SECONDS + self.profile.first_seconds(), f"pictures {late:.1f} s after the node's return")
        self.wait_parts(5)
        self.stop()
        return f"{late:.1f} s"

    def reopen(self):
        """Closed when nobody looks and opened again at once, a camera that cannot bear that stays on the bus, and never stalls."""
        if not self.profile.has_status:
            raise NotApplicable("no status endpoint, by which it would know")
        self.start("--idle 0.3")
        self.wait_parts(5)
        for closes, behaviour in enumerate(("reopen_ms=450", "reopen_ms=450", "reopen_ms=0 reopen_stall_ms=450"), 1):
            self.guest.cam("set " + behaviour)
            self.viewer.close()
            closed = self.guest.wait_for(f"[ $(grep -c 'camera closed' /tmp/server.log) = {closes} ]", 10)
            expect(closed, "the camera stays open")
            self.viewer = ZooViewer(self.guest.address, self.profile.behaviour.get("first_bad", 0))
            self.wait_parts(3)
            expect(self.guest.status()["plugged"] == "1", "it was opened too soon and left the bus")
        expect("camera lost" not in self.server.log(), "it was opened too soon and stalled")
        self.guest.cam("reset")
        self.stop()
        return f"{closes} times"

    def wait_controls(self, wanted, when):
        expect(self.server is not None, "no server")
        self.wait_parts(10)
        deadline = time.monotonic() + 3
        while wrong := {n: f"{self.named()[n]}, not {v}" for n, v in wanted.items() if self.named()[n] != v}:
            expect(time.monotonic() < deadline, f"{when}: {wrong}")
            time.sleep(0.1)
        return f"{len(wanted)}"

    def controls_open(self):
        """Every control has the value that --control asks for in the camera itself, although its mode came last."""
        self.wanted = self.profile.wishes()
        if not self.wanted:
            raise NotApplicable("no controls")
        self.start(" ".join(f"--control {name}={value}" for name, value in self.wanted.items()))
        return self.wait_controls(self.wanted, "open")

    def controls_still(self):
        """The same after a still and the way back, and the still has the exposure that was set."""
        expected, name = RIGHT, "exposure_time_absolute"
        if self.wanted.get("auto_exposure") == 1 and name in self.wanted:
            expected = RIGHT * self.wanted[name] // int(self.profile.controls[name][3])
        self.take_still(expected)
        return self.wait_controls(self.wanted, "after the still")

    def controls_replug(self):
        """The same after the camera was pulled and has forgotten everything."""
        self.guest.cam("unplug")
        time.sleep(1.5)
        self.plug()
        self.viewer.first_after(time.monotonic(), 15 + self.profile.first_seconds())
        figures = self.wait_controls(self.wanted, "after the replug")
        self.stop()
        return figures

    def check(self):
        """`--check` ends well and names both sizes."""
        self.stop()
        status, report = self.guest.try_sh("/srv/framehub --check 2>&1", 120)
        expect(status == 0, f"exit status {status}: {report.strip()[-300:]}")
        missing = [words for words in (self.live_size, self.profile.largest(), "settling") if words not in report]
        expect(not missing, f"{missing} not in: {report.strip()[-600:]}")
        nodes = self.guest.try_sh("/srv/framehub --list 2>&1", 60)[1]
        expect(not self.profile.second or f"with --encode, from {self.profile.second}" in nodes, f"the second camera: {nodes}")
        return next((line.strip() for line in report.splitlines() if line.startswith("still ")), "")

    def many(self):
        """So many stills under ten viewers are right, and nobody loses his stream: the pauses, by the camera's clock."""
        self.start("--still-min-interval 0")
        count, took = self.stills, []
        more = [ZooViewer(self.guest.address, self.profile.behaviour.get("first_bad", 0)) for _ in range(9)]
        try:
            self.wait_parts(10, 30)
            for _ in range(count):
                start = time.monotonic()
                self.take_still()
                took.append(time.monotonic() - start)
                self.wait_parts(3)
            for viewer in (self.viewer, *more):
                expect(not viewer.ended, f"a stream ended: {viewer.ended}")
                viewer.expect_sound(may_repeat=True)
            pairs = list(zip(self.viewer.parts, self.viewer.parts[1:]))
        finally:
            for viewer in more:
                viewer.close()
        self.stop()
        pauses = sorted(b.captured - a.captured for a, b in pairs if b.session != a.session)
        expect(len(pauses) >= count, f"{len(pauses)} pauses for {count} stills")
        return (f"{count} stills of {self.profile.largest()}, {statistics.median(took):.1f} s each; pauses of live: median "
                f"{statistics.median(pauses) * 1e3:.0f} ms, p99 {pauses[len(pauses) * 99 // 100] * 1e3:.0f} ms, "
                f"longest {pauses[-1] * 1e3:.0f} ms")

    PROMISES = (live, still, way_back, five, dusk, replug, reopen, controls_open, controls_still, controls_replug, check)


class Zoo:
    def __init__(self, binary, is_long, stills, log):
        self.binary, self.log, self._guest = binary, log, None
        # Only so many stills, or every promise; the full run has both.
        self.stills, self.only_stills = stills or (500 if is_long else 0), stills is not None

    @property
    def guest(self):
        if self._guest is None or not self._guest.alive():
            # `super` keeps devices awake, which vhci-hcd needs at SuperSpeed; each profile brings its own link.
            self._guest = Guest("super", plugged=False, files=[(self.binary, "/srv/framehub")])
            self.log(f"guest up after {self._guest.boot_seconds:.1f} s, logs in {self._guest.dir}")
        return self._guest

    def close(self):
        if self._guest is not None:
            self._guest.close()
            self._guest = None

    def profile(self, name):
        """Runs one profile; a list of (promise, "ok" or "FAIL" or "n/a", what there is to say)."""
        profile = Profile(name)
        self.guest.try_sh("kill -KILL $(cat /tmp/server.pid 2>/dev/null); rm -f /tmp/*.pid")
        self.guest.cam("profile " + name)
        run, results = Run(self, profile), []
        run.plug()
        promises = () if self.only_stills else Run.PROMISES
        if self.only_stills or self.stills and name in MANY:
            promises += (Run.many,)
            run.stills = self.stills
        for promise in promises:
            start = time.monotonic()
            try:
                outcome, words = "ok", promise(run)
            except NotApplicable as reason:
                outcome, words = "n/a", str(reason)
            except CaseFailed as failure:
                outcome, words = "FAIL", f"{failure}{self.keep_logs(name, promise.__name__)}"
                self.recover(run)
            except (LabError, OSError) as failure:
                outcome, words = "FAIL", f"the lab: {failure!r}"
                self.recover(run)
            results.append((promise.__name__, outcome, words))
            print(f"{outcome} {name} {promise.__name__}: {words} ({time.monotonic() - start:.0f} s)", flush=True)
        return results

    def keep_logs(self, name, promise):
        try:
            log = self.guest.dir / f"{name}.{promise}.log"
            log.write_text(self.guest.try_sh("cat /tmp/server.log; dmesg | tail -50", 10)[1])
            return f"; log: {log}"
        except (LabError, OSError) as error:
            return f"; its log is lost: {error!r}"

    def recover(self, run):
        """After a failure: the camera plugged in as it was, and a server with the same options for what comes next."""
        try:
            if self.guest.status()["plugged"] == "0":
                run.plug()
            if run.server is None or run.viewer is None or run.viewer.ended or not run.server.is_running():
                run.viewer = run.server = None
                self.guest.try_sh("kill -KILL $(cat /tmp/server.pid 2>/dev/null); rm -f /tmp/*.pid")
                run.start()
            run.viewer.faults.clear()
        except (CaseFailed, LabError, OSError) as failure:
            self.log(f"not recovered: {failure!r}")

    def run(self, names):
        """Runs profiles, prints the table; whether every promise was kept."""
        table, is_kept = [], True
        for name in names:
            results = self.profile(name)
            is_kept &= all(outcome != "FAIL" for _, outcome, _ in results)
            table.append((name, results))
        print_table(table)
        return is_kept


def print_table(table):
    heads = [promise.__name__.replace("_", " ") for promise in Run.PROMISES]
    rows = [(name, [result for result in results if result[0] != "many"]) for name, results in table]
    if any(results for _, results in rows):
        print("\n| profile | " + " | ".join(heads) + " |")
        print("|---" * (len(heads) + 1) + "|")
    for name, results in rows:
        cells = [f"n/a: {words}" if outcome == "n/a" else outcome for _, outcome, words in results]
        if cells:
            print(f"| {name} | " + " | ".join(cells) + " |")
    for name, results in table:
        for words in (words for promise, _, words in results if promise == "many"):
            print(f"{name}: {words}", flush=True)


def names():
    return sorted(path.name for path in PROFILES.iterdir() if path.name != "rig")
