"""The page in a browser, where there is one: nothing asked of the network, nothing wide, both colours."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import compared
import pytest
from PIL import Image

from jaxkd.comparison import page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # not even the browser's own requests get anywhere
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
)
ITSELF = "not an origin"  # who asks where the browser and not the page does
LIGHT, DARK = (255, 255, 255), (20, 20, 20)
MEASURE = "<script>parent.postMessage([innerWidth, document.documentElement.scrollWidth].join(' '), '*')</script>"
FRAME = """<!doctype html><title>not measured</title>
<script>onmessage = event => {{ document.title = event.data }}</script>
<iframe src="measured.html" width="{width}" height="800" style="border: 0"></iframe>"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A call of the browser with a file: what it printed, with what it complained of."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"needs a browser, and there is none of {', '.join(BROWSERS)}")
    profile = tmp_path_factory.mktemp("profile")

    def call(file: Path, *flags: str) -> tuple[str, list[str]]:
        argv = [program, *QUIET, f"--user-data-dir={profile}", *flags, file.as_uri()]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return call


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The page of a comparison whose names are as long as they come."""
    names = ("alone", "taught with a name that is much longer than a phone is wide", "teacher")
    folder = tmp_path_factory.mktemp("page")
    page.write(folder, compared.comparison(names=names), compared.source(), most=2)
    return folder / "index.html"


def corner(browser, file: Path, out: Path, *flags: str) -> tuple[int, ...]:
    """The colour of the page."""
    _, complaints = browser(file, f"--screenshot={out}", "--window-size=1280,900", *flags)
    assert complaints == []
    with Image.open(out) as picture:
        return picture.convert("RGB").getpixel((3, 3))


def asked_by(browser, file: Path, log: Path) -> list[str]:
    """What a page asks the network for."""
    _, complaints = browser(file, "--dump-dom", f"--log-net-log={log}")
    assert complaints == []
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    pages = [event["url"] for event in events if event.get("initiator", ITSELF) != ITSELF]
    return [url for url in pages if not url.startswith(("file:", "data:"))]


def test_no_complaint_and_no_request_to_the_network(browser, written, tmp_path):
    assert asked_by(browser, written, tmp_path / "net.json") == []
    asking = tmp_path / "asking.html"
    asking.write_text('<!doctype html><img src="https://example.invalid/one.png">')
    assert asked_by(browser, asking, tmp_path / "asked.json") == ["https://example.invalid/one.png"]


@pytest.mark.parametrize("width", [390, 820, 1280])
def test_nothing_is_wider_than_the_screen(browser, written, tmp_path, width):
    (tmp_path / "measured.html").write_text(written.read_text().replace("</body>", f"{MEASURE}</body>"))
    frame = tmp_path / "frame.html"  # a window of a browser has a least width, a frame has none
    frame.write_text(FRAME.format(width=width))
    dom, complaints = browser(frame, "--dump-dom", "--window-size=1400,900", "--virtual-time-budget=5000")
    assert complaints == []
    shown, needed = map(int, re.search(r"<title>(\d+) (\d+)</title>", dom).groups())
    assert shown == width
    assert needed <= shown


def test_light_and_dark(browser, written, tmp_path):
    light, dark = "--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"
    assert corner(browser, written, tmp_path / "light.png", light) == LIGHT
    assert corner(browser, written, tmp_path / "dark.png", dark) == DARK
    picked = tmp_path / "picked.html"  # as if the reader had picked dark colours in a light browser
    picked.write_text(written.read_text().replace('id="dark"', 'id="dark" checked'))
    assert corner(browser, picked, tmp_path / "picked.png", light) == DARK
