"""The camera's controls over HTTP: set on the real driver, they arrive in the camera, and stay after a replug.

The emulated camera forgets its values when its plug is pulled, and refuses what is out of range by a stall.
"""

import http.client
import json
import re
import time

from lab import case
from server import expect
from stream import Viewers

# UVC selectors of the processing unit, as the camera's status shows them.
SELECTORS = {"brightness": "02", "contrast": "03", "power_line_frequency": "05", "hue": "06", "saturation": "07",
             "sharpness": "08"}


def post(server, path, body=""):
    """(status, body) of a POST, as Chromium sends it for the page's sliders (tests/page sees it do so)."""
    origin = "http://%s:%d" % server.guest.address
    headers = {"Origin": origin, "Referer": origin + "/", "Content-Type": "text/plain;charset=UTF-8", "Accept": "*/*",
               "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty",
               "User-Agent": "Mozilla/5.0 (X11; Linux x86_64)", "Connection": "close"}
    connection = http.client.HTTPConnection(*server.guest.address, timeout=10)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def set_controls(server, **values):
    status, body = post(server, "/controls", json.dumps(values))
    expect(status == 200, f"POST {values}: {status} {body.strip()}")
    return {control["name"]: control for control in json.loads(body)}


def listed(server):
    status, _, body = server.get("/controls")
    expect(status == 200, f"GET /controls: {status} {body!r}")
    return {control["name"]: control for control in json.loads(body)}


def in_camera(lab):
    """The values that the camera itself has."""
    values = dict(pair.split(":") for pair in lab.guest.status()["controls"].split(","))
    return {name: int(values[selector]) for name, selector in SELECTORS.items()}


def expect_in_camera(lab, **wanted):
    found = in_camera(lab)
    expect(wanted.items() <= found.items(), f"wanted {wanted}, the camera has {found}")


def replug(lab):
    lab.guest.cam("replug 0.5")
    expect(lab.guest.wait_for("[ -e /dev/video0 ]", 10), "no node after the plug")


@case
def same_as_v4l2_ctl(lab):
    """`/controls` lists what `v4l2-ctl` does, under the same names, with the same ranges and menus."""
    replug(lab)
    with lab.server() as server:
        ours = listed(server)
        theirs = lab.guest.sh("v4l2-ctl -d /dev/video0 --list-ctrls-menus")
        names = []
        for line in theirs.splitlines():
            if found := re.match(r"\s*(\w+) 0x(\w+) \((\w+)\)\s*: (.*)", line):
                name, number, _, rest = found.groups()
                names.append(name)
                expect(name in ours and ours[name]["id"] == int(number, 16), f"{name} is not in {list(ours)}")
                for key, value in re.findall(r"(min|max|step|default|value)=(-?\d+)", rest):
                    # A menu has no step there.
                    expect(ours[name][key] == int(value), f"{name}: {key} {ours[name][key]}, v4l2-ctl says {value}")
            elif found := re.match(r"\s+(\d+): (.*)", line):
                entry = {"value": int(found[1]), "name": found[2]}
                expect(entry in ours[names[-1]]["menu"], f"{entry} is not in {ours[names[-1]]['menu']}")
        expect(sorted(names) == sorted(ours), f"{sorted(ours)}, v4l2-ctl has {sorted(names)}")
        return ", ".join(names)


@case
def arrive_in_the_camera(lab):
    """What is set arrives in the camera, by name and by Octolapse's command, numbers, menus and a reset."""
    replug(lab)
    with lab.server() as server:
        set_controls(server, brightness=-17, power_line_frequency="60 Hz", saturation="90.0")
        expect_in_camera(lab, brightness=-17, power_line_frequency=2, saturation=90, contrast=32)
        status, _, body = server.get("/?action=command&dest=0&plugin=0&id=9963776&group=1&value=21")
        expect((status, body) == (200, b"9963776: 0\n"), f"{status} {body!r}")
        expect_in_camera(lab, brightness=21)
        controls = set_controls(server, reset=1)
        expect(all(control["value"] == control["default"] for control in controls.values()), f"{controls}")
        expect_in_camera(lab, brightness=0, power_line_frequency=1, saturation=55)
        return f"{in_camera(lab)}"


@case
def refused_before_the_driver(lab):
    """A value out of range is refused with the range in words; uvcvideo would clamp it and call that a success."""
    replug(lab)
    with lab.server() as server:
        set_controls(server, brightness=5)
        answers = []
        for values, words in (({"brightness": 65}, "-64 to 64"), ({"sharpness": 0}, "1 to 7"),
                              ({"power_line_frequency": 3}, "0 (Disabled), 1 (50 Hz) or 2 (60 Hz)"),
                              ({"hue": 1, "brightness": -65}, "-64 to 64"), ({"zoom_absolute": 1}, "no control")):
            status, body = post(server, "/controls", json.dumps(values))
            expect(status == 400 and words in body, f"{values}: {status} {body.strip()}")
            answers.append(body.strip())
        expect_in_camera(lab, brightness=5, sharpness=2, power_line_frequency=1, hue=0)
        return f"\"{answers[0]}\""


@case
def kept_after_replug(lab):
    """Values are set again in a camera that forgot them, before its first picture; at start too."""
    replug(lab)
    with lab.server("--control contrast=77 --control zoom=3") as server, Viewers(lab.guest.address, 2) as viewers:
        viewers.wait_parts(10)
        expect_in_camera(lab, contrast=77)
        set_controls(server, brightness=-20, power_line_frequency=2)
        for _ in range(lab.counts.replugs):
            lab.guest.cam("unplug")
            time.sleep(1)
            lab.guest.cam("plug")
            plugged = time.monotonic()
            expect_in_camera(lab, brightness=0, contrast=32, power_line_frequency=1)  # it forgot
            expect(lab.guest.wait_for("[ -e /dev/video0 ]", 10), "no node after the plug")
            for viewer in viewers:
                viewer.first_after(plugged, 15)
            expect_in_camera(lab, brightness=-20, contrast=77, power_line_frequency=2)
        viewers.expect_connected()
        viewers.expect_sound()
        lines = [line for line in server.log().splitlines() if "name=zoom" in line]
        expect(len(lines) == 1 and "brightness" in lines[0], f"told of zoom: {lines}")
        return f"{lab.counts.replugs} times"


@case
def without_disturbing_the_stream(lab):
    """Reading and setting goes on beside ten viewers; no frame is lost by it and the stream is not restarted."""
    with lab.server() as server, Viewers(lab.guest.address, 10) as viewers:
        viewers.wait_parts(30, 30)
        capture = lambda: json.loads(server.get("/state")[2])["framehub"]["capture"]
        before = capture()
        began, turns = time.monotonic(), 0
        while time.monotonic() < began + lab.counts.load_seconds:
            set_controls(server, brightness=turns % 64, hue=-turns % 64, contrast=turns % 90)
            turns += 1
        after = capture()
        viewers.expect_connected()
        viewers.expect_sound()
        lost = after["lost_by_driver"] - before["lost_by_driver"]
        frames = after["frames"] - before["frames"]
        sessions = {part.session for viewer in viewers for part in viewer.parts}
        expect(len(sessions) == 1, f"the stream was restarted: sessions {sorted(sessions)}")
        expect(lost <= frames // 100, f"{lost} frames lost of {frames}")
        return f"{turns} times three controls, {lost} frames lost of {frames}"


@case
def a_sleeping_camera_is_opened_for_it(lab):
    """A camera that nobody watches is opened for its controls and let go again; an absent one is 503."""
    with lab.server("--idle 1") as server:
        idle = lambda: lab.guest.status()["mode"] == "idle"
        deadline = time.monotonic() + 15
        while not idle():
            expect(time.monotonic() < deadline, "never idle")
            time.sleep(0.1)
        began = time.monotonic()
        set_controls(server, brightness=33)
        seconds = time.monotonic() - began
        expect_in_camera(lab, brightness=33)
        deadline = time.monotonic() + 15
        while not idle():
            expect(time.monotonic() < deadline, "not let go")
            time.sleep(0.1)
        lab.guest.cam("unplug")
        expect(lab.guest.wait_for("[ ! -e /dev/video0 ]", 5), "the node stays")
        status, body = post(server, "/controls", '{"brightness": 1}')
        expect(status == 503 and len(body.split()) > 3, f"{status} {body!r}")
        return f"set after {seconds:.2f} s; \"{body.strip()}\""
