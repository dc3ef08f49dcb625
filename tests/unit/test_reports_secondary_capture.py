"""Secondary captures: what is burned in are outlines and our own words, never the patient, never without the notice."""

import io

import numpy as np
import pydicom
import pytest

from config.errors import GeometryError, RefusedInputError
from reports.pictures import OUTLINE_COLOURS, KeyPicture, Outline
from reports.secondary_capture import LONGEST_EDGE, SMALLEST_EDGE, build_secondary_capture
from tests.intake_sources import multi_frame
from tests.reports_sources import ALGORITHM, DEMONSTRATION, EQUIPMENT, cross_sections, dciodvfy, identity_of, written
from tests.reports_sources import radiograph as radiograph_header


def radiograph(rows=64, columns=48):
    source = radiograph_header()
    source.Rows, source.Columns = rows, columns
    return source


def capture(picture, algorithms=(ALGORITHM,), number=1):
    return build_secondary_capture(
        picture,
        identity=identity_of(picture.source),
        equipment=EQUIPMENT,
        algorithms=algorithms,
        instance_number=number,
    )


def picture_of(source, *labels, caption="pneumothorax, right", frame=None):
    """A grey ramp with one box per label."""
    grey = np.tile(np.linspace(40, 200, source.Columns, dtype=np.uint8), (source.Rows, 1))
    outlines = []
    for n, label in enumerate(labels):
        mask = np.zeros(grey.shape, bool)
        mask[n + 1 : n + 4, 1:4] = True
        outlines.append(Outline(label, mask))
    return KeyPicture(source, frame, grey, outlines=outlines, caption=caption)


def pixels(ds):
    """As an independent reader sees them: encoded to a file and decoded by pydicom."""
    return pydicom.dcmread(io.BytesIO(written(ds))).pixel_array


@pytest.mark.parametrize(
    "make", [radiograph, lambda: cross_sections()[1], lambda: cross_sections(modality="MR")[1]], ids=["CR", "CT", "MR"]
)
def test_a_capture_is_a_derived_colour_image_that_names_its_source(tmp_path, make):
    source = make()
    ds = capture(picture_of(source, "lung nodule"))
    assert (ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.ConversionType) == (3, "RGB", "WSD")
    assert list(ds.ImageType)[:2] == ["DERIVED", "SECONDARY"]
    assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert ds.DerivationDescription.endswith("AI-generated draft, not verified")
    assert (ds.PatientID, ds.AccessionNumber, ds.SeriesNumber) == ("P-1", "A-77", 910)
    assert "PixelSpacing" not in ds
    assert dciodvfy(ds, tmp_path) == []


def test_what_is_burned_in_does_not_depend_on_the_patient():
    source = radiograph()
    first = capture(picture_of(source, "cyst"))
    source.PatientName, source.PatientID, source.PatientBirthDate = "Other^Name", "P-2", "20010101"
    second = capture(picture_of(source, "cyst"))
    assert first.BurnedInAnnotation == "NO"
    assert np.array_equal(pixels(first), pixels(second))


def test_the_notice_stands_above_in_warning_colour_and_grows_for_a_demonstration_model():
    source = radiograph(600, 600)
    plain, demonstration = (pixels(capture(picture_of(source, "x"), [one])) for one in (ALGORITHM, DEMONSTRATION))
    band = plain[: plain.shape[0] // 20]
    assert (band == (255, 220, 90)).all(axis=2).sum() > 200
    assert demonstration.shape[0] > plain.shape[0]  # two lines of notice


def test_each_structure_has_its_colour_on_the_image_and_in_the_legend():
    ds = capture(picture_of(radiograph(), "lung nodule", "pleural effusion"))
    shown = pixels(ds)
    for colour in OUTLINE_COLOURS[:2]:
        rows = np.flatnonzero((shown == colour).all(axis=2).any(axis=1))
        assert rows.min() < 200
        assert rows.max() > 512  # below the image area
    assert not (shown == OUTLINE_COLOURS[2]).all(axis=2).any()


def test_the_outline_runs_where_the_mask_is():
    source = radiograph(512, 512)
    mask = np.zeros((512, 512), bool)
    mask[100:300, 200:400] = True
    flat = KeyPicture(source, None, np.full((512, 512), 90, np.uint8), outlines=[Outline("x", mask)])
    shown = pixels(capture(flat))
    legend = pixels(capture(KeyPicture(source, None, flat.grey, outlines=[])))
    above = legend.shape[0] - 512  # no caption and no outline: only the notice and the image
    coloured = np.argwhere((shown[above : above + 512] == OUTLINE_COLOURS[0]).all(axis=2))
    assert np.abs(coloured.min(axis=0) - (100, 200)).max() <= 2
    assert np.abs(coloured.max(axis=0) - (300, 400)).max() <= 2
    assert (shown[above + 200, 300] == 90).all()


@pytest.mark.parametrize(
    ("rows", "columns", "spacing", "size"),
    [
        (64, 48, None, (512, 384)),
        (3000, 2000, None, (1024, 683)),
        (600, 700, None, (600, 700)),
        (300, 600, [2.0, 1.0], (600, 600)),  # pixels twice as high as wide
        (600, 300, [1.0, 2.0], (600, 600)),
    ],
)
def test_the_image_area_has_true_proportions_within_its_bounds(rows, columns, spacing, size):
    source = radiograph(rows, columns)
    if spacing:
        source.ImagerPixelSpacing = spacing
    ds = capture(KeyPicture(source, None, np.full((rows, columns), 77, np.uint8)))
    area = (pixels(ds) == 77).all(axis=2)
    assert (area.any(axis=1).sum(), area.any(axis=0).sum()) == size
    assert SMALLEST_EDGE <= max(size) <= LONGEST_EDGE


def test_many_structures_and_long_words_stay_bounded_and_say_what_is_left_out(tmp_path):
    source = radiograph()
    labels = [f"structure {n}" for n in range(30)]
    ds = capture(picture_of(source, *labels, caption="word" * 5000))
    assert ds.Rows < 1600
    assert len(str(ds.ImageComments).encode()) <= 10_240
    assert str(ds.ImageComments).endswith("…")
    assert dciodvfy(ds, tmp_path) == []


def test_one_frame_of_a_multi_frame_image_is_named(tmp_path):
    frames = [{"position": (0, 0, float(k))} for k in range(3)]
    source = pydicom.dcmread(multi_frame(tmp_path, frames), stop_before_pixels=True)
    ds = capture(picture_of(source, "x", frame=2))
    assert ds.SourceImageSequence[0].ReferencedFrameNumber == 2
    assert dciodvfy(ds, tmp_path) == []


def test_once_lossy_always_lossy(tmp_path):
    source = radiograph()
    source.LossyImageCompression, source.LossyImageCompressionRatio = "01", 12.5
    source.LossyImageCompressionMethod = "ISO_10918_1"
    ds = capture(picture_of(source, "x"))
    assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert dciodvfy(ds, tmp_path) == []


def test_the_same_input_gives_the_same_bytes_and_another_number_another_instance():
    picture = picture_of(radiograph(), "x")
    assert written(capture(picture)) == written(capture(picture))
    assert capture(picture).SOPInstanceUID != capture(picture, number=2).SOPInstanceUID


def test_no_pixels_no_model_or_a_foreign_grid_is_refused():
    source = radiograph()
    with pytest.raises(RefusedInputError, match="grey picture"):
        capture(KeyPicture(source, None))
    with pytest.raises(RefusedInputError, match="algorithm"):
        capture(picture_of(source, "x"), [])
    with pytest.raises(GeometryError, match="its image is"):
        capture(KeyPicture(source, None, np.zeros((5, 5), np.uint8)))
