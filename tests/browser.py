"""A browser, where there is one: what it says of a page, and what of a page cannot be read at some width."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
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
    "--enable-logging=stderr",
    "--v=0",
)
HIDING = "--enable-features=OverlayScrollbar"  # bars as telephones have them, which hide until something scrolls
Call = Callable[..., tuple[str, list[str]]]
# Goes into each page, and tells the frame around it how wide the page is, and what cannot be read: content that is
# wider than its box where nothing shows that it can be scrolled.
PROBE = """<script>
function cut(box, scrolls) {
  const style = getComputedStyle(box);
  if (style.display === "inline" || !box.clientWidth || box.scrollWidth <= box.clientWidth + 1) return "";
  if (!box.checkVisibility({visibilityProperty: true, opacityProperty: true})) return "";
  if (["hidden", "clip"].includes(style.overflowX)) return "is cut off";
  if (!["auto", "scroll"].includes(style.overflowX)) return "";
  const edges = parseFloat(style.borderTopWidth) + parseFloat(style.borderBottomWidth);
  scrolls.push(box.textContent.trim().slice(0, 60));
  return box.offsetHeight - box.clientHeight - edges < 4 ? "scrolls without a bar" : "";
}
addEventListener("load", () => setTimeout(() => {
  document.querySelectorAll("details").forEach(box => { box.open = true; });
  const [faults, scrolls] = [[], []];
  for (const box of document.querySelectorAll(SELECTOR)) {
    const fault = cut(box, scrolls);
    if (fault) faults.push(`${box.tagName} ${box.className} ${fault}: ${box.textContent.trim().slice(0, 60)}`);
  }
  const page = decodeURIComponent(location.pathname);
  const [shown, needed] = [innerWidth, document.documentElement.scrollWidth];
  parent.postMessage({page, shown, needed, faults, scrolls}, "*");
}, 100));
</script>"""
FRAME = """<!doctype html><meta charset="utf-8"><title>[]</title>
<script>
const found = [];
onmessage = event => { found.push(event.data); document.title = JSON.stringify(found); };
</script>
"""


class Shown(NamedTuple):
    """What a page is like at a width: how wide it is, what on it cannot be read, and what has to be scrolled."""

    page: Path
    width: int
    needed: int
    faults: list[str]
    scrolls: list[str]


def start(folder: Path) -> Call:
    """A call of the browser with a file and flags: what it printed, and what it complained of.

    Skips the test where there is no browser. `folder` is for its profile.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"needs a browser, and there is none of {', '.join(NAMES)}")

    def call(file: Path, *flags: str) -> tuple[str, list[str]]:
        argv = [program, *QUIET, f"--user-data-dir={folder}", *flags, file.as_uri()]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return call


def shown_at(call: Call, pages: Sequence[Path], widths: Sequence[int], *, of: str = "body *") -> list[Shown]:
    """What pages are like at some widths, the elements `of` them looked at.

    A copy of each lies beside it for the time, so that it finds its files, and is shown in a frame, which may be
    narrower than a window can be.
    """
    copies = {page.with_name(f"probed-{page.name}"): page for page in pages}
    frame = pages[0].with_name("frame-of-the-test.html")
    probe = PROBE.replace("SELECTOR", json.dumps(of))
    try:
        for copy, page in copies.items():
            copy.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{probe}</body>"), encoding="utf-8")
        frames = [
            f'<iframe src="{html.escape(copy.as_uri())}" width="{width}" height="800" style="border: 0"></iframe>\n'
            for copy in copies
            for width in widths
        ]
        frame.write_text(FRAME + "".join(frames), encoding="utf-8")
        dom, _ = call(frame, "--dump-dom", "--window-size=1700,900", "--virtual-time-budget=60000", HIDING)
    finally:
        for file in (frame, *copies):
            file.unlink(missing_ok=True)
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1]))
    assert len(found) == len(copies) * len(widths), f"{len(found)} of {len(copies) * len(widths)} pages answered"
    return [
        Shown(copies[Path(one["page"])], one["shown"], one["needed"], one["faults"], one["scrolls"]) for one in found
    ]
