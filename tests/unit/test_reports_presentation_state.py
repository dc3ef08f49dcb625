"""Presentation states: outlines where the mask is, the reader's window, and one frame of a multi-frame Instance."""

import shutil
import subprocess
from itertools import pairwise

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation

from config.errors import GeometryError, RefusedInputError
from reports.pictures import KeyPicture, Outline
from reports.presentation_state import build_presentation_state
from tests.intake_sources import multi_frame
from tests.reports_sources import (
    ALGORITHM,
    DEMONSTRATION,
    EQUIPMENT,
    cross_sections,
    dciodvfy,
    identity_of,
    radiograph,
    written,
)


def presentation_state(picture, algorithms=(ALGORITHM,), number=1):
    return build_presentation_state(
        picture,
        identity=identity_of(picture.source),
        equipment=EQUIPMENT,
        algorithms=algorithms,
        instance_number=number,
    )


def box(source, label="lung nodule", top=3, left=2, uid="1.2.3.4"):
    mask = np.zeros((source.Rows, source.Columns), bool)
    mask[top : top + 4, left : left + 3] = True
    return Outline(label, mask, uid)


def x_ray(photometric="MONOCHROME2", spacing=None):
    source = radiograph(modality="DX")
    source.SOPClassUID, source.PhotometricInterpretation = DigitalXRayImageStorageForPresentation, photometric
    source.ImageLaterality, source.BodyPartExamined = "U", "CHEST"
    if spacing:
        source.ImagerPixelSpacing = spacing
    return source


def frames(tmp_path, slopes):
    frame = {"position": (0, 0, 0)}
    path = multi_frame(
        tmp_path, [{**frame, "position": (0, 0, 2.0 * k), "slope": slope} for k, slope in enumerate(slopes)]
    )
    return pydicom.dcmread(path, stop_before_pixels=True)


@pytest.mark.parametrize(
    "make", [lambda: cross_sections()[2], lambda: cross_sections(modality="MR")[0], radiograph, x_ray]
)
def test_an_outline_is_a_closed_polyline_around_its_pixels_in_a_layer_of_its_own(tmp_path, make):
    source = make()
    picture = KeyPicture(
        source, None, window=(40.0, 400.0), outlines=[box(source), box(source, "cyst", 1, 5, "1.2.3.5")]
    )
    state = presentation_state(picture)
    nodule, cyst, notice = state.GraphicAnnotationSequence
    (line,) = nodule.GraphicObjectSequence
    points = np.array(line.GraphicData).reshape(-1, 2).tolist()
    assert points == [[2, 3], [5, 3], [5, 7], [2, 7], [2, 3]]
    assert (line.GraphicType, line.GraphicAnnotationUnits, line.TrackingUID) == ("POLYLINE", "PIXEL", "1.2.3.4")
    (words,) = nodule.TextObjectSequence
    assert (words.UnformattedTextValue, list(words.AnchorPoint)) == ("lung nodule", [2, 3])
    assert cyst.TextObjectSequence[0].UnformattedTextValue == "cyst"
    assert notice.TextObjectSequence[0].UnformattedTextValue == "AI-generated draft, not verified"
    layers = {layer.GraphicLayer: layer.get("GraphicLayerDescription") for layer in state.GraphicLayerSequence}
    assert layers == {"AI_1": "lung nodule", "AI_2": "cyst", "AI_NOTICE": "AI-generated draft, not verified"}
    (voi,) = state.SoftcopyVOILUTSequence
    assert (voi.WindowCenter, voi.WindowWidth) == (40, 400)
    assert (
        state.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    )
    assert dciodvfy(state, tmp_path) == []


def test_only_the_frame_of_the_picture_is_referenced_with_its_own_modality_lut(tmp_path):
    source = frames(tmp_path, [1.0, 2.0, 4.0])
    picture = KeyPicture(source, 2, window=(100.0, 50.0), outlines=[box(source, top=1, left=1)])
    state = presentation_state(picture)
    references = [
        *state.ReferencedSeriesSequence[0].ReferencedImageSequence,
        *(one for item in state.GraphicAnnotationSequence for one in item.ReferencedImageSequence),
    ]
    assert {one.ReferencedFrameNumber for one in references} == {2}
    assert (float(state.RescaleSlope), float(state.RescaleIntercept)) == (2.0, 0.0)
    assert list(state.DisplayedAreaSelectionSequence[0].PresentationPixelSpacing) == [0.5, 0.75]
    assert dciodvfy(state, tmp_path) == []


@pytest.mark.parametrize(("photometric", "shape"), [("MONOCHROME1", "INVERSE"), ("MONOCHROME2", "IDENTITY")])
def test_a_film_whose_low_values_are_bright_is_shown_as_acquired(tmp_path, photometric, shape):
    source = x_ray(photometric, [0.2, 0.3])
    state = presentation_state(KeyPicture(source, None, outlines=[box(source)]))
    assert state.PresentationLUTShape == shape
    assert list(state.DisplayedAreaSelectionSequence[0].PresentationPixelSpacing) == [0.2, 0.3]
    assert dciodvfy(state, tmp_path) == []


@pytest.mark.parametrize(
    ("body_part", "side", "expected"),
    [("HAND", "L", "L"), ("HAND", "U", ""), ("THORAX", None, ""), (None, "R", "R"), ("CHEST", "L", "absent")],
)
def test_the_side_is_kept_left_open_or_left_out_as_the_body_part_has_it(tmp_path, body_part, side, expected):
    source = x_ray()
    source.BodyPartExamined, source.ImageLaterality, source.Laterality = body_part, side, ""
    state = presentation_state(KeyPicture(source, None, outlines=[box(source)]))
    assert (state.Laterality or "" if "Laterality" in state else "absent") == expected
    assert dciodvfy(state, tmp_path) == []


def test_without_a_window_the_frame_keeps_its_own(tmp_path):
    source = frames(tmp_path, [1.0, 2.0])
    voi = Dataset()
    voi.WindowCenter, voi.WindowWidth = 77, 33
    source.PerFrameFunctionalGroupsSequence[1].FrameVOILUTSequence = [voi]
    second = presentation_state(KeyPicture(source, 2, outlines=[box(source, top=1, left=1)]))
    assert [(one.WindowCenter, one.WindowWidth) for one in second.SoftcopyVOILUTSequence] == [(77, 33)]
    first = presentation_state(KeyPicture(source, 1, outlines=[box(source, top=1, left=1)]))
    assert "SoftcopyVOILUTSequence" not in first
    assert dciodvfy(first, tmp_path) == dciodvfy(second, tmp_path) == []


def test_a_border_longer_than_one_object_holds_is_cut_without_a_gap(tmp_path):
    (source,) = cross_sections(1, 400, 400)
    comb = np.zeros((400, 400), bool)
    comb[:, 0] = comb[::4] = True  # 100 teeth on a spine
    comb[1::4, 2::2] = True  # each with 199 bumps of four corners
    state = presentation_state(KeyPicture(source, None, outlines=[Outline("comb", comb)]))
    lines = state.GraphicAnnotationSequence[0].GraphicObjectSequence
    pieces = [np.array(line.GraphicData).reshape(-1, 2) for line in lines]
    assert max(map(len, pieces)) == 8000
    joined = [a[-1].tolist() == b[0].tolist() for a, b in pairwise(pieces) if len(a) == 8000]
    assert joined
    assert all(joined)
    assert dciodvfy(state, tmp_path) == []


def test_dcmtk_accepts_the_presentation_state(tmp_path):
    program = shutil.which("dcmpschk")
    if program is None:
        pytest.skip("dcmpschk (DCMTK) is not installed")
    source = radiograph()
    path = tmp_path / "pr.dcm"
    state = presentation_state(KeyPicture(source, None, outlines=[box(source)]))
    for keyword in ("PatientName", "SeriesDescription", "ContentDescription"):  # it knows ASCII alone
        setattr(state, keyword, str(state[keyword].value).encode("ascii", "ignore").decode())
    path.write_bytes(written(state))
    done = subprocess.run([program, "-v", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    complaints = {line.split()[3] for line in (done.stdout + done.stderr).splitlines() if "Affected attribute" in line}
    assert complaints <= {"ContributionDateTime"}  # it does not know that a DT may have an offset (PS3.5 6.2)


def test_demonstration_models_say_so_and_several_states_are_several_instances():
    source = radiograph()
    picture = KeyPicture(source, None, outlines=[box(source)])
    first, second = (presentation_state(picture, [DEMONSTRATION], number) for number in (1, 2))
    assert "DEMONSTRATION MODEL" in first.GraphicAnnotationSequence[-1].TextObjectSequence[0].UnformattedTextValue
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert written(first) == written(presentation_state(picture, [DEMONSTRATION], 1))


def test_nothing_to_draw_a_foreign_grid_or_a_colour_image_is_refused():
    source = radiograph()
    empty = Outline("x", np.zeros((64, 48), bool))
    with pytest.raises(RefusedInputError, match="needs an outline"):
        presentation_state(KeyPicture(source, None, outlines=[empty]))
    with pytest.raises(GeometryError, match="its image is"):
        presentation_state(KeyPicture(source, None, outlines=[Outline("x", np.ones((4, 4), bool))]))
    source.SamplesPerPixel = 3
    with pytest.raises(RefusedInputError, match="presentation state"):
        presentation_state(KeyPicture(source, None, outlines=[box(source)]))
