"""Segmentations read by programs that are not ours, voxel by voxel at their place in the patient.

Where a voxel lies is worked out here from the source's own Image Position, Orientation and Pixel Spacing (PS3.3
C.7.6.2.1.1); highdicom and dcmqi read the object alone and say where they see it.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 its own name for itself
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation
from scipy.spatial import cKDTree

from config.errors import GeometryError, RefusedInputError
from reports.heat_map import HeatMap, build_heat_map
from reports.segmentation import build_segmentation, segment_numbers
from reports.values import stable_uid
from tests.dcmtk import tool
from tests.intake_sources import AXIAL, SAGITTAL, classic, multi_frame, plane_points, positions
from tests.reports_sources import ALGORITHM, EQUIPMENT, dciodvfy, identity_of, radiograph, spec, written

SLICES, ROWS, COLUMNS = 7, 9, 8
PIXEL_MM = (0.5, 0.75)  # between rows, between columns
KEYS = {3: "ct.spleen", 5: "ct.right_kidney", 97: "ct.sacrum"}
OBLIQUE = np.array([[0.8, 0.6, 0.0], [-0.36, 0.48, -0.8]])  # a rotation about two axes, exact in decimals

Points = dict[str, np.ndarray]


def normal(axes: np.ndarray) -> np.ndarray:
    return np.cross(axes[0], axes[1])


def label_map() -> np.ndarray:
    """Three structures with no symmetry at all: no flip, transposition or shift maps them onto themselves."""
    labels = np.zeros((SLICES, ROWS, COLUMNS), np.uint8)
    labels[1:4, 2:7, 1:3] = 3
    labels[3, 6, 3:6] = 3
    labels[2:6, 1, 4:7] = 5
    labels[5, 8, 7] = labels[6, 0, 0] = 97
    return labels


def axial(folder: Path) -> list[Dataset]:
    return one_file_per_slice(folder, AXIAL)


def downwards(folder: Path) -> list[Dataset]:
    """The highest slice first: the order of the array is not the order along the normal."""
    return one_file_per_slice(folder, AXIAL)[::-1]


def oblique(folder: Path) -> list[Dataset]:
    return one_file_per_slice(folder, OBLIQUE)


def sagittal(folder: Path) -> list[Dataset]:
    return one_file_per_slice(folder, SAGITTAL)


def one_file_per_slice(folder: Path, axes: np.ndarray) -> list[Dataset]:
    where = positions([-31.5, 12.25, 40.0], 1.25 * normal(axes), SLICES)
    options = {"axes": axes, "matrix": (ROWS, COLUMNS), "pixel_mm": PIXEL_MM}
    return [read(path) for path in classic(folder, where, **options)]


def enhanced(folder: Path) -> list[Dataset]:
    """One multi-frame object, oblique, its frames in no order."""
    where = positions([-31.5, 12.25, 40.0], 1.25 * normal(OBLIQUE), SLICES)
    frames = [{"position": where[k], "axes": OBLIQUE} for k in (3, 0, 6, 1, 5, 2, 4)]
    return [read(multi_frame(folder, frames, matrix=(ROWS, COLUMNS), pixel_mm=PIXEL_MM))]


def read(path: Path) -> Dataset:
    return pydicom.dcmread(path, stop_before_pixels=True)


SOURCES: dict[str, Callable[[Path], list[Dataset]]] = {
    "axial": axial, "downwards": downwards, "oblique": oblique, "sagittal": sagittal, "enhanced": enhanced,
}  # fmt: skip


def planes(source: list[Dataset]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (position, axes) of every frame of a source, as its file says."""
    if "PerFrameFunctionalGroupsSequence" not in source[0]:
        holders = [(ds, ds) for ds in source]
    else:
        groups = source[0].PerFrameFunctionalGroupsSequence
        holders = [(one.PlanePositionSequence[0], one.PlaneOrientationSequence[0]) for one in groups]
    return [
        (np.array(place.ImagePositionPatient, float), np.array(turn.ImageOrientationPatient, float).reshape(2, 3))
        for place, turn in holders
    ]


def expected_points(source: list[Dataset], masks: dict[str, np.ndarray]) -> Points:
    """Return name → ``(voxels, 3)`` LPS mm where each mask lies, from the source alone."""
    grid = np.stack([plane_points(place, axes, (ROWS, COLUMNS), PIXEL_MM) for place, axes in planes(source)])
    return {name: grid[mask] for name, mask in masks.items()}


def seen_by_highdicom(path: Path) -> Points:
    seg = hd.seg.segread(path)
    found = {}
    for number in seg.segment_numbers:
        volume = seg.get_volume(segment_numbers=[number], allow_missing_positions=True)
        indices = np.argwhere(volume.array[..., 0] > 0)
        name = seg.get_segment_description(number).segment_label
        found[name] = indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return found


def seen_by_dcmqi(path: Path) -> Points:
    """What segimage2itkimage writes as images, their voxels placed by ITK (LPS, mm)."""
    folder = path.with_suffix(".itk")
    folder.mkdir()
    program = Path(sys.executable).with_name("segimage2itkimage")
    subprocess.run([program, "--inputDICOM", path, "--outputDirectory", folder, "-p", "s"], capture_output=True,
                   check=True)  # fmt: skip
    names = {item["labelID"]: item["SegmentLabel"]
             for group in json.loads((folder / "s-meta.json").read_text())["segmentAttributes"]
             for item in group}  # fmt: skip
    found: Points = {}
    for file in sorted(folder.glob("s-*.nrrd")):
        image = sitk.ReadImage(str(file))
        array = sitk.GetArrayFromImage(image)  # (z, y, x)
        for value in np.unique(array[array > 0]):
            indices = np.argwhere(array == value)[:, ::-1]
            points = [image.TransformIndexToPhysicalPoint(one) for one in indices.tolist()]
            found[names[int(value)]] = np.array(points)
    return found


def assert_same_places(found: Points, expected: Points) -> None:
    assert set(found) == set(expected)
    for name, points in expected.items():
        assert found[name].shape == points.shape, name
        distances, partners = cKDTree(points).query(found[name])
        assert distances.max() < 0.01, f"{name} is {distances.max():.2f} mm away"
        assert len(set(partners.tolist())) == len(points), name


def build(source: list[Dataset], labels: np.ndarray, specs, path: Path, **options) -> Dataset:
    numbers = range(1, SLICES + 1) if len(source) == 1 else None
    seg = build_segmentation(
        source, labels, segments=specs, identity=identity_of(source[0]), equipment=EQUIPMENT, frame_numbers=numbers,
        **options,
    )  # fmt: skip
    path.write_bytes(written(seg))
    return seg


@pytest.mark.requirement("REQ-VIEW-2")
@pytest.mark.parametrize("form", ["binary", "labelmap"])
@pytest.mark.parametrize("kind", SOURCES)
def test_every_voxel_lies_where_the_source_says(tmp_path, kind, form):
    source, labels = SOURCES[kind](tmp_path / "source"), label_map()
    specs = [spec(value, key) for value, key in KEYS.items()]
    build(source, labels, specs, tmp_path / "seg.dcm", form=form)
    expected = expected_points(source, {one.label: labels == one.number for one in specs})
    assert sum(len(points) for points in expected.values()) == 30 + 3 + 12 + 2
    assert_same_places(seen_by_highdicom(tmp_path / "seg.dcm"), expected)
    assert_same_places(seen_by_dcmqi(tmp_path / "seg.dcm"), expected)


@pytest.mark.parametrize("kind", ["sagittal", "enhanced"])
def test_regions_that_overlap_lie_where_the_source_says(tmp_path, kind):
    source = SOURCES[kind](tmp_path / "source")
    whole = label_map() > 0
    core = whole & (np.arange(COLUMNS) < 5)
    specs = [spec(1, "mr.whole_tumor"), spec(2, "mr.tumor_core")]
    seg = build(source, np.stack([whole, core], axis=-1).astype(np.uint8), specs, tmp_path / "seg.dcm")
    assert seg.SegmentsOverlap == "YES"
    expected = expected_points(source, {"whole tumor": whole, "tumor core": core})
    assert_same_places(seen_by_highdicom(tmp_path / "seg.dcm"), expected)
    assert_same_places(seen_by_dcmqi(tmp_path / "seg.dcm"), expected)


def test_the_comparison_would_see_a_slip_of_one_row(tmp_path):
    source, labels = oblique(tmp_path / "source"), label_map()
    build(source, np.roll(labels, 1, axis=1), [spec(3, "ct.spleen"), spec(5, "ct.right_kidney"),
                                               spec(97, "ct.sacrum")], tmp_path / "seg.dcm")  # fmt: skip
    expected = expected_points(source, {"spleen": labels == 3, "right kidney": labels == 5, "sacrum": labels == 97})
    with pytest.raises(AssertionError, match=r"0\.50 mm away"):
        assert_same_places(seen_by_dcmqi(tmp_path / "seg.dcm"), expected)


# --- label maps --------------------------------------------------------------------------------------------


def test_a_label_map_is_the_same_segments_in_a_series_of_its_own(tmp_path):
    source, labels = axial(tmp_path), label_map()
    specs = [spec(value, key) for value, key in KEYS.items()]
    binary = build(source, labels, specs, tmp_path / "binary.dcm")
    seg = build(source, labels, specs, tmp_path / "labelmap.dcm", form="labelmap")
    assert seg.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    assert (seg.SeriesNumber, seg.SegmentationType, seg.SegmentsOverlap) == (914, "LABELMAP", "NO")
    assert segment_numbers(seg) == segment_numbers(binary)
    assert seg.SeriesInstanceUID != binary.SeriesInstanceUID
    assert seg.SOPInstanceUID != binary.SOPInstanceUID
    assert int(seg.NumberOfFrames) == 6
    again = build(source, labels, specs, tmp_path / "again.dcm", form="labelmap")
    assert written(again) == written(seg)


def test_dciodvfy_knows_label_maps_and_has_nothing_against_ours(tmp_path):
    source = axial(tmp_path / "source")
    seg = build(source, label_map(), [spec(v, key) for v, key in KEYS.items()], tmp_path / "s.dcm", form="labelmap")
    assert dciodvfy(seg, tmp_path) == []
    del seg.SegmentationType
    assert any("SegmentationType" in line for line in dciodvfy(seg, tmp_path))


def test_disjoint_masks_make_a_label_map_and_overlapping_ones_never(tmp_path):
    source, labels = axial(tmp_path / "source"), label_map()
    specs = [spec(1, "mr.non_enhancing_core"), spec(2, "mr.edema")]
    masks = np.stack([labels == 3, labels == 5], axis=-1).astype(np.uint8)
    build(source, masks, specs, tmp_path / "seg.dcm", form="labelmap")
    names = {"non-enhancing tumor core": labels == 3, "peritumoral edema": labels == 5}
    assert_same_places(seen_by_highdicom(tmp_path / "seg.dcm"), expected_points(source, names))
    masks[1, 2, 1] = 1
    with pytest.raises(RefusedInputError, match="overlap on slice 1"):
        build(source, masks, specs, tmp_path / "seg.dcm", form="labelmap")


# --- sources that fall short -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_without_frame_of_reference_is_refused_for_a_cross_section(tmp_path, kind):
    source = SOURCES[kind](tmp_path / "source")
    for ds in source:
        del ds.FrameOfReferenceUID
    with pytest.raises(GeometryError, match="Frame of Reference UID, found 0"):
        build(source, label_map(), [spec(value, key) for value, key in KEYS.items()], tmp_path / "seg.dcm")


@pytest.mark.parametrize("form", ["binary", "labelmap"])
@pytest.mark.parametrize("frame_of_reference", ["", "1.2.3.4"])
def test_a_radiograph_needs_none_and_may_have_one(tmp_path, form, frame_of_reference):
    source = radiograph()
    if frame_of_reference:
        source.FrameOfReferenceUID = frame_of_reference
    mask = np.zeros((1, 64, 48), np.uint8)
    mask[0, 10:20, 5:9] = 1
    seg = build_segmentation(
        [source], mask, segments=[spec(1, "ct.heart")], identity=identity_of(source), equipment=EQUIPMENT, form=form
    )
    assert dciodvfy(seg, tmp_path) == []
    pixels = hd.seg.segread(tmp_path / "object.dcm").get_pixels_by_source_instance([str(source.SOPInstanceUID)])
    assert np.array_equal(pixels[0, ..., 0], mask[0])


TYPE_2 = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
          "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator", "Manufacturer")  # fmt: skip


@pytest.mark.parametrize("form", ["binary", "labelmap"])
def test_type_2_attributes_that_the_source_lacks_are_written_empty(tmp_path, form):
    source = axial(tmp_path / "source")
    for ds in source:
        for keyword in TYPE_2:
            ds.pop(keyword, None)
    seg = build(source, label_map(), [spec(v, key) for v, key in KEYS.items()], tmp_path / "seg.dcm", form=form)
    assert dciodvfy(seg, tmp_path) == []
    for keyword in (*TYPE_2[:-1], "ContentCreatorName"):
        assert keyword in seg
        assert not seg[keyword].value


NAMES = ["Yamada^Tarou=山田^太郎=やまだ^たろう", "قباني^لنزار", "Äneas^Rüdiger", "Ä" * 31 + "^" + "Ö" * 31]


@pytest.mark.filterwarnings("ignore:The value length")
@pytest.mark.parametrize("form", ["binary", "labelmap"])
@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_script_and_long_words_survive(tmp_path, name, form):
    source = axial(tmp_path / "source")
    for ds in source:
        ds.PatientName, ds.StudyDescription, ds.BodyPartExamined = name, "Brust-CT; 胸部 " * 20, "CHEST"
    segment = replace(spec(3, "ct.spleen"), label="Milz, " + "größer als üblich " * 9, tracking_id="ك" * 200)
    seg = build(source, np.where(label_map() == 3, 3, 0).astype(np.uint8), [segment], tmp_path / "seg.dcm", form=form)
    # dciodvfy counts bytes, the Standard characters (PS3.5 6.2), which are counted below
    assert [line for line in dciodvfy(seg, tmp_path) if "Length invalid for this VR" not in line] == []
    again = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (again.SpecificCharacterSet, str(again.PatientName)) == ("ISO_IR 192", name)
    assert again.StudyDescription == ("Brust-CT; 胸部 " * 20)[:64]
    shown = again.SegmentSequence[-1]
    assert shown.SegmentLabel.startswith("Milz, größer als üblich")
    assert len(shown.SegmentLabel.encode()) <= 64
    assert shown.TrackingID == "ك" * 200


# --- heat maps of radiographs ------------------------------------------------------------------------------

RADIOGRAPHS = {
    "CR": {},
    "CR with frame of reference": {"FrameOfReferenceUID": "1.2.3.4", "PositionReferenceIndicator": ""},
    "DX": {"SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX", "FrameOfReferenceUID": "1.2.3.4"},
    "CR without orientation": {"PatientOrientation": None, "BodyPartExamined": None},
    "CR without type 2 attributes": dict.fromkeys(TYPE_2),
    "lossy DX": {
        "SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX", "LossyImageCompression": "01",
        "LossyImageCompressionRatio": "10", "LossyImageCompressionMethod": "ISO_10918_1",
    },
}  # fmt: skip


def altered_radiograph(changes: dict[str, str | None]) -> Dataset:
    source = radiograph()
    for keyword, value in changes.items():
        if value is None:
            source.pop(keyword, None)
        else:
            setattr(source, keyword, value)
    return source


@pytest.mark.parametrize("changes", RADIOGRAPHS.values(), ids=RADIOGRAPHS)
def test_heat_maps_of_any_radiograph_are_conformant_and_come_back_pixel_by_pixel(tmp_path, changes):
    source = altered_radiograph(changes)
    ramp = np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(64, 48)
    maps = [
        HeatMap(key, key, values, ALGORITHM, stable_uid("tracking", key), f"ai:{key}")
        for key, values in {"cxr.effusion": ramp, "cxr.mass": np.ascontiguousarray(ramp[::-1, ::-1])}.items()
    ]
    seg = build_heat_map(source, maps, identity=identity_of(source), equipment=EQUIPMENT)
    assert dciodvfy(seg, tmp_path) == []
    pixels = hd.seg.segread(tmp_path / "object.dcm").get_pixels_by_source_instance([str(source.SOPInstanceUID)])
    for number, one in enumerate(maps):
        assert np.abs(pixels[0, ..., number] - one.values).max() <= 0.5 / 255 + 1e-6
        drawn = tmp_path / f"{number}.pgm"
        subprocess.run([tool("dcm2pnm"), "+op", "+F", str(number + 1), tmp_path / "object.dcm", drawn], check=True)
        assert np.array_equal(read_pgm(drawn), np.rint(one.values * 255))


def read_pgm(path: Path) -> np.ndarray:
    """Return a binary PGM (P5) as an array."""
    kind, size, _most, pixels = path.read_bytes().split(b"\n", 3)
    assert kind == b"P5"
    columns, rows = (int(word) for word in size.split())
    return np.frombuffer(pixels, np.uint8)[: rows * columns].reshape(rows, columns)
