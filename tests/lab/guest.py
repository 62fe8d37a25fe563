"""The guest: a Debian kernel in qemu, with the emulated camera on its USB bus.

Guest() boots one (about 3 s); cam() sends a command to the camera, sh() runs
one in the guest. The server under test listens on the guest's port 8080,
which is `address` here.
"""

import ctypes
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = Path(os.environ.get("FRAMEHUB_LAB")
            or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "framehub-lab")
LINKS = ("bulk", "isoc", "super")
KEPT_RUNS = 10


class LabError(Exception):
    """The lab itself failed: no boot, no answer from the guest."""


def build():
    """Builds what is booted; returns at once when nothing has changed."""
    if subprocess.run([HERE / "build"], env={**os.environ, "FRAMEHUB_LAB": str(WORK)},
                      stdout=subprocess.DEVNULL).returncode:
        raise LabError("tests/lab/build failed")


def command(port, line, timeout=60):
    """Sends one line to a control port, returns the whole answer."""
    with socket.create_connection(("127.0.0.1", port), 5) as s:
        s.settimeout(timeout)
        s.sendall(line.encode() + b"\n")
        answer = b""
        while data := s.recv(1 << 16):
            answer += data
    return answer.decode(errors="replace").rstrip("\n")


def die_with_parent():
    """Run in a child: whatever ends us ends it (prctl's PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Guest:
    def __init__(self, link="bulk", plugged=True, modules="", files=(), mem_mib=1024, cpus=2):
        """`files`: pairs of a path here and an absolute path in the guest."""
        build()
        for old in sorted(WORK.glob("run.*"), key=lambda p: p.stat().st_mtime)[:-KEPT_RUNS]:
            shutil.rmtree(old, ignore_errors=True)
        self.dir = Path(tempfile.mkdtemp(prefix="run.", dir=WORK))
        self.console = self.dir / "console.log"
        started = time.monotonic()
        self.qemu = None
        settings = {"LINK": link, "PLUG": int(plugged), "MODULES": modules}
        try:
            self._start(self._initrd(settings, files), mem_mib, cpus)
            self._wait_for_boot()
        except BaseException:
            self.close()
            raise
        self.boot_seconds = time.monotonic() - started
        (WORK / "last-port").write_text(str(self.control_port))

    def _initrd(self, settings, files):
        """The run's own files, as a last archive behind the built ones."""
        top = self.dir / "top"
        (top / "run").mkdir(parents=True)
        (top / "srv").mkdir()
        (top / "run/lab").write_text("".join(f"{k}={shlex.quote(str(v))}\n" for k, v in settings.items()))
        for source, target in files:
            place = top / target.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
        initrd = self.dir / "initrd"
        with open(initrd, "wb") as out:
            out.write((WORK / "base.cpio").read_bytes())
            out.flush()
            subprocess.run("find . | cpio -o -H newc --quiet", shell=True, cwd=top, stdout=out, check=True)
        shutil.rmtree(top)
        return initrd

    def _start(self, initrd, mem_mib, cpus):
        tsc = subprocess.check_output([WORK / "own/bin/rigcam", "tsc-khz"], text=True).strip()
        boot = ("console=ttyS0 panic=-1 quiet mitigations=off nokaslr random.trust_cpu=on "
                f"tsc=reliable tsc_early_khz={tsc}")
        for _ in range(5):  # qemu refuses a port that is taken, then others are tried
            port = random.randrange(20000, 40000, 2)
            self.address, self.control_port = ("127.0.0.1", port), port + 1
            network = (f"user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:8080,"
                       f"hostfwd=tcp:127.0.0.1:{port + 1}-:8081")
            self.qemu = subprocess.Popen(
                ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-M", "microvm", "-cpu", "max",
                 "-smp", str(cpus), "-m", str(mem_mib), "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
                 "-kernel", WORK / "vmlinux", "-initrd", initrd, "-append", boot,
                 "-serial", f"file:{self.console}", "-netdev", network, "-device", "virtio-net-device,netdev=n"],
                stdin=subprocess.DEVNULL, stdout=open(self.dir / "qemu.log", "wb"), stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent)
            try:
                self.qemu.wait(0.5)
            except subprocess.TimeoutExpired:
                return
        raise LabError("qemu did not start: " + (self.dir / "qemu.log").read_text()[-500:])

    def _wait_for_boot(self, seconds=120):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.alive():
            log = self.console.read_text(errors="replace") if self.console.exists() else ""
            if any(line.startswith("LAB") and "camera" in line for line in log.splitlines()):
                try:
                    if self.cam("ping", 2) == "ok":
                        return
                except (OSError, LabError):
                    pass  # it does not listen yet
            time.sleep(0.05)
        raise LabError(f"the guest did not boot; see {self.console}")

    def alive(self):
        return self.qemu is not None and self.qemu.poll() is None

    def cam(self, line, timeout=60):
        """Sends a command to the camera (README.md lists them)."""
        answer = command(self.control_port, line, timeout)
        if not answer or answer.startswith("error"):
            raise LabError(f"camera: {line}: {answer or 'no answer'}")
        return answer

    def try_sh(self, line, timeout=60):
        """Runs a shell command in the guest: (exit status, output)."""
        if "\n" in line:
            raise ValueError("the control port takes one line")
        output, _, last = command(self.control_port, "exec " + line, timeout).rpartition("[exit ")
        if not last.endswith("]"):
            raise LabError(f"guest: {line}: no answer")
        return int(last[:-1]), output

    def sh(self, line, timeout=60):
        """Runs a shell command that must succeed; returns its output."""
        status, output = self.try_sh(line, timeout)
        if status:
            raise LabError(f"guest: {line}: exit {status}: {output.strip()}")
        return output

    def status(self):
        """The camera's `status`, as a dictionary of strings."""
        return dict(word.split("=", 1) for word in self.cam("status").split())

    def wait_for(self, condition, seconds):
        """Waits in the guest until a shell condition holds; whether it did."""
        turns = int(seconds * 50)
        loop = f"i=0; until {condition}; do i=$((i+1)); [ $i -lt {turns} ] || exit 1; usleep 20000; done"
        return self.try_sh(loop, seconds * 5 + 30)[0] == 0

    def close(self):
        if self.qemu is not None:
            self.qemu.kill()
            self.qemu.wait()
        (self.dir / "initrd").unlink(missing_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
