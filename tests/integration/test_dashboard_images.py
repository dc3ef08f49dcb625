"""Slices arrive as PNG with the right patient's pixels and the overlay in its place; bad ones say why."""

import io
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from werkzeug.test import TestResponse

from dashboard.slices import SliceServer
from dashboard.stacks import build_stack
from tests.dashboard_support import Site, ct_study, lesion, make_site, volume


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def pixels(answer: TestResponse | bytes) -> NDArray[np.uint8]:
    data = answer if isinstance(answer, bytes) else answer.data
    return np.asarray(Image.open(io.BytesIO(data)))


def test_slices_are_shown_head_first_in_the_window_asked_for(site: Site) -> None:
    study_id = site.drafted(ct_study(8)[::-1])  # sent feet first
    browser = site.client("radiologist")
    base = f"/studies/{study_id}/series/{site.series_id(study_id)}/slices"
    hu = volume(8)
    for index in (0, 5, 7):
        shown = pixels(browser.get(f"{base}/{index}.png?window=40,400")).astype(int)
        expected = np.clip(((hu[index] - 39.5) / 399 + 0.5) * 255, 0, 255)
        assert np.abs(shown - expected).max() <= 1


@pytest.mark.requirement("REQ-VIEW-2")
def test_the_overlay_lies_on_the_lesion_and_nowhere_else(site: Site) -> None:
    study_id = site.drafted()
    browser = site.client("radiologist")
    base = f"/studies/{study_id}/series/{site.series_id(study_id)}/slices/5.png"
    painted = pixels(browser.get(f"{base}?overlay={site.evidence_id(study_id)}:23")).astype(int)
    plain = np.repeat(pixels(browser.get(base))[..., None], 3, axis=2).astype(int)
    changed = (painted != plain).any(axis=2)
    assert (changed == lesion(8)[5]).all()
    assert changed.sum() > 100


@pytest.mark.requirement("REQ-VIEW-5")
def test_a_series_never_shows_under_another_study(site: Site) -> None:
    first, second = site.drafted(ct_study(2)), site.drafted(ct_study(2))
    browser = site.client("radiologist")
    assert browser.get(f"/studies/{first}/series/{site.series_id(second)}/slices/0.png").status_code == 404
    other = f"{site.evidence_id(second)}:23"
    mine = f"/studies/{first}/series/{site.series_id(first)}/slices/0.png"
    assert browser.get(f"{mine}?overlay={other}").status_code == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [("99.png", 404), ("0.png?window=x", 400), ("0.png?overlay=x", 400), ("0.png?overlay=x:y", 400), ("-1.png", 404)],
)
def test_a_malformed_request_is_refused_not_a_defect(site: Site, path: str, status: int) -> None:
    study_id = site.drafted(ct_study(2))
    base = f"/studies/{study_id}/series/{site.series_id(study_id)}/slices"
    assert site.client("radiologist").get(f"{base}/{path}").status_code == status


@pytest.mark.requirement("REQ-VIEW-5")
def test_pixels_that_cannot_be_decoded_are_a_picture_of_the_reason(site: Site) -> None:
    datasets = ct_study(2)
    datasets[0].PixelData = datasets[0].PixelData[:1000]
    study_id = site.drafted(datasets)
    browser = site.client("radiologist")
    base = f"/studies/{study_id}/series/{site.series_id(study_id)}/slices"
    broken = browser.get(f"{base}/0.png")
    assert broken.status_code == 200
    assert pixels(broken).shape == (512, 512)
    assert pixels(browser.get(f"{base}/1.png")).shape == (128, 128)
    assert browser.get(f"/studies/{study_id}").status_code == 200


def test_a_missing_label_map_spoils_neither_page_nor_plain_slice(site: Site) -> None:
    datasets = ct_study(2)
    study_id = site.drafted(datasets)
    (site.settings.results_dir / f"{datasets[0].StudyInstanceUID}.npz").write_bytes(b"no archive")
    browser = site.client("radiologist")
    assert browser.get(f"/studies/{study_id}").status_code == 200
    base = f"/studies/{study_id}/series/{site.series_id(study_id)}/slices/0.png"
    assert pixels(browser.get(base)).shape == (128, 128)
    asked = browser.get(f"{base}?overlay={site.evidence_id(study_id)}:23")
    assert pixels(asked).shape == (512, 512)  # an overlay that cannot be drawn is never silently left out


@pytest.mark.requirement("REQ-AUDIT-4")
def test_scrolling_a_series_is_recorded_once_per_session(site: Site) -> None:
    study_id = site.drafted(ct_study(4))
    base = f"/studies/{study_id}/series/{site.series_id(study_id)}/slices"
    for browser in (site.client("radiologist"), site.client("auditor")):
        assert [browser.get(f"{base}/{index}.png").status_code for index in range(4)] == [200] * 4
    assert site.tags(tag="images:viewed", study_id=study_id) == ["images:viewed"] * 2
    assert site.tags(tag="images:viewed", actor="radiologist") == ["images:viewed"]


def test_images_that_arrive_later_are_shown(site: Site) -> None:
    datasets = ct_study(4)
    study_id = site.receive(datasets[:2])
    browser = site.client("radiologist")
    assert "1 / 2" in browser.get(f"/studies/{study_id}?slice=1").text
    site.receive(datasets[2:])
    assert "1 / 4" in browser.get(f"/studies/{study_id}?slice=1").text


def test_an_unknown_study_is_not_found(site: Site) -> None:
    assert site.client("radiologist").get(f"/studies/{uuid4()}").status_code == 404


def test_every_real_image_is_shown_or_says_why(real_data: Path) -> None:
    server = SliceServer()
    shown = refused = 0
    for folder in sorted({path.parent for path in real_data.rglob("*.dcm")}):
        stack = build_stack(sorted(folder.glob("*.dcm")))
        image = pixels(server.png(stack, len(stack.slices) // 2, window=None))
        if image.shape == (512, 512) and image[0, 0] == 12:
            refused += 1  # structured reports and other objects without an image
        else:
            shown += 1
            assert image.ndim in {2, 3}
    assert shown >= 40
    assert refused <= 4


def test_compressed_images_decode_to_the_pixels_of_the_original(real_data: Path) -> None:
    folder = real_data / "transfer_syntaxes"
    server = SliceServer()
    reference = None
    for name in ("mr_rle", "mr_jpegls", "mr_j2k"):  # lossless codings of the same two slices
        stack = build_stack(sorted((folder / name).glob("*.dcm")))
        image = pixels(server.png(stack, 0, window=None))
        reference = image if reference is None else reference
        assert (image == reference).all(), name
