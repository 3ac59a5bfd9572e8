"""The page in a browser, where there is one: nothing asked of the network, nothing wide, both colours."""

import json
from pathlib import Path

import browser as browsers
import compared
import pytest
from PIL import Image

from jaxkd.comparison import page

ITSELF = "not an origin"  # who asks where the browser and not the page does
LIGHT, DARK = (255, 255, 255), (20, 20, 20)
WIDTHS = (390, 820, 1044, 1200, 1280, 1600)
LONG = "a class whose name is longer than anybody would write it down by hand"
CLASSES = (
    *(f"class number {number} with a long name" for number in range(9)),
    "Donaudampfschifffahrtsgesellschaftskapitänsmütze",
    6 * "细胞",
    "<b>bold</b> [red]",
    LONG,
    *(f"class {number}" for number in range(7)),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A call of the browser with a file: what it printed, with what it complained of."""
    return browsers.start(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The page of a comparison whose names are as long as they come."""
    names = ("alone", "taught with a name that is much longer than a phone is wide", "teacher")
    folder = tmp_path_factory.mktemp("page")
    page.write(folder, compared.comparison(names=names), compared.source(), most=2)
    return folder / "index.html"


def corner(browser, file: Path, out: Path, *flags: str) -> tuple[int, ...]:
    """The colour of the page."""
    _, complaints = browser(file, f"--screenshot={out}", "--hide-scrollbars", "--window-size=1280,900", *flags)
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


@pytest.fixture(scope="module")
def crowded(tmp_path_factory) -> list[Path]:
    """Pages of four runs and a teacher: with twenty classes, and with as many as are shown in pairs."""
    names = ("alone", "taught by all that there is", "a_third_run_whose_name_has_no_place_to_break_it", "4", "teacher")
    pages = []
    for name, classes in (("twenty", CLASSES), ("twelve", CLASSES[4:16])):
        folder, data = tmp_path_factory.mktemp(name), compared.source(24, classes=classes)
        made = compared.comparison(names=names, noises=(0.3, 0.15, 0.2, 0.25, 0.05), data=data)
        page.write(folder, made, data, most=1)
        pages.append(folder / "index.html")
    return pages


def test_nothing_is_cut_off_or_wider_than_the_screen(browser, written, crowded):
    for shown in browsers.shown_at(browser, [written, *crowded], WIDTHS):
        assert shown.needed <= shown.width, f"{shown.page} needs {shown.needed} of {shown.width}"
        assert shown.faults == [], f"{shown.page} at {shown.width}"


def test_what_is_cut_off_is_found(browser, tmp_path):
    long, file = "x" * 200, tmp_path / "cut.html"
    boxes = {
        "good": "overflow-x: auto",
        "bad 1": "overflow: hidden",
        "bad 2": "overflow-x: auto",
        "bad 3": "overflow-x: auto; scrollbar-width: none",
    }
    parts = [f'<pre class="{name}" style="{style}">{long}</pre>' for name, style in boxes.items()]
    bar = "<style>.good::-webkit-scrollbar { height: 9px; }</style>"
    file.write_text(f"<!doctype html><head>{bar}</head><body>{''.join(parts)}</body>")
    (shown,) = browsers.shown_at(browser, [file], [390])
    assert (shown.width, shown.needed) == (390, 390)
    assert [fault[:9] for fault in shown.faults] == ["PRE bad 1", "PRE bad 2", "PRE bad 3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.html"]


def test_light_and_dark(browser, written, tmp_path):
    light, dark = "--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"
    assert corner(browser, written, tmp_path / "light.png", light) == LIGHT
    assert corner(browser, written, tmp_path / "dark.png", dark) == DARK
    picked = tmp_path / "picked.html"  # as if the reader had picked dark colours in a light browser
    picked.write_text(written.read_text().replace('id="dark"', 'id="dark" checked'))
    assert corner(browser, picked, tmp_path / "picked.png", light) == DARK
