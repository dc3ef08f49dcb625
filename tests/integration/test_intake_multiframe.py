"""Enhanced multi-frame CT and MR: one object, several stacks; frames in Volume, SEG and viewer are the same frames."""

import tracemalloc
from io import BytesIO

import numpy as np
import pydicom
import pytest
from highdicom.seg import segread
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import EnhancedMRColorImageStorage, LegacyConvertedEnhancedMRImageStorage, generate_uid

from config.errors import GeometryError, OutsideIntendedUseError, UndecodablePixelsError
from dashboard.slices import Overlay, SliceServer
from reports.findings_sr import build_findings_sr
from reports.segmentation import build_segmentation
from reports.sr_common import Evidence
from reports.values import FindingValue, InstanceReference, MeasurementValue
from tests.intake_sources import SAGITTAL, multi_frame, plane_points, positions, value_at
from tests.reports_sources import ALGORITHM, EQUIPMENT, dciodvfy, identity_of, spec, written
from worker.decoding import read_headers
from worker.experts.base import ModelCard, SegmentationResult
from worker.intake import gate
from worker.outputs import label_map_bytes
from worker.profiles import CT_TORSO
from worker.stacking import load_volume, read_stack
from worker.volume import Volume

FEET = (-10.0, -20.0, 30.0)


def frames_at(where: np.ndarray, **facts: object) -> list[dict[str, object]]:
    return [{"position": list(position), **facts} for position in where]


def expected(volume: Volume) -> np.ndarray:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.array.shape), indexing="ij"), axis=-1)
    return value_at(index @ volume.affine[:3, :3].T + volume.affine[:3, 3])


def test_frames_are_sorted_by_place_rescaled_each_by_its_own_slope_and_named(tmp_path):
    where = positions(FEET, (0, 0, 2.5), 5)
    order = [3, 0, 4, 1, 2]
    frames = [{"position": list(where[k]), "slope": 0.25 + 0.125 * k} for k in order]
    path = multi_frame(tmp_path, frames)
    volume = load_volume(read_headers([path]))
    assert volume.frame_numbers == (2, 4, 5, 1, 3)  # where z = 30, 32.5, … stands in the file
    assert volume.sop_instance_uids == (str(pydicom.dcmread(path).SOPInstanceUID),) * 5
    assert np.abs(volume.array - expected(volume)).max() < 0.75 / 2 + 0.01  # half of the coarsest slope


def test_shared_and_per_frame_groups_are_the_same_to_us(tmp_path):
    path = multi_frame(tmp_path, frames_at(positions(FEET, (0, 0, 2.5), 4)))
    apart = load_volume(read_headers([path]))
    ds = pydicom.dcmread(path)
    for group in ("PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence"):
        ds.SharedFunctionalGroupsSequence[0][group] = ds.PerFrameFunctionalGroupsSequence[0][group]
        for frame in ds.PerFrameFunctionalGroupsSequence:
            del frame[group]
    ds.save_as(path)
    shared = load_volume(read_headers([path]))
    assert np.array_equal(shared.array, apart.array)
    assert np.array_equal(shared.affine, apart.affine)


LOW, HIGH = positions(FEET, (0, 0, 2), 6), positions(FEET, (0, 0, 2), 9)


@pytest.mark.parametrize(
    ("frames", "chosen", "left_out"),
    [
        # two time points, the second with more slices
        (frames_at(LOW, time=1) + frames_at(HIGH, time=2), range(7, 16), "6 slices are another stack"),
        # equal time points: the first; 10 comes after 2
        (frames_at(LOW, time=10) + frames_at(LOW, time=2), range(7, 13), "6 slices are another stack"),
        # two echoes: the shorter
        (frames_at(LOW, echo=90) + frames_at(LOW, echo=8.5), range(7, 13), "6 slices are another stack"),
        # phase images are never read, however many
        (frames_at(HIGH, component="PHASE") + frames_at(LOW), range(10, 16), "9 phase images"),
        # a calculated map beside the images it was made of
        (
            frames_at(LOW, kind=["DERIVED", "PRIMARY", "VOLUME", "NONE"]) + frames_at(LOW),
            range(7, 13),
            "6 slices are another stack",
        ),
        # two stacks of one orientation, one above the other with a gap
        (
            frames_at(LOW, stack="1") + frames_at(HIGH + np.array([0, 0, 40]), stack="2"),
            range(7, 16),
            "6 slices are another",
        ),
        # two orientations
        (
            frames_at(positions(FEET, (2, 0, 0), 3), axes=SAGITTAL) + frames_at(LOW),
            range(4, 10),
            "3 slices are another",
        ),
    ],
    ids=["time points", "first time", "echoes", "phase", "derived", "stacks", "orientations"],
)
def test_one_object_with_several_stacks_gives_one_by_rule_and_says_what_was_left(tmp_path, frames, chosen, left_out):
    path = multi_frame(tmp_path, frames)
    headers = read_headers([path])
    stack = read_stack(headers)
    assert [frame.number for frame in stack.frames] == list(chosen)
    assert left_out in "; ".join(stack.left_out)
    volume = load_volume(stack.headers)
    assert volume.frame_numbers == tuple(chosen)
    assert np.abs(volume.array - expected(volume)).max() < 0.51


def test_time_points_in_separate_objects_of_one_series_are_told_apart(tmp_path):
    series = generate_uid()
    first = multi_frame(tmp_path, frames_at(LOW, time=1), series=series, InstanceNumber=1)
    second = multi_frame(tmp_path, frames_at(HIGH, time=2), series=series, InstanceNumber=2)
    volume = load_volume(read_headers([first, second]))
    assert set(volume.sop_instance_uids) == {str(pydicom.dcmread(second).SOPInstanceUID)}


def test_a_concatenation_is_refused_by_name(tmp_path):
    series = generate_uid()
    paths = [
        multi_frame(tmp_path, frames_at(part), series=series, InConcatenationNumber=n, InstanceNumber=n)
        for n, part in enumerate((LOW[:3], LOW[3:]), 1)
    ]
    with pytest.raises(GeometryError, match="spread over several multi-frame objects"):
        load_volume(read_headers(paths))


def _drop_group(ds: Dataset) -> None:
    del ds.PerFrameFunctionalGroupsSequence


def _one_group_less(ds: Dataset) -> None:
    ds.PerFrameFunctionalGroupsSequence = ds.PerFrameFunctionalGroupsSequence[:-1]


def _no_position(ds: Dataset) -> None:
    del ds.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence


def _one_place(ds: Dataset) -> None:
    for frame in ds.PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 0]


def _gap(ds: Dataset) -> None:
    ds.PerFrameFunctionalGroupsSequence[5].PlanePositionSequence[0].ImagePositionPatient = [*FEET[:2], 99]


def _zero_spacing(ds: Dataset) -> None:
    ds.PerFrameFunctionalGroupsSequence[2].PixelMeasuresSequence[0].PixelSpacing = [0, 1]


def _garbage(ds: Dataset) -> None:
    item = ds.PerFrameFunctionalGroupsSequence[3].MREchoSequence[0]
    tag = Tag("EffectiveEchoTime")
    item._dict[tag] = RawDataElement(tag, "FD", 4, b"#?!x", 0, False, True)


def _text_position(ds: Dataset) -> None:
    item = ds.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence[0]
    tag = Tag("ImagePositionPatient")
    item._dict[tag] = RawDataElement(tag, "DS", 6, b"a\\b\\c ", 0, False, True)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_drop_group, "6 frames but no functional groups"),
        (_one_group_less, "6 frames but 5 functional groups"),
        (_no_position, "no ImagePositionPatient"),
        (_one_place, "lie at the same position and no attribute tells them apart"),
        (_gap, "a slice is missing between images 5 and 6"),
        (_garbage, "holds a value that cannot be read"),
        (_text_position, "holds a value that cannot be read"),
        (_zero_spacing, "Pixel Spacing of a slice is not greater than 0"),
    ],
)
def test_an_object_that_contradicts_itself_is_a_geometry_error(tmp_path, damage, reason):
    path = multi_frame(tmp_path, frames_at(LOW))
    ds = pydicom.dcmread(path)
    damage(ds)
    ds.save_as(path)
    with pytest.raises(GeometryError, match=reason):
        load_volume(read_headers([path]))


def test_a_volume_is_decoded_without_a_second_copy_of_the_object(tmp_path):
    where = positions(FEET, (0, 0, 2), 60)
    headers = read_headers([multi_frame(tmp_path, frames_at(where), modality="CT", matrix=(128, 128))])
    load_volume(headers)  # what is imported on first use does not count
    tracemalloc.start()
    volume = load_volume(headers)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * volume.array.nbytes  # decoding all frames at once would need 1.5


def test_more_frames_said_than_sent_are_pixels_that_cannot_be_read(tmp_path):
    path = multi_frame(tmp_path, frames_at(LOW))
    ds = pydicom.dcmread(path)
    ds.PixelData = ds.PixelData[: len(ds.PixelData) * 5 // 6]
    ds.save_as(path)
    with pytest.raises(UndecodablePixelsError, match="Explicit VR Little Endian"):
        load_volume(read_headers([path]))


def test_an_enhanced_ct_passes_the_gate_and_everything_else_in_the_study_is_accounted_for(tmp_path):
    where = positions(FEET, (0, 0, 2), 20)
    path = multi_frame(tmp_path, frames_at(where), modality="CT", ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    perfusion = multi_frame(tmp_path, frames_at(where, unit="US"), modality="CT")
    localizer = multi_frame(tmp_path, frames_at(where), modality="CT", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    report = multi_frame(tmp_path, frames_at(where), modality="CT", Modality="SR")
    intake = gate([perfusion, path, localizer, report], CT_TORSO)
    (headers,) = intake.headers.values()
    assert [str(ds.filename) for ds in headers] == [str(path)]  # the one object once, not once per frame
    assert intake.study.volume.frame_numbers == tuple(range(1, 21))
    reasons = {
        str(pydicom.dcmread(p).SeriesInstanceUID): r
        for p, r in ((perfusion, "Rescale Type is US, not HU"), (localizer, "image is a localizer"),
                     (report, "Enhanced CT Image Storage is not read for this kind of study"))
    }  # fmt: skip
    assert dict(intake.excluded) == reasons


def test_colour_is_refused_and_legacy_converted_is_read(tmp_path):
    colour = multi_frame(tmp_path, frames_at(LOW), SOPClassUID=EnhancedMRColorImageStorage)
    profile = CT_TORSO.__class__(**{**CT_TORSO.__dict__, "modalities": frozenset({"MR"}), "minimum_slices": 4})
    with pytest.raises(OutsideIntendedUseError, match="Enhanced MR Color Image Storage holds no slices of a volume"):
        gate([colour], profile)
    legacy = multi_frame(tmp_path, frames_at(LOW), SOPClassUID=LegacyConvertedEnhancedMRImageStorage)
    assert load_volume(read_headers([legacy])).array.shape == (6, 6, 7)


# --- results on frames -------------------------------------------------------------------------------------

CARD = ModelCard("VISTA3D", "1", "segmentation", "CT", "", "", (), {1: "liver"}, {}, "none", demonstration=True)


@pytest.fixture
def two_phases(tmp_path):
    """An enhanced CT with two time points of opposite slice order; the second has more slices, so it is read."""
    frames = frames_at(LOW, time=1) + frames_at(HIGH[::-1], time=2)
    path = multi_frame(tmp_path, frames, modality="CT", matrix=(12, 12))
    volume = load_volume(read_headers([path]))
    assert volume.frame_numbers == tuple(range(15, 6, -1))
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[1:4, 3:6, 4:9] = 1
    return path, volume, labels


def test_a_segmentation_names_the_frames_it_lies_on(two_phases, tmp_path):
    path, volume, labels = two_phases
    (source,) = read_headers([path])
    seg = build_segmentation(
        [source],
        labels,
        segments=[spec(1, "ct.liver")],
        identity=identity_of(source),
        equipment=EQUIPMENT,
        frame_numbers=volume.frame_numbers,
    )
    assert dciodvfy(seg, tmp_path) == []
    (tmp_path / "seg.bin").write_bytes(written(seg))
    read = segread(tmp_path / "seg.bin").get_pixels_by_source_frame(
        str(source.SOPInstanceUID), list(range(1, 16)), assert_missing_frames_are_empty=True
    )[..., 0]
    for k, number in enumerate(volume.frame_numbers):
        assert np.array_equal(read[number - 1], labels[k])
    assert not read[:6].any()  # the other time point, at the same places
    for frame in seg.PerFrameFunctionalGroupsSequence:
        number = int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        own = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence[number - 1]
        placed = frame.PlanePositionSequence[0].ImagePositionPatient
        assert list(placed) == list(own.PlanePositionSequence[0].ImagePositionPatient)


def test_wrong_frame_numbers_are_refused(two_phases):
    path, volume, labels = two_phases
    (source,) = read_headers([path])
    options = {"segments": [spec(1, "ct.liver")], "identity": identity_of(source), "equipment": EQUIPMENT}
    for numbers in ((*volume.frame_numbers[:-1], 16), (*volume.frame_numbers[:-1], 15), (0, *volume.frame_numbers[1:])):
        with pytest.raises(GeometryError, match="of an object with 15 frames"):
            build_segmentation([source], labels, frame_numbers=numbers, **options)
    with pytest.raises(GeometryError, match="one object of 15 frames, and no frame numbers were given"):
        build_segmentation([source], labels, **options)
    with pytest.raises(GeometryError, match=r"mask is \(9, 12, 12\), source is \(8, 12, 12\)"):
        build_segmentation([source], labels, frame_numbers=volume.frame_numbers[1:], **options)


def test_findings_on_a_multi_frame_source_make_a_conformant_report(two_phases, tmp_path):
    path, volume, labels = two_phases
    (source,) = read_headers([path])
    options = {"identity": identity_of(source), "equipment": EQUIPMENT}
    liver = spec(1, "ct.liver")
    seg = build_segmentation([source], labels, segments=[liver], frame_numbers=volume.frame_numbers, **options)
    reference = InstanceReference.of(source)
    present = FindingValue("liver", "ct.liver", "present", None, None, ALGORITHM, liver.tracking_uid, "ai:liver",
                           (MeasurementValue("volume", 1.5, "cm3"),))  # fmt: skip
    absent = FindingValue("spleen", "ct.spleen", "absent", None, None, ALGORITHM, generate_uid(), "ai:spleen",
                          source_sop_instance_uids=(str(source.SOPInstanceUID),))  # fmt: skip
    report = build_findings_sr([present, absent], Evidence(source, [reference], [seg]), **options)
    assert dciodvfy(report, tmp_path) == []
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    named = [str(one.ReferencedSOPInstanceUID) for series in evidence.ReferencedSeriesSequence for one in
             series.ReferencedSOPSequence]  # fmt: skip
    assert sorted(named) == sorted([str(source.SOPInstanceUID), str(seg.SOPInstanceUID)])


def test_the_viewer_paints_the_frames_that_were_read_and_no_others(two_phases, tmp_path):
    path, volume, labels = two_phases
    result = SegmentationResult(CARD, "liver", 0.0, labels, {1: "liver"}, volume)
    stored = dict(np.load(BytesIO(label_map_bytes(result)))) | {"frame_numbers": np.array(volume.frame_numbers)}
    np.savez(tmp_path / "labels.npz", **stored)
    server = SliceServer()
    stack = server.stack(generate_uid(), [path])
    assert len(stack.slices) == 15
    painted = []
    for index, one in enumerate(stack.slices):
        overlay = Overlay(tmp_path / "labels.npz", frozenset({1}))
        plain, over = (
            Image.open(BytesIO(server.png(stack, index, window=None, overlays=chosen))).convert("RGB")
            for chosen in ((), (overlay,))
        )
        if plain.tobytes() != over.tobytes():
            painted.append(one.frame + 1)
    assert sorted(painted) == sorted(volume.frame_numbers[1:4]) == [12, 13, 14]
    shown = server._frame(stack, stack.index_of(str(volume.sop_instance_uids[0]), 13)).values
    where = np.asarray(HIGH[::-1][13 - 7])
    assert np.abs(shown - value_at(plane_points(where, np.eye(3)[:2], (12, 12), (0.5, 0.75)))).max() < 0.51


# --- real objects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "frames", "spacing", "first", "last"),
    [
        ("hyperfine_enhanced_multiframe", 8, (5.0, 1.61, 1.59), (0, 0, -175.0), (0, 0, -140.0)),
        ("philips_enhanced_multiframe", 8, (1.2, 1.0, 1.0), None, None),
        ("siemens_enhanced_multiframe", 8, (0.9, 0.9375, 0.9375), None, None),
        ("siemens_xa10_enhanced_phantom", 6, (2.4, 3.375, 3.375), (-109.79, -58.48, -5.4), (-109.79, -58.48, 6.6)),
    ],
)
def test_real_enhanced_mr_of_four_vendors_becomes_a_volume(real_data, folder, frames, spacing, first, last):
    paths = sorted((real_data / "mr_multivendor" / folder).glob("*.dcm"))
    volume = load_volume(read_headers(paths))
    assert volume.array.shape[0] == frames
    assert volume.spacing_mm == pytest.approx(spacing, abs=0.01)
    assert len(set(volume.sop_instance_uids)) == 1
    ds = pydicom.dcmread(
        next(p for p in paths if str(pydicom.dcmread(p).SOPInstanceUID) == volume.sop_instance_uids[0])
    )
    if first is not None:
        assert volume.affine[:3, 3] == pytest.approx(first, abs=0.01)
        assert (volume.affine @ [frames - 1, 0, 0, 1])[:3] == pytest.approx(last, abs=0.01)
    for k, number in enumerate(volume.frame_numbers):
        group = ds.PerFrameFunctionalGroupsSequence[number - 1]
        assert (volume.affine @ [k, 0, 0, 1])[:3] == pytest.approx(
            [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient], abs=0.02
        )
        holder = group if "PixelValueTransformationSequence" in group else ds.SharedFunctionalGroupsSequence[0]
        rescale = holder.PixelValueTransformationSequence[0]
        stored = ds.pixel_array[number - 1] * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept)
        assert np.allclose(volume.array[k], stored, rtol=1e-5)
