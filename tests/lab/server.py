"""A server under test, running in the guest."""

import http.client
import re
import shlex
import time

from guest import LabError


class CaseFailed(Exception):
    """The server does not keep a promise."""


def expect(holds, why):
    if not holds:
        raise CaseFailed(why)


def numbers(line):
    """The numbers in a line of the log: name=12 and so on."""
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)(?![\w.])", line)}


class Server:
    """Starts `program args` in the guest and waits until its log contains `ready` (None: does not wait)."""

    def __init__(self, guest, args="", program="/srv/framehub", ready="listening on"):
        self.guest = guest
        self.exit_status = None  # once a signal of ours has ended it
        inner = shlex.quote(f"echo $$ >/tmp/server.pid; exec {program} {args}")
        guest.sh(f"rm -f /tmp/server.*; (cd /srv; sh -c {inner}; echo $? >/tmp/server.exit) "
                 "</dev/null >/tmp/server.log 2>&1 &")
        if ready is None:
            return
        if not guest.wait_for(f"grep -q {shlex.quote(ready)} /tmp/server.log || [ -e /tmp/server.exit ]", 20) \
                or not self.is_running():
            raise CaseFailed(f"`{program} {args}` did not get ready: {self.log().strip()[-300:]}")

    def is_running(self):
        return self.guest.try_sh("[ -e /tmp/server.pid ] && [ ! -e /tmp/server.exit ]")[0] == 0

    def log(self):
        return self.guest.sh("cat /tmp/server.log")

    def viewer_totals(self):
        """What the log says of each viewer that left: a dictionary of numbers each."""
        return [numbers(line) for line in self.log().splitlines() if "viewer left" in line]

    def camera_totals(self):
        """What the log said when the camera was last closed, as it is when the server ends."""
        lines = [line for line in self.log().splitlines() if "camera closed" in line]
        expect(lines, "the log does not say that the camera was closed")
        return numbers(lines[-1])

    def signal(self, name="TERM"):
        """Sends a signal and waits for the end: (exit status, seconds, by the guest's clock)."""
        line = ("i=0; read a _ </proc/uptime; kill -%s $(cat /tmp/server.pid); "
                "until [ -e /tmp/server.exit ] || [ $i = 1000 ]; do usleep 10000; i=$((i+1)); done; "
                "read b _ </proc/uptime; echo $a $b $(cat /tmp/server.exit 2>/dev/null)" % name)
        words = self.guest.sh(line).split()
        if len(words) < 3:
            self.guest.sh("kill -KILL $(cat /tmp/server.pid)")
            raise CaseFailed(f"still running 10 s after SIG{name}")
        self.exit_status = int(words[2])
        return self.exit_status, round(float(words[1]) - float(words[0]), 2)

    def stop(self):
        """Ends it unless that was done, and checks how it went: no panic, exit status 0."""
        if self.exit_status is None and self.is_running():
            self.signal("TERM")
        log = self.log()
        expect("panicked" not in log, "a thread panicked: " + log[log.find("panicked"):][:300])
        expect(self.exit_status is not None, f"the server ended by itself: {log.strip()[-300:]}")
        expect(self.exit_status == 0, f"exit status {self.exit_status} on SIGTERM")

    def readings(self):
        """Threads, descriptors, resident memory and what of it is the process's own, in kB, from /proc."""
        # The Rss of `status` is counted in batches, up to 256 kB off for each thread; smaps_rollup counts pages.
        lines = self.guest.sh("cd /proc/$(cat /tmp/server.pid); grep ^Threads: status; echo fds: $(ls fd | wc -l); "
                              "grep -E '^(Rss|Anonymous):' smaps_rollup").splitlines()
        value = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return {"threads": value["Threads"], "fds": value["fds"], "rss_kb": value["Rss"], "own_kb": value["Anonymous"]}

    def get(self, path, timeout=10):
        """(status, headers with names in lower case, body) of one request."""
        connection = http.client.HTTPConnection(*self.guest.address, timeout=timeout)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise CaseFailed(f"GET {path}: {error!r}") from error
        finally:
            connection.close()

    def wait_status(self, path, wanted, seconds):
        """Asks until the status is `wanted`; seconds it took."""
        start = time.monotonic()
        while (status := self.get(path)[0]) != wanted:
            expect(time.monotonic() < start + seconds, f"GET {path} still {status} after {seconds} s, not {wanted}")
            time.sleep(0.05)
        return time.monotonic() - start

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        """Ends the server. What the case itself found wrong comes first, if anything."""
        try:
            self.stop()
        except (CaseFailed, LabError, OSError):
            if kind is None:
                raise
