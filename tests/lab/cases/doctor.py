"""`--list` and `--check` on a real driver: what they find, and their exit status."""

from lab import case
from server import expect


def run(lab, args):
    """(exit status, words) of framehub as a command."""
    return lab.guest.try_sh(f"/srv/framehub {args} 2>&1", 90)


def expect_words(report, *wanted):
    missing = [words for words in wanted if words not in report]
    expect(not missing, f"{missing} not said in: {report}")


@case
def check_measures(lab):
    """--check looks at 30 pictures, measures start, switch and settling, and prints settings; exit status 0."""
    lab.guest.cam("set first_ms=200")
    status, report = run(lab, "--check --device auto")
    expect(status == 0, f"exit status {status}: {report}")
    expect_words(report, "/dev/video0", "640x480", "30, 15, 5 fps", "cold start", "settling", "still 3840x2160",
                 "OctoPrint", "Octolapse", "Moonraker", "Home Assistant", "go2rtc", "/snapshot", "/stream")
    return next(line for line in report.splitlines() if line.startswith("still "))


@case
def check_names_defects(lab):
    """--check names what is wrong with a camera's pictures: no DHT, padding, broken and irregular ones."""
    lab.guest.cam("set nodht=1 pad=100 truncate=3")
    status, report = run(lab, "--check")
    expect(status == 0, f"exit status {status}: {report}")
    expect_words(report, "without Huffman tables", "padded", "3 broken")
    lab.guest.cam("set truncate=-1")
    status, report = run(lab, "--check")
    expect(status != 0 and "FAILED" in report, f"no whole picture came, yet exit status {status}: {report}")
    return report.strip().splitlines()[-1]


@case
def check_names_the_holder(lab):
    """While another program has the camera --check fails and names it, and --list, too."""
    lab.guest.sh("probe watch 600 640 480 >/dev/null 2>&1 & echo $! >/tmp/held.pid; usleep 500000")
    status, report = run(lab, "--check")
    expect(status != 0 and "probe" in report, f"exit status {status}: {report}")
    status, listed = run(lab, "--list")
    expect(status == 0, f"exit status {status}: {listed}")
    expect_words(listed, "in use by", "probe", "/dev/video1: not usable")
    return next(line.strip() for line in report.splitlines() if line.startswith("FAILED"))


@case
def check_without_a_camera(lab):
    """Without a camera --check says so; exit status 1."""
    lab.guest.cam("unplug")
    expect(lab.guest.wait_for("[ ! -e /dev/video0 ]", 5), "the node stays")
    status, report = run(lab, "--check")
    expect(status == 1 and "no /dev/video" in report, f"exit status {status}: {report}")
    return report.strip().splitlines()[-1]
