"""What of a Series is read when its slices are no simple stack, and the reason when none of it is."""

import random

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from config.errors import GeometryError, OutsideIntendedUseError, RefusedInputError
from tests.intake_sources import AXIAL, SAGITTAL, classic, multi_frame, positions, value_at
from worker.decoding import read_headers
from worker.intake import gate
from worker.profiles import CHEST_XRAY, CT_TORSO
from worker.stacking import load_volume, read_stack

SHORT, LONG = positions((0, 0, 0), (0, 0, 2), 20), positions((0, 0, -6), (0, 0, 2), 24)


def numbers(paths: list) -> list[int]:
    """Instance Numbers of the slices that are read, in array order."""
    return [int(frame.header.InstanceNumber) for frame in read_stack(read_headers(paths)).frames]


@pytest.mark.parametrize(
    ("keyword", "first", "second"),
    [
        ("AcquisitionNumber", 2, 10),
        ("TemporalPositionIdentifier", 1, 2),
        ("TriggerTime", 80.5, 640),
        ("EchoTime", 12.5, 90),
        ("DiffusionBValue", 0.0, 1000.0),
        ("ImageType", ["ORIGINAL", "PRIMARY", "A"], ["ORIGINAL", "PRIMARY", "B"]),
        ("ConvolutionKernel", "B30f", "B70f"),
    ],
)
def test_two_images_per_position_are_parted_by_what_differs(tmp_path, keyword, first, second):
    series = generate_uid()
    one = classic(tmp_path, SHORT, series=series, **{keyword: first})
    other = classic(tmp_path, LONG, series=series, first_number=21, shift=500, **{keyword: second})
    mixed = random.Random(5).sample([*one, *other], 44)
    assert numbers(mixed) == list(range(21, 45))  # most slices
    equal = random.Random(6).sample([*one, *other[3:23]], 40)
    assert numbers(equal) == list(range(1, 21))  # of equals the first, by value and not by spelling
    intake = gate(equal, CT_TORSO)
    assert intake.excluded == [(series, "20 slices are another stack of the series")]
    assert intake.study.volume.array[0, 0, 0] == value_at(np.zeros(3))  # not one value of the other, 500 higher


def test_two_attributes_together_part_what_neither_does_alone(tmp_path):
    series, paths = generate_uid(), []
    for n, (echo, time) in enumerate([(10, 1), (10, 2), (90, 1), (90, 2)]):
        paths += classic(tmp_path, SHORT, series=series, first_number=1 + 20 * n, EchoTime=echo,
                         TemporalPositionIdentifier=time)  # fmt: skip
    assert numbers(paths) == list(range(1, 21))


def test_original_images_are_read_before_what_was_calculated_of_them(tmp_path):
    series = generate_uid()
    derived = classic(tmp_path, SHORT, series=series, ImageType=["DERIVED", "SECONDARY", "AVERAGE"])
    original = classic(tmp_path, SHORT, series=series, first_number=21)
    assert numbers([*derived, *original]) == list(range(21, 41))


def test_copies_of_images_are_read_once_and_counted(tmp_path):
    series = generate_uid()
    paths = classic(tmp_path, SHORT, series=series)
    copies = classic(tmp_path, SHORT[4:9], series=series, first_number=5)
    intake = gate([*paths, *copies], CT_TORSO)
    assert intake.study.volume.array.shape[0] == 20
    assert intake.excluded == [(series, "5 images are copies of others")]


def test_images_at_one_position_that_nothing_tells_apart_are_refused(tmp_path):
    series = generate_uid()
    paths = classic(tmp_path, SHORT, series=series) + classic(tmp_path, SHORT, series=series, shift=40)
    with pytest.raises(GeometryError, match="40 slices lie at the same position and no attribute tells them apart"):
        read_stack(read_headers(paths))


def test_an_attribute_that_differs_from_slice_to_slice_tells_nothing(tmp_path):
    series, paths = generate_uid(), []
    for n, position in enumerate([*SHORT, *SHORT]):  # a cine run: every image has its own trigger time
        paths += classic(tmp_path, position[None], series=series, first_number=n + 1, TriggerTime=10.0 * n, shift=n)
    with pytest.raises(GeometryError, match="no attribute tells them apart"):
        read_stack(read_headers(paths))


def test_acquisitions_side_by_side_are_one_stack(tmp_path):
    series = generate_uid()
    upper = classic(tmp_path, SHORT[10:], series=series, AcquisitionNumber=2, first_number=11)
    lower = classic(tmp_path, SHORT[:10], series=series, AcquisitionNumber=1)
    assert numbers([*upper, *lower]) == list(range(1, 21))


@pytest.mark.parametrize(
    ("facts", "count"),
    [
        ({"axes": SAGITTAL}, 1),
        ({"matrix": (8, 7)}, 1),
        ({"pixel_mm": (0.5, 0.5)}, 1),
        ({"axes": SAGITTAL}, 3),
    ],
)
def test_a_foreign_slice_in_the_series_is_left_out_with_a_reason(tmp_path, facts, count):
    series = generate_uid()
    paths = classic(tmp_path, SHORT, series=series)
    foreign = classic(tmp_path, positions((0, 0, 70), (2, 0, 0), count), series=series, first_number=90, **facts)
    intake = gate([*foreign, *paths], CT_TORSO)
    assert intake.study.volume.array.shape == (20, 6, 7)
    ((uid, reason),) = intake.excluded
    assert uid == series
    assert reason.startswith("a volume needs at least 2 slices" if count == 1 else "3 slices are another stack")


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (np.delete(SHORT, 8, axis=0), "varies between 2.00 and 4.00 mm: a slice is missing between images 8 and 9"),
        (SHORT + np.outer(np.arange(20) > 9, (0, 0, 0.6)), "varies between 2.00 and 2.60 mm, first between images 10"),
        (SHORT[:1], "1 slices, at least 16 are needed"),
        (SHORT[:12], "12 slices, at least 16 are needed"),
        (SHORT * 5, "slices 10.0 mm apart, at most 8 mm is read"),
    ],
    ids=["missing", "variable", "single", "few", "thick"],
)
def test_slices_that_make_no_volume_say_why_and_where(tmp_path, where, reason):
    with pytest.raises(OutsideIntendedUseError, match=reason):
        gate(classic(tmp_path, where), CT_TORSO)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ImagePositionPatient": None}, "no ImagePositionPatient"),
        ({"ImageOrientationPatient": None}, "no ImageOrientationPatient"),
        ({"PixelSpacing": None}, "no PixelSpacing"),
        ({"PixelSpacing": [0, 1]}, "Pixel Spacing of a slice is not greater than 0"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not a pair of perpendicular unit vectors"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "not a pair of perpendicular unit vectors"),
        ({"FrameOfReferenceUID": None}, "no Frame of Reference UID"),
        ({"RescaleSlope": None}, "no Rescale Slope and Intercept"),
        ({"RescaleIntercept": None}, "no Rescale Slope and Intercept"),
        ({"RescaleType": "US"}, "Rescale Type is US, not HU"),
        ({"BitsStored": 8, "HighBit": 7}, "images of 8 bits do not hold Hounsfield units"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "Secondary Capture Image Storage holds no slices of a volume"),
        ({"SamplesPerPixel": 3}, "colour images are not slices of a volume"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "image is a localizer"),
    ],
)
def test_headers_that_do_not_say_enough_are_refused_in_words(tmp_path, changes, reason):
    with pytest.raises(OutsideIntendedUseError, match=reason):
        gate(classic(tmp_path, SHORT, **changes), CT_TORSO)


@pytest.mark.requirement("REQ-GATE-7")
def test_polarity_sign_and_padding_do_not_change_hounsfield_units(tmp_path):
    plain = load_volume(read_headers(classic(tmp_path, SHORT)))
    inverted = classic(tmp_path, SHORT, PhotometricInterpretation="MONOCHROME1")  # how it is shown, not what it means
    assert np.array_equal(load_volume(read_headers(inverted)).array, plain.array)
    mixed = classic(tmp_path, SHORT)
    for path in mixed[::2]:  # every second slice signed, without the intercept
        ds = pydicom.dcmread(path)
        hu = ds.pixel_array.astype(np.int32) - 1000
        ds.PixelData, ds.PixelRepresentation, ds.RescaleIntercept = hu.astype("<i2").tobytes(), 1, "0"
        ds.save_as(path)
    assert np.array_equal(load_volume(read_headers(mixed)).array, plain.array)
    for stated in ({"PixelPaddingValue": 63000}, {"PixelPaddingValue": 63000, "PixelPaddingRangeLimit": 62990}):
        padded = classic(tmp_path, SHORT, **stated)
        for path in padded:
            ds = pydicom.dcmread(path)
            stored = ds.pixel_array.copy()
            stored[0, :3] = [63000, 62995 if "PixelPaddingRangeLimit" in stated else 63000, 63000]
            ds.PixelData = stored.tobytes()
            ds.save_as(path)
        volume = load_volume(read_headers(padded))
        assert (volume.array[:, 0, :3] == -1024).all()  # air, not bone
        assert np.array_equal(volume.array[:, 1:], plain.array[:, 1:])


@pytest.mark.requirement("REQ-GATE-5")
def test_no_series_of_a_study_is_dropped_in_silence(tmp_path):
    chosen = classic(tmp_path, LONG)
    other = {
        "a series better suited was read": classic(tmp_path, SHORT),
        "3 slices, at least 16 are needed": classic(tmp_path, SHORT[:3]),
        "image is a localizer": classic(tmp_path, SHORT[:1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "Enhanced MR Image Storage is not read for this kind of study": [
            multi_frame(tmp_path, [{"position": list(p)} for p in SHORT])
        ],
    }
    intake = gate([*chosen, *(path for paths in other.values() for path in paths)], CT_TORSO)
    expected = {(str(pydicom.dcmread(paths[0]).SeriesInstanceUID), reason) for reason, paths in other.items()}
    assert set(intake.excluded) == expected


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({"LossyImageCompressionRatio": [8.87, 3.0]}, "20 of 20 images were lossily compressed (ratio 8.9)"),
        ({}, "20 of 20 images were lossily compressed (ratio unknown)"),
        ({"LossyImageCompression": "00"}, None),
    ],
)
def test_lossy_compression_is_said(tmp_path, values, note):
    intake = gate(classic(tmp_path, SHORT, **({"LossyImageCompression": "01"} | values)), CT_TORSO)
    assert [words for words in intake.unchecked if "compressed" in words] == ([note] if note else [])


def test_a_slice_turned_within_rounding_belongs_to_its_stack(tmp_path):
    series = generate_uid()
    turned = AXIAL + np.array([[0, 4e-4, 0], [-4e-4, 0, 0]])
    paths = classic(tmp_path, SHORT[:10], series=series)
    paths += classic(tmp_path, SHORT[10:], series=series, axes=turned, first_number=11)
    assert numbers(paths) == list(range(1, 21))


def test_a_radiographs_study_accounts_for_the_rest_too(real_data, tmp_path):
    film = sorted((real_data / "cxr_01").glob("*.dcm"))
    stray = classic(tmp_path, SHORT[:1])
    ds = pydicom.dcmread(stray[0])
    ds.PatientID = pydicom.dcmread(film[0]).PatientID
    ds.save_as(stray[0])
    intake = gate([*film, *stray], CHEST_XRAY)
    assert intake.excluded == [(str(ds.SeriesInstanceUID), "CT Image Storage is not read for this kind of study")]


@pytest.fixture(scope="module")
def plain_series(tmp_path_factory):
    return classic(tmp_path_factory.mktemp("series"), SHORT[:17], LossyImageCompression="01")


@pytest.mark.parametrize(
    "keyword",
    ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames",
     "InstanceNumber", "AcquisitionNumber", "RescaleSlope", "RescaleIntercept", "RescaleType", "BitsStored",
     "SamplesPerPixel", "ImageType", "EchoTime", "TriggerTime", "PixelPaddingValue", "LossyImageCompressionRatio",
     "ConvolutionKernel", "FrameOfReferenceUID", "PixelRepresentation", "PhotometricInterpretation"],
)  # fmt: skip
@pytest.mark.parametrize("content", [b"", b"#?", b"1\\2", b"9e999 "])
def test_a_header_value_that_is_none_ends_in_a_volume_or_a_typed_reason(tmp_path, plain_series, keyword, content):
    paths = list(plain_series)
    for k in (4, 5):
        ds = pydicom.dcmread(paths[k])
        tag = Tag(keyword)
        ds._dict[tag] = RawDataElement(tag, dictionary_VR(tag).split(" ")[0], len(content), content, 0, False, True)
        paths[k] = tmp_path / f"{k}.dcm"
        ds.save_as(paths[k])
    said = ""
    try:
        assert np.isfinite(gate(paths, CT_TORSO).study.volume.array).all()
    except RefusedInputError as exc:
        said = str(exc)
    assert "#?" not in said  # what a header says is not repeated to people, nor to a model
