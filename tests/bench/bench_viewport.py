"""How fast the images of a CT of 300 slices of 512 x 512 come to the screen, and whether scrolling shows them all.

`make bench-viewport`. One installation on this machine: gunicorn serves the dashboard, headless Chromium reads. Once
with Cornerstone3D over DICOMweb, once with the slices that the server renders (the same page without Cornerstone), each
in a fresh browser context, medians of three.

- first_image_s: from the navigation to the reading page until the viewer's own first picture is on the canvas; for the
  server's slices, until the picture element has been painted.
- blank_frames: of 290 steps of one slice at 30 a second, begun two seconds after the first picture, those after which
  the viewport was black, judged by its pixels at every step.
- stale_frames: those after which, 1/30 s later, the viewport had not yet drawn the wanted slice by its own account (the
  one before stays on the screen). A step is never sent sooner than 1/30 s after the one before.

`late` counts steps that the page's own clock sent more than 1/30 s too late: on a busy machine it is not 0.

Options: --gpu leaves the choice of a GPU to the browser; without one Cornerstone draws on the CPU; --slices; --repeats.
"""

import argparse
import logging
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

PER_SECOND = 30
FLAGS = ["--no-sandbox", "--no-first-run", "--disable-background-networking"]

# one step each 1/30 s; before each the state of the last is judged
SCROLL = """async ({steps, perSecond, live}) => {
  const options = {bubbles: true, cancelable: true};
  const key = name => document.body.dispatchEvent(new KeyboardEvent('keydown', {key: name, ...options}));
  const pane = document.querySelector(live ? '.cs-pane' : '#viewer');
  const dark = () => {
    const source = live ? pane.querySelector('canvas') : document.querySelector('#slice');
    const small = new OffscreenCanvas(32, 32).getContext('2d');
    if (!live && !source.naturalWidth) return true;
    small.drawImage(source, 0, 0, 32, 32);
    return !small.getImageData(0, 0, 32, 32).data.some((value, at) => at % 4 !== 3 && value > 8);
  };
  const painted = () => Number(pane.dataset.index);
  let stale = 0, black = 0, late = 0;
  const began = performance.now();
  for (let step = 1; step <= steps; step += 1) {
    const until = performance.now() + 1000 / perSecond;
    key('ArrowDown');
    await new Promise(done => setTimeout(done, Math.max(0, until - performance.now())));
    if (performance.now() - until > 1000 / perSecond) late += 1;
    if (painted() !== step) stale += 1;
    if (dark()) black += 1;
  }
  return {stale, black, late, seconds: (performance.now() - began) / 1000};
}"""

# a picture that is exchanged while it is decoded is waited for again
PAINTED = """async image => {
  while (!(image.complete && image.naturalWidth)) await new Promise(done => setTimeout(done, 10));
}"""


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Measure, and print a table and one `bar` line per figure."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--gpu", action="store_true")
    options.add_argument("--slices", type=int, default=300)
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        study_id, base, server = _serve(Path(folder), given.slices)
        try:
            found = _measure(base, study_id, given)
        finally:
            server.terminate()
            server.wait()
    for name, figures in found.items():
        _say(f"{name:12} " + "  ".join(f"{key} {value:.2f}" for key, value in figures.items()))
    _bar("first_image_s", found["cornerstone"]["first_image_s"], 2)
    _bar("blank_frames", found["cornerstone"]["black"], 0)
    _bar("stale_frames", found["cornerstone"]["stale"], 0)
    _bar("server_first_image_s", found["server"]["first_image_s"], 2)
    _bar("server_blank_frames", found["server"]["black"], 0)
    _bar("server_stale_frames", found["server"]["stale"], 0)


def _bar(name: str, value: float, target: float) -> None:
    _say(f"bar {name} {value:.2f} {target:g} {'ok' if value <= target else 'short'}")


def _serve(folder: Path, slices: int) -> "tuple[Any, str, subprocess.Popen[bytes]]":
    """Fill an installation and start gunicorn on it."""
    import numpy as np

    from tests.dashboard_support import ct_study, make_site

    site = make_site(folder)
    made = ct_study(slices, Rows=512, Columns=512, PixelSpacing=[0.7, 0.7], SliceThickness=1.0)
    noise = np.random.default_rng(1).normal(0, 20, (512, 512))
    for index, ds in enumerate(made):
        ds.ImagePositionPatient = [-179.2, -179.2, 150.0 - index]
        small = np.frombuffer(ds.PixelData, "<i2").reshape(128, 128)
        ds.PixelData = (np.kron(small, np.ones((4, 4))) + noise + index % 7).astype("<i2").tobytes()
    study_id = site.receive(made)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "FIRSTREAD_DATA_DIR": str(folder), "FIRSTREAD_WEB__PORT": str(port), "FIRSTREAD_WEB__HOST": "127.0.0.1",
    }  # fmt: skip
    command = [sys.executable, "-m", "firstread", "web"]
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    return study_id, f"http://127.0.0.1:{port}", server


def _measure(base: str, study_id: Any, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    rendering = [] if given.gpu else ["--disable-gpu"]
    live: list[dict[str, float]] = []
    server: list[dict[str, float]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS + rendering)
        for _ in range(given.repeats):
            live.append(_once(browser, base, study_id, live=True, slices=given.slices))
            server.append(_once(browser, base, study_id, live=False, slices=given.slices))
        browser.close()
    return {
        name: {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        for name, runs in (("cornerstone", live), ("server", server))
    }


def _once(browser: Any, base: str, study_id: Any, *, live: bool, slices: int) -> dict[str, float]:
    from tests.dashboard_support import PASSWORD

    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    if not live:  # without Cornerstone the page keeps the server's slices
        page.route("**/chunk-*.js", lambda route: route.abort())
    page.goto(f"{base}/login")
    page.fill("#login", "radiologist")
    page.fill("#password", PASSWORD)
    page.get_by_role("button", name="Log in", exact=True).click()
    page.wait_for_url("**/worklist*")
    began = time.perf_counter()
    page.goto(f"{base}/studies/{study_id}", wait_until="commit")
    if live:
        page.wait_for_selector("#viewer[data-drawn='1']")
    else:
        page.locator("#slice").evaluate(PAINTED)
    first = time.perf_counter() - began
    page.wait_for_selector("#viewer[data-stage=live]" if live else "#viewer[data-stage=off]")
    page.keyboard.press("Home")
    page.wait_for_timeout(2000)
    scrolled = page.evaluate(SCROLL, {"steps": slices - 10, "perSecond": PER_SECOND, "live": live})
    context.close()
    return {"first_image_s": first, **{key: float(value) for key, value in scrolled.items()}}


if __name__ == "__main__":
    main()
