"""What the tests of binaries and packages in the lab's guest share. Importing it makes the lab importable."""

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "lab"))

from guest import WORK, LabError  # noqa: E402
from server import expect  # noqa: E402

# With depmod and modprobe, for users who are not root.
ENVIRONMENT = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}


def run(*command, **options):
    """Runs a command that must succeed."""
    try:
        return subprocess.run(command, check=True, **{"env": ENVIRONMENT, **options})
    except (subprocess.CalledProcessError, OSError) as error:
        raise LabError(f"{command[0]}: {error}") from error


def wait(holds, seconds, what):
    """Waits until a condition holds; `what` describes it for the failure."""
    deadline = time.monotonic() + seconds
    while not holds():
        expect(time.monotonic() < deadline, f"not within {seconds} s: {what()}")
        time.sleep(0.1)


def pack(folder, initrd):
    """Packs a folder as an initrd."""
    with open(initrd, "wb") as out:
        run("sh", "-c", "find . | cpio -o -H newc --quiet", cwd=folder, stdout=out)
    return initrd


def unpack(folder, *patterns):
    """Unpacks these files of the lab's guest into a folder."""
    with open(WORK / "root.cpio") as archive:
        run("cpio", "-id", "--quiet", *patterns, cwd=folder, stdin=archive)
