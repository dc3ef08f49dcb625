"""Every transfer syntax decodes to the published pixels, or ends in an error that names it; so does damage."""

import hashlib
import json

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, RLELossless

from config.errors import UndecodablePixelsError
from dashboard.pixels import read_frame
from tests.intake_sources import classic, multi_frame, positions
from worker.decoding import decode, decode_frames, read_headers
from worker.stacking import load_volume

# Two decoders of a lossy JPEG may round differently by one (ISO/IEC 10918-2), so its hash is not one decoder's to set.
LOSSY_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
RETIRED = {
    "1.2.840.10008.1.2.4.53": "JPEG Spectral Selection, Non-Hierarchical",
    "1.2.840.10008.1.2.4.55": "JPEG Full Progression, Non-Hierarchical",
}


@pytest.fixture(scope="module")
def truth(real_data):
    return json.loads((real_data / "transfer_syntaxes" / "truth_pixels.json").read_text())


@pytest.fixture(scope="module")
def twin(real_data):
    """Hounsfield units of the uncompressed CT slice, by hand."""
    (path,) = (real_data / "transfer_syntaxes" / "ct").glob("*LittleEndianExplicit*1.2.1.dcm")
    ds = pydicom.dcmread(path)
    stored = np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns)
    return stored * float(ds.RescaleSlope) + float(ds.RescaleIntercept)


def test_the_data_hold_every_syntax_of_the_list(truth):
    assert len(truth) == 24
    assert len({entry["transfer_syntax"] for entry in truth.values()}) == 15


@pytest.mark.requirement("REQ-GATE-7")
def test_lossless_files_decode_to_the_published_pixels_bit_for_bit(real_data, truth):
    checked = 0
    for name, entry in truth.items():
        if entry["transfer_syntax"] in (*RETIRED, *LOSSY_JPEG):
            continue
        rows, columns = entry["decoded"]["shape"]
        (stored,) = decode_frames(real_data / "transfer_syntaxes" / name, [1], shape=(rows, columns))
        little = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
        assert hashlib.sha256(little).hexdigest() == entry["decoded"]["sha256"], name
        checked += 1
    assert checked == 19


def test_lossy_jpeg_of_8_and_12_bits_is_as_near_to_the_original_as_published(real_data, truth, twin):
    checked = 0
    for name, entry in truth.items():
        if entry["transfer_syntax"] not in LOSSY_JPEG or "difference_after_rescale" not in entry:
            continue
        ds, stored = decode(real_data / "transfer_syntaxes" / name)
        off = np.abs(stored * float(ds.RescaleSlope) + float(ds.RescaleIntercept) - twin)
        published, one_step = entry["difference_after_rescale"], float(ds.RescaleSlope)
        assert off.max() <= published["max"] + one_step, name
        assert off.mean() == pytest.approx(published["mean"], rel=0.02), name
        checked += 1
    assert checked == 2


def test_an_enhanced_ct_of_12_bit_frames_in_fragments_is_read(real_data, truth):
    (name,) = (name for name in truth if "fragmented" in name)
    entry, path = truth[name]["decoded"], real_data / "transfer_syntaxes" / name
    first, second = decode_frames(path, [1, 2], shape=tuple(entry["shape"][1:]))
    assert min(first.min(), second.min()) == pytest.approx(entry["min"], abs=1)
    assert max(first.max(), second.max()) == pytest.approx(entry["max"], abs=1)
    assert not np.array_equal(first, second)
    volume = load_volume(read_headers([path]))
    # rows run to the patient's right, so the normal points to the feet: z = -149 (frame 2) before z = -159 (frame 1)
    assert volume.frame_numbers == (2, 1)
    assert np.array_equal(volume.array[1], np.maximum(first.astype(np.float32) - 1024, -1024))


@pytest.mark.parametrize("uid", RETIRED)
def test_a_retired_syntax_is_refused_by_name(real_data, truth, uid):
    (name,) = (name for name, entry in truth.items() if entry["transfer_syntax"] == uid)
    path = real_data / "transfer_syntaxes" / name
    with pytest.raises(UndecodablePixelsError, match=RETIRED[uid]):
        decode(path)
    with pytest.raises(UndecodablePixelsError, match=RETIRED[uid]):
        list(decode_frames(path, [1], shape=(512, 512)))


@pytest.mark.requirement("REQ-VIEW-1")
def test_the_viewer_shows_what_the_worker_reads(real_data, truth):
    for name, entry in truth.items():
        if entry["decoded"] is None:
            continue
        path = real_data / "transfer_syntaxes" / name
        ds, stored = decode(path)
        plane = stored[0] if stored.ndim == 3 else stored
        if "SharedFunctionalGroupsSequence" in ds:
            ds = ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0]
        real = plane * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
        assert np.allclose(read_frame(path, 0).values, real, atol=1e-2), name


# --- damage ------------------------------------------------------------------------------------------------

SLICES = positions((0, 0, 0), (0, 0, 2), 4)


def rewrite(path, change):
    ds = pydicom.dcmread(path)
    change(ds)
    ds.save_as(path)
    return path


@pytest.mark.parametrize(
    ("change", "syntax"),
    [
        (lambda ds: setattr(ds, "PixelData", ds.PixelData[:-20]), "Explicit VR Little Endian"),
        (lambda ds: setattr(ds, "PixelData", b""), "Explicit VR Little Endian"),
        (lambda ds: delattr(ds, "PixelData"), "Explicit VR Little Endian"),
        (lambda ds: setattr(ds, "BitsAllocated", 12), "Explicit VR Little Endian"),
        (lambda ds: delattr(ds, "PixelRepresentation"), "Explicit VR Little Endian"),
    ],
    ids=["cut short", "empty", "absent", "bits", "sign"],
)
def test_damaged_native_pixels_name_their_syntax(tmp_path, change, syntax):
    paths = classic(tmp_path, SLICES)
    rewrite(paths[2], change)
    with pytest.raises(UndecodablePixelsError, match=f"pixel data in {syntax} cannot be decoded"):
        load_volume(read_headers(paths))


@pytest.mark.requirement("REQ-GATE-6")
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "no fragment"])
def test_damaged_compressed_pixels_name_their_syntax(tmp_path, syntax, damage):
    paths = classic(tmp_path, SLICES, matrix=(32, 32))
    rewrite(paths[2], lambda ds: ds.compress(syntax))

    def spoil(ds):
        (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
        content = {
            "cut": frame[: len(frame) // 8],
            "noise": np.random.default_rng(3).bytes(len(frame)),
            "empty": b"\x00\x00",
        }
        ds.PixelData = encapsulate([content[damage]]) if damage in content else b"\xfe\xff\x00\xe0\x00\x00\x00\x00"

    rewrite(paths[2], spoil)
    with pytest.raises(UndecodablePixelsError, match=f"pixel data in {syntax.name[:9]}"):
        load_volume(read_headers(paths))


def test_missing_compressed_frames_are_noticed(tmp_path):
    frames = [{"position": list(p)} for p in SLICES]
    path = multi_frame(tmp_path, frames, matrix=(32, 32))

    def spoil(ds):
        ds.compress(RLELossless)
        kept = list(generate_frames(ds.PixelData, number_of_frames=4))
        ds.PixelData = encapsulate(kept[:3])

    rewrite(path, spoil)
    with pytest.raises(UndecodablePixelsError, match="RLE Lossless"):
        load_volume(read_headers([path]))


def test_a_damaged_frame_of_12_bit_jpeg_is_no_image(real_data, tmp_path):
    (source,) = (real_data / "transfer_syntaxes" / "ct").glob("*JPEGProcess2_4*")
    ds = pydicom.dcmread(source)
    (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
    for content in (frame[:200], b"\x00" * 500):
        ds.PixelData = encapsulate([content])
        ds.save_as(tmp_path / "spoilt.dcm")
        with pytest.raises(UndecodablePixelsError, match="JPEG Extended"):
            decode(tmp_path / "spoilt.dcm")


def test_frames_are_decoded_one_by_one(tmp_path):
    frames = [{"position": [0, 0, float(k)]} for k in range(3)]
    path = multi_frame(tmp_path, frames)
    rewrite(path, lambda ds: setattr(ds, "NumberOfFrames", 3))
    stream = decode_frames(path, [3, 1], shape=(6, 7))
    assert next(stream)[0, 0] == 1000 + 5 * 2  # z = 2 mm
    assert next(stream)[0, 0] == 1000
    assert next(stream, None) is None


@pytest.mark.requirement("REQ-GATE-6")
def test_pixels_of_another_size_than_the_header_says_are_refused(tmp_path):
    path = classic(tmp_path, SLICES)[0]
    with pytest.raises(UndecodablePixelsError, match=r"pixel data are \(6, 7\), the header says \(7, 6\)"):
        list(decode_frames(path, [1], shape=(7, 6)))


def test_a_text_file_is_no_pixel_data(tmp_path):
    path = tmp_path / "letter.dcm"
    path.write_text("Dear colleague, the images are on the CD.")
    with pytest.raises(UndecodablePixelsError, match="an unknown transfer syntax"):
        decode(path)
