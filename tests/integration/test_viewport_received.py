"""Segmentations that came with a study: painted where highdicom put them, or named with the reason."""

from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from dashboard.library import SeriesImages, StudyImages
from dashboard.received_masks import received_on, rgb_of
from dashboard.stacks import build_stack
from tests.dashboard_support import Site, ct_study, lesion, make_site

ORANGE = (230, 120, 40)


def described(number: int, label: str, **more: Any) -> hd.seg.SegmentDescription:
    """A segment that a person drew."""
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        **more,
    )


def segmentation(
    source: list[Dataset], masks: NDArray[Any], words: str, *, kind: str = "BINARY", **changes: Any
) -> Dataset:
    """A Segmentation by another maker; ``masks`` is (slices, rows, columns, segments) or a label map."""
    labels = ["tumour <b>left</b>", "box"]
    colour = {"display_color": hd.color.CIELabColor.from_rgb(*ORANGE)}
    count = masks.shape[3] if masks.ndim == 4 else int(masks.max())
    ds = hd.seg.Segmentation(
        source_images=source,
        pixel_array=masks,
        segmentation_type=kind,
        segment_descriptions=[described(n + 1, labels[n], **(colour if n == 0 else {})) for n in range(count)],
        series_instance_uid=generate_uid(),
        series_number=90,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Elsewhere",
        manufacturer_model_name="Contour",
        software_versions="1",
        device_serial_number="1",
        series_description=words,
    )
    ds.StudyDescription, ds.BodyPartExamined = "CT chest", "CHEST"
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def two(slices: int) -> NDArray[np.uint8]:
    """The lesion, and a box that overlaps it, with a hole."""
    box = np.zeros((slices, 128, 128), np.uint8)
    box[2:6, 50:90, 30:61] = 1
    box[3, 60:70, 40:50] = 0
    return np.stack([lesion(slices).astype(np.uint8), box], axis=-1)


def painted(answer: dict[str, Any], at: int, slices: int) -> NDArray[np.uint8]:
    """The pixels of one map from its runs."""
    made = np.zeros((slices, 128 * 128), np.uint8)
    for index, planes in answer["frames"].items():
        for plane in planes:
            assert (plane["rows"], plane["columns"]) == (128, 128)
            position = 0
            for gap, length, value in np.reshape(plane["runs"], (-1, 3)) if plane["map"] == at else ():
                position += gap
                made[int(index), position : position + length] = value
                position += length
    return made.reshape(slices, 128, 128)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("received"))


def test_a_received_segmentation_lies_where_its_maker_put_it_and_bad_ones_are_named(site: Site) -> None:
    source = ct_study(10)
    masks = two(10)
    flat = np.where(masks[..., 1], 2, masks[..., 0]).astype(np.uint8)
    other_study = ct_study(10, StudyInstanceUID=source[0].StudyInstanceUID)
    elsewhere = segmentation(source, masks, "Shifted")
    for item in elsewhere.PerFrameFunctionalGroupsSequence:
        item.PlanePositionSequence[0].ImagePositionPatient[0] += 7
    strangers = ct_study(10, StudyInstanceUID=source[0].StudyInstanceUID)
    study_id = site.drafted([*source])
    site.receive(
        [
            segmentation(source, masks, "Tumours"),
            segmentation(source, flat, "Map", kind="LABELMAP"),
            segmentation(source, masks[..., :1].astype(np.float32), "Fractions", kind="FRACTIONAL"),
            segmentation(source, masks, "Moved", FrameOfReferenceUID=generate_uid()),
            segmentation(strangers, masks, "Strange"),
            segmentation(source, masks, "Broken", PixelData=b"\0" * 100),
            segmentation(source, masks, "Huge", NumberOfFrames=2_000_000_000),
            elsewhere,
            *other_study,
            segmentation(other_study, masks, "On the other series"),
        ]
    )
    reader = site.client("radiologist")
    scene = reader.get(f"/studies/{study_id}/scene").json
    assert scene is not None
    first = next(one for one in scene["series"] if one["uid"] == source[0].SeriesInstanceUID)
    answer = reader.get(f"/studies/{study_id}/masks/{first['id']}").json
    assert answer is not None
    received = [one for one in answer["segments"] if one["status"] == "received"]
    assert [(one["group"], one["name"], one["rgb"]) for one in received] == [
        ("Segmentation of Elsewhere Map", "tumour <b>left</b>", pytest.approx(ORANGE, abs=1)),
        ("Segmentation of Elsewhere Map", "box", None),
        ("Segmentation of Elsewhere Tumours", "tumour <b>left</b>", pytest.approx(ORANGE, abs=1)),
        ("Segmentation of Elsewhere Tumours", "box", None),
    ]
    for one, wanted in zip(received, (flat == 1, flat == 2, masks[..., 0], masks[..., 1]), strict=True):
        assert np.array_equal(painted(answer, one["map"], 10), wanted)
    assert not any(one["shown"] for one in received)
    assert {one["name"].removeprefix("Segmentation of Elsewhere "): one["why"] for one in answer["refused"]} == {
        "Fractions": "it holds fractions, not masks",
        "Moved": "its frame of reference is not that of the images",
        "Strange": "the images it was drawn on are not in this study",
        "Broken": "its pixel data end too early",
        "Huge": "it is too large (2000000000 frames of 128 x 128)",
        "Shifted": "it lies elsewhere than the images it names",
    }
    brief = reader.get(f"/studies/{study_id}/masks/{first['id']}?only=segments").json
    assert brief is not None
    assert (brief["segments"], brief["frames"]) == (answer["segments"], {})


def test_what_this_installation_made_is_not_shown_twice(tmp_path: Path) -> None:
    source = ct_study(5, Rows=6, Columns=7, PixelData=bytes(84))
    seg = segmentation(source, np.eye(6, 7, dtype=np.uint8)[None].repeat(5, 0)[..., None], "Odd matrix")
    for one in (*source, seg):
        one.save_as(tmp_path / f"{one.SOPInstanceUID}.dcm", enforce_file_format=True)

    def held(modality: str, *datasets: Dataset) -> SeriesImages:
        paths = tuple(tmp_path / f"{one.SOPInstanceUID}.dcm" for one in datasets)
        uids = frozenset(str(one.SOPInstanceUID) for one in datasets)
        return SeriesImages(generate_uid(), datasets[0].SeriesInstanceUID, modality, 1, "", paths, uids)  # type: ignore[arg-type]

    series = held("CT", *source)
    images = StudyImages(generate_uid(), (series, held("SEG", seg)), {})  # type: ignore[arg-type]
    stack = build_stack(series.paths)
    (found,) = received_on(images, series, stack, own=frozenset())
    # 42 pixels a frame: frames of one bit begin within a byte
    assert {index: plane[2][:6] for index, plane in found.segments[0].planes.items()} == {
        index: [0, 1, 1, 7, 1, 1] for index in range(5)
    }
    assert received_on(images, series, stack, own=frozenset({seg.SOPInstanceUID})) == []
    assert rgb_of(Dataset()) is None
