"""What a radiograph's stored values become, against values worked out by hand from PS3.3 C.11 and C.7.6.3."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from config.errors import UndecodablePixelsError
from worker.grayscale import display_values


def header(bits=12, *, photometric="MONOCHROME2", signed=0, **attributes):
    ds = Dataset()
    ds.PhotometricInterpretation, ds.PixelRepresentation = photometric, signed
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits, bits - 1
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def lut(entries, first, keyword):
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries), first, 16], entries
    setattr(item, "ModalityLUTType" if keyword == "ModalityLUTSequence" else "LUTExplanation", "US")
    return {keyword: Sequence([item])}


def row(*values, dtype=np.uint16):
    return np.array([values], dtype=dtype)


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), *((bits, np.uint16) for bits in (8, 10, 12, 14, 15, 16))])
def test_without_a_window_the_whole_range_is_shown_whatever_the_depth(bits, dtype):
    top = 2**bits - 1
    got = display_values(header(bits), np.linspace(0, top, 256).round().astype(dtype).reshape(16, 16))
    assert got.dtype == np.float32
    assert got.ravel() == pytest.approx(np.arange(256), abs=0.51)
    assert (got.min(), got.max()) == (0, 255)


def test_signed_values_are_shown_from_the_lowest_to_the_highest():
    got = display_values(header(12, signed=1), row(-2048, 0, 2047, dtype=np.int16))
    assert got[0] == pytest.approx([0, 255 * 2048 / 4095, 255], abs=1e-3)


@pytest.mark.requirement("REQ-GATE-7")
def test_monochrome1_is_inverted_after_the_window():
    stored = row(0, 1000, 2000, 3000)
    plain = display_values(header(WindowCenter=1000.5, WindowWidth=2001), stored)
    inverse = display_values(header(photometric="MONOCHROME1", WindowCenter=1000.5, WindowWidth=2001), stored)
    assert plain[0] == pytest.approx([0, 127.5, 255, 255], abs=0.1)
    assert inverse == pytest.approx(255 - plain)


# C.11.2.1.2: x ≤ c − 0.5 − (w−1)/2 → 0; x > c − 0.5 + (w−1)/2 → 1; else (x − (c − 0.5)) / (w−1) + 0.5
LINEAR = lambda x, c, w: np.clip((x - (c - 0.5)) / (w - 1) + 0.5, 0, 1)  # noqa: E731
# C.11.2.1.3.2: x ≤ c − w/2 → 0; x > c + w/2 → 1; else (x − c) / w + 0.5
LINEAR_EXACT = lambda x, c, w: np.clip((x - c) / w + 0.5, 0, 1)  # noqa: E731
# C.11.2.1.3.1: 1 / (1 + exp(−4 (x − c) / w))
SIGMOID = lambda x, c, w: 1 / (1 + np.exp(-4 * (x - c) / w))  # noqa: E731


@pytest.mark.parametrize(
    ("function", "by_hand"),
    [("", LINEAR), ("LINEAR", LINEAR), ("LINEAR_EXACT", LINEAR_EXACT), ("SIGMOID", SIGMOID)],
)
@pytest.mark.parametrize(("centre", "width"), [(600.0, 1000.0), (500.0, 3.0), (1500.0, 4096.0)])
def test_a_window_is_applied_by_its_function_and_stretched_from_end_to_end(function, by_hand, centre, width):
    values = np.array([0, 100, 350, 499, 500, 501, 600, 900, 1100, 1600, 4000])
    attributes = {"VOILUTFunction": function} if function else {}
    got = display_values(header(WindowCenter=centre, WindowWidth=width, **attributes), row(*values))
    shown = by_hand(values, centre, width)
    expected = (shown - shown.min()) / (shown.max() - shown.min()) * 255
    assert got[0] == pytest.approx(expected, abs=0.02)


def test_the_first_of_several_windows_is_used():
    two = display_values(header(WindowCenter=[100.5, 2000], WindowWidth=[201, 4000]), row(0, 100, 200, 4000))
    assert two[0] == pytest.approx([0, 127.5, 255, 255], abs=0.1)


def test_rescale_comes_before_the_window():
    # stored 0…4 → −100…300 in steps of 100; the window shows 0…200
    got = display_values(
        header(RescaleSlope=100, RescaleIntercept=-100, WindowCenter=100.5, WindowWidth=201), row(0, 1, 2, 3, 4)
    )
    assert got[0] == pytest.approx([0, 0, 127.5, 255, 255], abs=0.1)


def test_a_modality_lut_comes_before_the_window():
    ds = header(WindowCenter=150.5, WindowWidth=101, **lut([300, 200, 150, 100], 10, "ModalityLUTSequence"))
    # below the first mapped value: the first entry; above the last: the last
    assert display_values(ds, row(0, 10, 12, 13, 99))[0] == pytest.approx([255, 255, 127.5, 0, 0], abs=0.7)


@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": 1, "RescaleIntercept": 0}])
def test_a_voi_lut_is_preferred_to_a_window_also_after_a_rescale_that_changes_nothing(rescale):
    ds = header(WindowCenter=1, WindowWidth=2, **lut([0, 1000, 3000, 65535], 5, "VOILUTSequence"), **rescale)
    expected = np.array([0, 0, 1000, 3000, 65535, 65535]) / 65535 * 255
    assert display_values(ds, row(0, 5, 6, 7, 8, 4000))[0] == pytest.approx(expected, abs=0.01)


def test_a_voi_lut_of_negative_values_starts_where_it_says():
    ds = header(16, signed=1, **lut([0, 100, 200, 400], -2, "VOILUTSequence"))
    expected = [0, 0, 255 / 4, 255 / 2, 255, 255]
    assert display_values(ds, row(-9, -2, -1, 0, 1, 9, dtype=np.int16))[0] == pytest.approx(expected, abs=0.01)


def ramp(low=1000, high=3000, shape=(40, 50)):
    return np.linspace(low, high, shape[0] * shape[1]).round().astype(np.uint16).reshape(shape)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("value", [0, 65535])
def test_padding_does_not_flatten_the_picture_and_is_black(photometric, value):
    stored = ramp()
    stored[:5], stored[:, :4] = value, value
    got = display_values(header(16, photometric=photometric, PixelPaddingValue=value), stored)
    picture = got[5:, 4:]
    assert (got[:5] == 0).all()
    assert (got[:, :4] == 0).all()
    assert picture.min() == pytest.approx(0, abs=0.1)
    assert picture.max() == pytest.approx(255, abs=0.1)


@pytest.mark.parametrize("ends", [(0, 20), (20, 0)])
def test_a_range_of_padding_is_padding_from_end_to_end(ends):
    stored = ramp()
    stored[0, :3] = (0, 20, 11)
    got = display_values(header(16, PixelPaddingValue=ends[0], PixelPaddingRangeLimit=ends[1]), stored)
    assert (got[0, :3] == 0).all()
    assert got[0, 3] == pytest.approx(0, abs=1)
    assert got.max() == 255


def test_negative_padding_of_signed_pixels_is_left_out():
    stored = ramp(0, 2000).astype(np.int16)
    stored[:10] = -32768
    got = display_values(header(16, signed=1, PixelPaddingValue=-32768), stored)
    assert (got[:10] == 0).all()
    assert got[10:].max() - got[10:].min() == pytest.approx(255)


@pytest.mark.parametrize("frame", [0, 65535])
def test_a_frame_at_an_extreme_value_does_not_flatten_a_picture_without_a_window(frame):
    stored = ramp(30000, 34000)
    stored[:3], stored[-3:] = frame, frame
    got = display_values(header(16), stored)
    assert got[3:-3].max() - got[3:-3].min() > 254
    assert (got[:3] == (0 if frame == 0 else 255)).all()


def test_both_a_dark_and_a_bright_frame_are_clipped():
    stored = ramp(30000, 34000)
    stored[:3], stored[-3:] = 0, 65535
    got = display_values(header(16), stored)
    assert got[3:-3].max() - got[3:-3].min() > 254


def test_a_frame_in_a_windowed_picture_is_what_the_window_makes_of_it():
    stored = ramp(1000, 3000)
    stored[:3] = 65535
    framed = display_values(header(16, WindowCenter=2000, WindowWidth=1000), stored)
    plain = display_values(header(16, WindowCenter=2000, WindowWidth=1000), ramp(1000, 3000))
    assert (framed[:3] == 255).all()
    assert framed[3:] == pytest.approx(plain[3:])


def test_a_dense_implant_keeps_its_grey_levels():
    """Bright and sparse, but reached through partial voxels: no gap, so nothing is clipped."""
    stored = ramp(0, 2000)
    stored[20, 10:30] = np.linspace(2000, 4000, 20)
    got = display_values(header(12), stored)
    assert got[20, 29] == 255
    assert (np.diff(got[20, 11:30]) > 0).all()
    assert got[19, 0] == pytest.approx(255 * float(stored[19, 0]) / 4000, abs=0.1)


@pytest.mark.parametrize(
    ("ds", "stored", "reason"),
    [
        (header(photometric="RGB"), np.zeros((4, 4, 3), np.uint8), "not one grey image"),
        (header(photometric="PALETTE COLOR"), ramp(), "PALETTE COLOR"),
        (header(), np.zeros((2, 4, 4), np.uint16), "not one grey image"),
        (header(), np.full((4, 4), 7, np.uint16), "every pixel has the same value"),
        (header(PixelPaddingValue=7), np.full((4, 4), 7, np.uint16), "every pixel has the same value"),
        (header(WindowCenter=9000, WindowWidth=100), ramp(), "every pixel has the same value"),
        (header(WindowCenter=100, WindowWidth=0), ramp(), "display LUTs cannot be applied"),
        (header(WindowCenter=100, WindowWidth=-5, VOILUTFunction="SIGMOID"), ramp(), "display LUTs cannot be applied"),
        (header(WindowCenter=100, WindowWidth=5, VOILUTFunction="CUBIC"), ramp(), "display LUTs cannot be applied"),
        (header(**lut([], 0, "VOILUTSequence")), ramp(), "display LUTs cannot be applied"),
        (header(HighBit=15), ramp(), "High Bit is 15 with 12 Bits Stored"),
    ],
)  # fmt: skip
def test_a_picture_that_cannot_be_shown_is_refused_with_its_reason(ds, stored, reason):
    with pytest.raises(UndecodablePixelsError, match=reason):
        display_values(ds, stored)


@pytest.mark.parametrize("empty", [{"WindowCenter": None, "WindowWidth": None}, {"VOILUTSequence": Sequence()}])
def test_an_empty_window_is_no_window(empty):
    got = display_values(header(**empty), row(0, 1000, 4000))
    assert got[0] == pytest.approx([0, 63.75, 255])
