"""What a case gets to work with: the guest, the counts, and servers to start in it."""

import os
import time
from types import SimpleNamespace

from guest import Guest, LabError
from server import CaseFailed, Server

# How much of everything: a full run, and the short one of `scripts/test`.
LONG = SimpleNamespace(load_seconds=60, cycles=1000, replugs=10, faults=50, stills=500)
SHORT = SimpleNamespace(load_seconds=8, cycles=100, replugs=2, faults=5, stills=20)

CASES = []


def case(function):
    """Registers a case. Its name is what it promises; what it returns are the figures to print."""
    CASES.append((function.__module__.rpartition(".")[2] + "." + function.__name__, function))
    return function


class Lab:
    def __init__(self, binary, link, counts, log):
        self.binary, self.link, self.counts, self._log = binary, link, counts, log
        self._guest = None

    @property
    def guest(self):
        """The one guest that all cases share; another is booted if it died."""
        if self._guest is None or not self._guest.alive():
            files = [(self.binary, "/srv/framehub")] if self.binary else []
            self._guest = Guest(self.link, files=files)
            self._log(f"guest up after {self._guest.boot_seconds:.1f} s, link {self.link}, logs in {self._guest.dir}")
        return self._guest

    def server(self, args=""):
        """Starts framehub in the guest: use it in a `with`."""
        return Server(self.guest, "--listen 0.0.0.0:8080 " + args)

    def settle(self):
        """Puts everything back as a case expects to find it."""
        guest = self.guest
        guest.try_sh("kill -KILL $(cat /tmp/server.pid /tmp/held.pid 2>/dev/null); rm -f /tmp/*.pid")
        guest.cam("reset")
        self.keep_damaged(False)
        if guest.status()["plugged"] == "0":
            guest.cam("plug")
        if not guest.wait_for("[ -e /dev/video0 ]", 5):  # it came back under another name
            guest.cam("replug 0.3")
            if not guest.wait_for("[ -e /dev/video0 ]", 10):
                raise LabError("the camera did not come back as /dev/video0")

    def keep_damaged(self, keep):
        """Makes uvcvideo hand out damaged frames, flagged (nodrop, which counts from the next plug), or drop them."""
        parameter = "/sys/module/uvcvideo/parameters/nodrop"
        if self.guest.sh(f"cat {parameter}").strip() != str(int(keep)):
            self.guest.sh(f"echo {int(keep)} >{parameter}")
            self.guest.cam("replug 0.3")
            self.guest.wait_for("[ -e /dev/video0 ]", 10)

    def hold_device(self):
        """Keeps /dev/video0 open in the guest, so that a camera plugged in again gets another name."""
        self.guest.sh("sleep 600 9<>/dev/video0 >/dev/null 2>&1 & echo $! >/tmp/held.pid")

    def close(self):
        if self._guest is not None:
            self._guest.close()
            self._guest = None


class HostLoad:
    """How much of the host's CPU went to others since: with much, rates say nothing about the server."""

    def __init__(self, guest):
        self._pids = (guest.qemu.pid, os.getpid())
        self._start = self._read()

    def _read(self):
        with open("/proc/stat") as stat:
            ticks = [int(word) for word in stat.readline().split()[1:9]]
        ours = 0
        for pid in self._pids:
            with open(f"/proc/{pid}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
            ours += int(fields[11]) + int(fields[12])
        idle = ticks[3] + ticks[4]
        return sum(ticks), sum(ticks) - idle - ours

    def others_percent(self):
        total, others = (now - then for now, then in zip(self._read(), self._start))
        return max(0, round(100 * others / max(total, 1)))


class TooSlow(CaseFailed):
    """A rate is too low, for which the host may be to blame."""


def on_quiet_host(lab, attempt, tries=3, patience=60):
    """Runs `attempt` again if it was too slow, each time after waiting for the host's other work to pause."""
    for number in range(1, tries + 1):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            load = HostLoad(lab.guest)
            time.sleep(2)
            if load.others_percent() < 15:
                break
        load = HostLoad(lab.guest)
        try:
            return f"{attempt()}; {load.others_percent()} % of the host to others, attempt {number}"
        except TooSlow as slow:
            failure = TooSlow(f"{slow}; {load.others_percent()} % of the host to others, attempt {number}")
    raise failure


def sleep_until(at):
    time.sleep(max(0, at - time.monotonic()))
