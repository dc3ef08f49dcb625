"""A reader sees the frames of a multi-frame object: in order, painted where they were read, found by finding."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from db.lifecycle import NewFinding
from db.types import Presence
from tests.dashboard_support import Site, make_site
from tests.intake_sources import multi_frame, positions
from worker.decoding import read_headers
from worker.stacking import load_volume


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path / "site", sqlite_url)


def drawn(answer) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(answer.data)).convert("RGB")).astype(int)


def test_frames_are_shown_painted_and_found_through_the_pages(site: Site, tmp_path: Path) -> None:
    # two time points at the same places; the second, of more slices, is what the worker reads
    low, high = positions((0, 0, 0), (0, 0, 4), 4), positions((0, 0, 0), (0, 0, 4), 6)
    frames = [{"position": list(p), "time": 1} for p in low] + [{"position": list(p), "time": 2} for p in high]
    path = multi_frame(tmp_path, frames, modality="CT", matrix=(32, 32))
    ds = pydicom.dcmread(path)
    ds.StudyDescription, ds.SeriesDescription, ds.BodyPartExamined = "CT chest", "Two phases", "CHEST"
    ds.ImagePositionPatient = [0, 0, 0]  # some senders leave it beside the functional groups, where it means nothing
    volume = load_volume(read_headers([path]))
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[2:4, 5:15, 8:20] = 23
    key = {"sop_instance_uid": str(ds.SOPInstanceUID), "frame_number": volume.frame_numbers[3], "index": 3}
    finding = NewFinding("lung tumor", Presence.PRESENT, "VISTA3D", evidence_index=0, segment_label=23, key_slice=key)
    study_id = site.drafted([ds], findings=[finding])
    np.savez(
        site.settings.results_dir / f"{ds.StudyInstanceUID}.npz",
        labels=labels,
        sop_instance_uids=np.array(volume.sop_instance_uids),
        frame_numbers=np.array(volume.frame_numbers),
        affine=volume.affine,
        label_values=np.array([23]),
        label_names=np.array(["lung tumor"]),
    )
    browser = site.client("radiologist")
    series_id, overlay = site.series_id(study_id), f"{site.evidence_id(study_id)}:23"
    base = f"/studies/{study_id}/series/{series_id}/slices"
    assert browser.get(f"{base}/10.png").status_code == 404  # ten frames
    # head first: z = 20 and 16 of the second time point, then both time points of each lower place
    in_order = [10, 9, 4, 8, 3, 7, 2, 6, 1, 5]
    for index, number in enumerate(in_order):
        plain, painted = (drawn(browser.get(f"{base}/{index}.png{query}")) for query in ("", f"?overlay={overlay}"))
        changed = (plain != painted).any(axis=2)
        if number not in (7, 8):
            assert not changed.any()
            continue
        # pixels are 0.5 mm high and 0.75 mm wide: shown with square ones
        rows, columns = np.nonzero(changed)
        height, width = changed.shape
        assert (rows.min() / height, (rows.max() + 1) / height) == pytest.approx((5 / 32, 15 / 32), abs=0.05)
        assert (columns.min() / width, (columns.max() + 1) / width) == pytest.approx((8 / 32, 20 / 32), abs=0.05)
    page = browser.get(f"/studies/{study_id}").text
    place = in_order.index(volume.frame_numbers[3]) + 1  # counted from 1
    assert f"slice={place}&" in page or f"slice={place}&amp;" in page
