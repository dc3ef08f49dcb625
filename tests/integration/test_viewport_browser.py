"""The Cornerstone3D viewer in a real browser over DICOMweb: grey values, masks, measures, reformats, priors."""

import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import APIResponse, Browser, Page, Route, expect, sync_playwright
from pydicom import Dataset

from db.lifecycle.prior_values import FetchedPrior
from db.queries.annotations import annotations_of
from tests.dashboard_support import PASSWORD, Site, ct_study, lesion, make_site, volume
from tests.integration.test_priors_pages import fetched, searched
from tests.integration.test_viewport_received import segmentation, two
from tests.viewport_support import (
    SLOW_MS,
    Held,
    at,
    drag,
    dressed,
    grey,
    live,
    picture,
    radiograph,
    sample,
    sequences,
    served,
    settled,
    show,
)

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
QUIET = ["--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
SOFTWARE_GPU = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
CLOSE = 4  # of 255 grey levels: two lookup tables and a screenshot lie between


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("viewport"))


@pytest.fixture(scope="module")
def base(site: Site) -> Iterator[str]:
    with served(site.app) as address:
        yield address


@pytest.fixture(scope="module")
def browsers() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    built = (ROOT / "dashboard" / "static" / "build" / "viewer.js").is_file()
    if not path or not built:
        if os.environ.get("CI"):
            pytest.fail("Chromium or the built front end is missing")
        pytest.skip("Chromium or the built front end is missing")
    with sync_playwright() as playwright:
        opened: dict[bool, Browser] = {}

        def browser(*, gpu: bool) -> Browser:
            if gpu not in opened:
                args = QUIET + (SOFTWARE_GPU if gpu else ["--disable-gpu"])
                opened[gpu] = playwright.chromium.launch(executable_path=path, args=args)
            return opened[gpu]

        yield browser
        for one in opened.values():
            one.close()


@pytest.fixture
def open_study(browsers: Any, base: str) -> Any:
    def go(study_id: object, *, gpu: bool = False) -> tuple[Page, list[str]]:
        page = browsers(gpu=gpu).new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.set_default_timeout(SLOW_MS)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if "Content Security Policy" in line.text else None)
        page.goto(f"{base}/login")
        page.fill("#login", "radiologist")
        page.fill("#password", PASSWORD)
        page.get_by_role("button", name="Log in", exact=True).click()
        page.wait_for_url("**/worklist*")
        page.goto(f"{base}/studies/{study_id}")
        live(page)
        return page, errors

    return go


# first: the search for priors takes up the studies in the order they came
def test_a_prior_scrolls_with_the_present_study_by_position(open_study: Any, site: Site) -> None:
    # the prior has slices of half the distance, and begins 10 mm higher
    earlier = ct_study(16, StudyDate="20220102")
    for index, ds in enumerate(earlier):
        ds.ImagePositionPatient = [-112.0, -112.0, 110.0 - 2.5 * index]
    prior_id = site.receive(earlier)
    site.routed(prior_id)
    today = site.receive(ct_study(8))  # from 100 mm down, 5 mm apart
    searched(site, today, earlier[0].StudyInstanceUID)
    fetched(site, FetchedPrior())
    page, errors = open_study(today)
    page.keyboard.press("p")
    expect(page.locator(".cs-pane")).to_have_count(2, timeout=SLOW_MS)
    for key, index in (("Home", 0), ("ArrowDown", 1), ("ArrowDown", 2)):
        page.keyboard.press(key)
        show(page, index, 0)
        # the same millimetre: 100 - 5 i = 110 - 2.5 j
        show(page, 4 + 2 * index, 1)
    expect(page.locator(".cs-pane").nth(1).locator(".tl")).to_contain_text("Prior 2022-01-02")
    page.locator(".cs-pane").nth(1).hover()
    page.mouse.wheel(0, 100)  # the prior leads: the nearest present slice follows
    show(page, 9, 1)
    show(page, math.ceil((9 - 4) / 2) - 1, 0)
    assert errors == []


def test_a_ct_shows_the_values_of_its_file_its_masks_and_keeps_what_is_measured(open_study: Any, site: Site) -> None:
    study_id = site.drafted(ct_study(10))
    hu, ball = volume(10), lesion(10)
    page, errors = open_study(study_id)
    show(page, 6)  # the finding's key slice
    page.keyboard.press("Home")
    show(page, 0)

    # every tissue has the grey its window gives, under two windows, on a slice the lesion does not touch
    assert not ball[0].any()
    for key, center, width in (("2", 40, 400), ("3", -600, 1500)):
        page.keyboard.press(key)
        expect(page.locator(".cs-window")).to_have_text(f"C {center} W {width}")
        screen = picture(page)
        for row, column in ((64, 64), (62, 40), (62, 88), (92, 64), (30, 64)):
            wanted = grey(float(hu[0, row, column]), center, width)
            y, x = at(screen, (128, 128), row, column)
            assert abs(float(screen[y, x].mean()) - wanted) <= CLOSE, (key, row, column)
    letters = [page.locator(f".edge.{side}").inner_text() for side in "lrtb"]
    assert letters == ["R", "L", "A", "P"]

    # the mask lies on the lesion, in the patient's right lung, in its colour; only there, and `s` takes it away
    document_show = "detail => document.dispatchEvent(new CustomEvent('firstread:show', {detail}))"
    page.evaluate(document_show, {"seriesId": str(site.series_id(study_id)), "segmentLabel": "lung tumor"})
    widest = int(np.argmax(ball.sum(axis=(1, 2))))
    show(page, widest)
    page.keyboard.press("2")
    with_mask = picture(page)
    page.keyboard.press("s")
    without = picture(page)
    page.keyboard.press("s")
    painted = np.abs(with_mask.astype(int) - without.astype(int)).sum(axis=2) > 30
    for row, column in ((58, 40), (58, 46), (58, 56), (40, 40), (58, 88)):
        y, x = at(painted[..., None].repeat(3, 2).astype(np.uint8), (128, 128), row, column)
        assert bool(painted[y, x]) == bool(ball[widest, row, column]), (row, column)
    scale = min(with_mask.shape[:2]) / 128
    assert painted.sum() == pytest.approx(float(ball[widest].sum()) * scale**2, rel=0.05)
    y, x = at(with_mask, (128, 128), 58, 40)
    assert with_mask[y, x].argmax() == 1  # the fourth colour, green, over grey

    # a length of 40 columns at 1.75 mm, drawn by mouse, comes back after a reload with its value
    page.keyboard.press("l")
    box = page.locator(".cs-pane").bounding_box()
    assert box is not None
    start, end = (at(with_mask, (128, 128), 110, column) for column in (44, 84))
    page.mouse.move(box["x"] + start[1], box["y"] + start[0])
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 300, steps=3)
    page.mouse.move(box["x"] + end[1], box["y"] + end[0], steps=5)
    with page.expect_response(lambda answer: "/annotations/" in answer.url) as kept:
        page.mouse.up()
    assert kept.value.status == 201
    with site.sessions() as db:
        (row,) = annotations_of(db, study_id)
    drawn = (end[1] - start[1]) / scale * 1.75
    assert row.value == pytest.approx(drawn, abs=0.6)
    assert abs(drawn - 70) < 1
    assert (row.kind, row.unit, row.frame_number) == ("LENGTH", "mm", 1)
    # also when the list of measurements comes after the image they lie on
    late = Held(page, "**/annotations")
    stale: list[tuple[Route, APIResponse]] = []
    page.route(re.compile(r"/masks/[^/?]+$"), lambda route: stale.append((route, route.fetch())))
    page.reload()
    live(page)
    page.evaluate(document_show, {"sopInstanceUid": row.sop_instance_uid})
    show(page, widest)
    assert page.locator(".cs-pane svg text").count() == 0
    late.release()
    expect(page.locator(".cs-pane svg text")).to_contain_text(f"{row.value:.1f} mm", timeout=SLOW_MS)

    # a rejected finding is not painted any more, though masks from before the decision arrive after it
    while not stale:
        page.wait_for_timeout(100)
    site.client("radiologist").submit(f"/studies/{study_id}/review")
    finding = site.findings(study_id)[0]
    version = site.report(study_id).version
    path = f"/studies/{study_id}/findings/{finding.id}"
    site.client("radiologist").submit(path, version=version, decision="rejected", reason="a nipple")
    ((held, before),) = stale
    assert [one["status"] for one in before.json()["segments"]] == ["unverified"]
    with page.expect_response(re.compile(r"/masks/.*only=segments")):
        page.evaluate("document.dispatchEvent(new CustomEvent('firstread:decided'))")
        held.fulfill(response=before)
    page.wait_for_timeout(300)  # both answers are here: what is painted now stays
    expect(page.locator(".cs-legend")).to_be_hidden(timeout=SLOW_MS)
    assert errors == []


def test_linked_sequences_are_hung_though_the_first_moves(open_study: Any, site: Site, base: str) -> None:
    contrast, flair, late = sequences()
    page, errors = open_study(site.receive(ct_study(2)))
    study_id = site.receive([*contrast, *flair, *late])
    held = Held(page, re.compile(re.escape(contrast[0].SeriesInstanceUID) + r"/instances/.+/frames/"))
    page.goto(f"{base}/studies/{study_id}")
    show(page, 8, 1)  # the longer series is there, the first picture of the other is on its way
    held.wait()
    page.set_viewport_size({"width": 1300, "height": 820})  # drawn again, it leads the others to its place
    page.wait_for_timeout(300)
    held.release()
    live(page)
    for pane in (0, 2):
        show(page, 2, pane)  # 90 mm: 110 - 2.5 * 8 = 100 - 5 * 2; alone they would hang at their middle
    assert errors == []
    page.context.close()


def test_radiographs_mr_multiframe_and_compressed_images_show_the_values_of_their_files(
    open_study: Any, site: Site
) -> None:
    film = radiograph()
    cases: list[tuple[Dataset, NDArray[Any], int, bool]] = [(film, film.pixel_array, 0, True)]
    uncompressed = {"MR_small_RLE.dcm": "MR_small.dcm", "MR_small_jp2klossless.dcm": "MR_small.dcm"}
    uncompressed["emri_small_jpeg_ls_lossless.dcm"] = "emri_small.dcm"
    for name, reference in uncompressed.items():
        plain = sample(reference).pixel_array
        ds = dressed(sample(name))
        frames = plain if plain.ndim == 3 else plain[None]
        cases.append((ds, frames[len(frames) // 2], len(frames) // 2, False))
    for ds, values, index, inverted in cases:
        study_id = site.receive([ds])
        page, errors = open_study(study_id)
        show(page, index)
        if ds.Modality == "DX":
            assert page.locator(".cs-scale span").inner_text().endswith("mm (detector plane)")
            assert [page.locator(f".edge.{side}").inner_text() for side in "lrtb"] == ["R", "L", "H", "F"]
        screen = picture(page).mean(axis=2)
        window = page.locator(".cs-window").inner_text()
        assert window == "C 600 W 1200", ds.file_meta.TransferSyntaxUID.name
        rows, columns = values.shape
        checked = 0
        # words stand along the edges
        for row in range(rows // 5, rows * 4 // 5, max(1, rows // 12)):
            for column in range(columns // 5, columns * 4 // 5, max(1, columns // 12)):
                near = values[row - 1 : row + 2, column - 1 : column + 2]
                if float(near.max()) - float(near.min()) > 60:
                    continue  # between neighbours that differ the screen interpolates
                wanted = grey(float(values[row, column]), 600, 1200)
                wanted = 255 - wanted if inverted else wanted
                y, x = at(screen[..., None].repeat(3, 2), (rows, columns), row, column)
                assert abs(screen[y, x] - wanted) <= CLOSE + 4, (ds.file_meta.TransferSyntaxUID.name, row, column)
                checked += 1
        assert checked > 10
        assert errors == []
        page.context.close()


def test_regions_are_measured_cine_plays_the_border_moves_and_a_second_window_follows(
    open_study: Any, site: Site
) -> None:
    source, other = ct_study(10), site.receive(ct_study(2))
    seg, fractions = (two(10), "Tumours", "BINARY"), (two(10)[..., :1].astype(np.float32), "Shares", "FRACTIONAL")
    study_id = site.receive(
        [*source, *(segmentation(source, mask, name, kind=kind) for mask, name, kind in (seg, fractions))]
    )
    page, errors = open_study(study_id)
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    show(page, 2)

    # what came segmented from elsewhere is painted when it is chosen: a box of rows 50-89, columns 30-60
    legend = page.locator(".cs-legend")
    expect(legend).to_contain_text("Segmentation of Elsewhere Tumours:", timeout=SLOW_MS)
    expect(legend).to_contain_text("Segmentation of Elsewhere Shares is not shown: it holds fractions, not masks.")
    bare = picture(page).astype(int)
    box = legend.get_by_role("checkbox", name="box")
    box.check()
    changed = np.abs(picture(page).astype(int) - bare).sum(axis=2) > 30
    for row, column in ((52, 32), (88, 58), (70, 45), (48, 45), (92, 45), (70, 27), (70, 63)):
        inside = 50 <= row < 90 and 30 <= column < 61
        assert bool(changed[at(bare, (128, 128), row, column)]) == inside, (row, column)
    box.uncheck()
    page.keyboard.press("Home")
    show(page, 0)

    # a rectangle of 16 columns and 20 rows in the left lung, an ellipse in the vertebra
    screen = picture(page)
    for key, start, end in (("u", (52, 80), (72, 96)), ("o", (92, 64), (96, 68))):
        page.keyboard.press(key)
        with page.expect_response(lambda answer: "/annotations/" in answer.url) as kept:
            drag(page, screen, start, end)
        assert kept.value.status == 201
    with site.sessions() as db:
        rows = {row.kind.value: row for row in annotations_of(db, study_id)}
    assert {kind: (row.value, row.unit) for kind, row in rows.items()} == {
        "RECTANGLE": (-850.0, "HU"),
        "ELLIPSE": (450.0, "HU"),
    }
    told = re.fullmatch(r"mean -850\.0 ± 0\.0 HU, area (\d+) mm²", rows["RECTANGLE"].text)
    assert told is not None
    assert float(told[1]) == pytest.approx(16 * 20 * 1.75**2, rel=0.05)

    # cine asks for its rate, shows every frame again and again, and stays where it is stopped
    page.keyboard.press("f")
    page.evaluate("""() => {
      const [seen, ask] = [window.seen = [], window.setInterval.bind(window)];
      window.setInterval = (act, ms) => { window.asked = ms; return ask(act, ms); };
      const note = () => seen.push(Number(document.querySelector('.cs-pane').dataset.index));
      new MutationObserver(note).observe(document.querySelector('.cs-pane'), {attributeFilter: ['data-index']});
    }""")
    page.get_by_label("Cine, images a second").fill("20")
    page.get_by_label("Cine, images a second").blur()
    page.keyboard.press("c")
    button = page.locator("[data-tool=cine]")
    expect(button).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("window.asked") == 1000 / 20
    last = "document.querySelector('.cs-pane').dataset.index"
    is_round = "new Set(window.seen).size === 10 && window.seen.indexOf(0) < window.seen.lastIndexOf(0)"
    for _ in range(SLOW_MS // 100):
        if page.evaluate(is_round):
            break
        page.wait_for_timeout(100)
    else:
        pytest.fail("cine did not come round")
    page.keyboard.press("c")
    expect(button).to_have_attribute("aria-pressed", "false")
    page.wait_for_timeout(200)
    stopped = page.evaluate(last)
    page.wait_for_timeout(200)
    assert page.evaluate(last) == stopped

    # the border between images and report moves by its arrow keys, and the images with it
    border = page.get_by_role("separator", name="Width of the images")
    width = page.locator("#viewer").bounding_box()
    border.press("ArrowRight")
    expect(border).to_have_attribute("aria-valuenow", "60")
    wider = page.locator("#viewer").bounding_box()
    assert width is not None
    assert wider is not None
    assert wider["width"] / width["width"] == pytest.approx(60 / 58, abs=0.01)

    # the images in a window of their own follow, lead, and are covered when the report is of another study
    with page.expect_popup() as popup:
        page.locator("[data-viewer-window]").first.click()
    alone = popup.value
    alone.set_default_timeout(SLOW_MS)
    live(alone)
    page.wait_for_timeout(100)  # its first picture was told, and what follows is silent for a moment
    for leader, follower, key, index in ((page, alone, "Home", 0), (page, alone, "End", 9), (alone, page, "Home", 0)):
        leader.bring_to_front()
        leader.keyboard.press(key)
        show(leader, index)
        show(follower, index)
        leader.wait_for_timeout(100)  # what follows is silent for a moment
    page.goto(page.url.replace(str(study_id), str(other)))
    live(page)
    expect(alone.locator(".cs-refused")).to_contain_text("another study", timeout=SLOW_MS)
    assert errors == []


def test_reformats_have_their_letters_and_their_mask(open_study: Any, site: Site) -> None:
    study_id = site.drafted(ct_study(12))
    page, errors = open_study(study_id, gpu=True)
    page.keyboard.press("m")
    expect(page.locator(".cs-pane")).to_have_count(3, timeout=SLOW_MS)
    expect(page.locator(".cs-legend")).to_be_visible(timeout=SLOW_MS)
    wanted = (["R", "L", "A", "P"], ["A", "P", "H", "F"], ["R", "L", "H", "F"])
    for pane, letters in enumerate(wanted):
        for side, letter in zip("lrtb", letters, strict=True):
            expect(page.locator(".cs-pane").nth(pane).locator(f".edge.{side}")).to_have_text(letter, timeout=SLOW_MS)
    # the coronal plane through the middle of the volume cuts the lesion: 12 slices of 5 mm in 60 mm of height,
    # 128 columns of 1.75 mm in the width; the mask is where that plane of the known lesion is
    seen = settled(page, 2).astype(int)
    page.keyboard.press("s")
    bare = settled(page, 2).astype(int)
    painted = np.abs(seen - bare).sum(axis=2) > 30
    ball = lesion(12)[:, 63:65, :].any(axis=1)
    slices, columns = np.nonzero(ball)
    y, x = np.nonzero(painted)
    height, width = painted.shape
    scale = min(width / (128 * 1.75), height / 60)  # pixels per mm
    assert x.mean() == pytest.approx(width / 2 + (columns.mean() - 63.5) * 1.75 * scale, abs=2 * scale)
    assert y.mean() == pytest.approx(height / 2 + (slices.mean() - 5.5) * 5 * scale, abs=4 * scale)
    assert errors == []
