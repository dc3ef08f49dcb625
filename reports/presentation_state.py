"""Grayscale Softcopy Presentation State: outlines and words over one image, for viewers that do not draw a SEG."""

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from config.errors import RefusedInputError
from reports.equipment import (
    building,
    contributing_equipment,
    draft_description,
    draft_notice,
    equipment_arguments,
    local_time,
    stamp,
)
from reports.geometry import functional_group
from reports.pictures import (
    OUTLINE_COLOURS,
    KeyPicture,
    Outline,
    closed_outlines,
    copy_picture_context,
    require_drawable,
)
from reports.source import study_header
from reports.text import one_line
from reports.values import SERIES_NUMBERS, AlgorithmIdentity, DraftIdentity, Equipment

_PIXEL = hd.pr.AnnotationUnitsValues.PIXEL
_DISPLAY = hd.pr.AnnotationUnitsValues.DISPLAY
_MOST_POINTS = 8_000  # Graphic Data (FL) has a 16 bit length in explicit VR: 65 534 bytes
_NOTICE_BOX = (0.02, 0.01, 0.98, 0.05)
_FRAME_GROUPS = ("PixelValueTransformationSequence", "PixelMeasuresSequence", "FrameVOILUTSequence")


def build_presentation_state(
    picture: KeyPicture,
    *,
    identity: DraftIdentity,
    equipment: Equipment,
    algorithms: Sequence[AlgorithmIdentity],
    instance_number: int = 1,
) -> Dataset:
    """Return the presentation state that draws the outlines of ``picture`` over its image.

    One graphic layer per structure, in a colour of its own, holds closed polylines in units PIXEL and the label at
    the topmost point; one more layer says that nobody verified it. The window of the picture becomes the VOI LUT. Of
    a multi-frame Instance only the frame of the picture is referenced.

    Args:
        picture: masks on the grid of the image; pixels are not needed.
        identity: fixes UIDs and times.
        equipment: our product.
        algorithms: the models that drew the outlines.
        instance_number: 1-based, tells the presentation states of one run apart.

    Returns:
        A Grayscale Softcopy Presentation State Instance with file meta information, ready to write.

    Raises:
        GeometryError: a mask has other rows and columns than the image.
        RefusedInputError: nothing to draw, an image in colour, no algorithm, or no valid object.
    """
    require_drawable(picture)
    if not algorithms or not any(outline.mask.any() for outline in picture.outlines):
        raise RefusedInputError("a presentation state needs an outline, and the algorithm that drew it")
    header = study_header(picture.source)
    image = _one_frame(header, picture.frame_number)
    layers, annotations = _annotations(picture.outlines, draft_notice(algorithms), image)
    with building("presentation state"):
        state = hd.pr.GrayscaleSoftcopyPresentationState(
            referenced_images=[image],
            series_instance_uid=identity.series_instance_uid("presentation_state"),
            series_number=SERIES_NUMBERS["presentation_state"],
            sop_instance_uid=identity.sop_instance_uid("presentation_state", instance_number),
            instance_number=instance_number,
            content_label="AI_DRAFT",
            content_description=draft_description(algorithms),
            graphic_annotations=annotations,
            graphic_layers=layers,
            voi_lut_transformations=_window(picture),
            presentation_lut_transformation=_polarity(image),
            contributing_equipment=contributing_equipment(algorithms, local_time(identity.created_at, header)),
            series_description=draft_description(algorithms),
            **equipment_arguments(equipment),
        )
    _finish_display(state, image)
    if picture.frame_number is not None and "NumberOfFrames" in header:
        _name_frame(state, picture.frame_number)
    stamp(state, header, identity=identity, equipment=equipment, algorithms=algorithms)
    state.PresentationCreationDate, state.PresentationCreationTime = DA(state.ContentDate), TM(state.ContentTime)
    copy_picture_context(state, header)
    return state


def _one_frame(header: Dataset, frame_number: int | None) -> Dataset:
    """Return ``header`` as if the frame were all there is: highdicom wants one answer for all frames."""
    index = (frame_number or 1) - 1
    values = functional_group(header, index, "PixelValueTransformationSequence")
    if "RescaleSlope" in values and not values.get("RescaleType"):
        values.RescaleType = "HU" if header.get("Modality") == "CT" else "US"
    image = Dataset()
    image.update({element.tag: element for element in header})
    image.SamplesPerPixel = header.get("SamplesPerPixel") or 1
    if "SharedFunctionalGroupsSequence" in header:
        groups = {name: functional_group(header, index, name) for name in _FRAME_GROUPS}
        shared = Dataset()
        shared.update({name: [group] for name, group in groups.items() if group is not header})
        image.SharedFunctionalGroupsSequence, image.NumberOfFrames = [shared], 1
        image.PerFrameFunctionalGroupsSequence = [Dataset()]
    spacing = functional_group(header, index, "PixelMeasuresSequence").get("PixelSpacing")
    if spacing:
        image.PixelSpacing = spacing
    return image


def _annotations(
    outlines: Sequence[Outline], notice: str, image: Dataset
) -> tuple[list[hd.pr.GraphicLayer], list[hd.pr.GraphicAnnotation]]:
    drawn = [outline for outline in outlines if outline.mask.any()]
    with building("graphic annotation"):
        layers = [_layer(number, outline.label) for number, outline in enumerate(drawn, 1)]
        annotations = [_annotation(outline, layer, image) for outline, layer in zip(drawn, layers, strict=True)]
        top = hd.pr.GraphicLayer("AI_NOTICE", len(drawn) + 1, description=one_line(notice, 64))
        words = hd.pr.TextObject(notice, _DISPLAY, bounding_box=_NOTICE_BOX, text_justification="LEFT")
        return [*layers, top], [*annotations, hd.pr.GraphicAnnotation([image], top, text_objects=[words])]


def _layer(number: int, label: str) -> hd.pr.GraphicLayer:
    return hd.pr.GraphicLayer(
        f"AI_{number}",
        number,
        description=one_line(label, 64),
        display_color=hd.color.CIELabColor.from_rgb(*OUTLINE_COLOURS[(number - 1) % len(OUTLINE_COLOURS)]),
    )


def _annotation(outline: Outline, layer: hd.pr.GraphicLayer, image: Dataset) -> hd.pr.GraphicAnnotation:
    borders = closed_outlines(outline.mask)
    top = min((tuple(point) for border in borders for point in border), key=lambda point: (point[1], point[0]))
    label = one_line(outline.label) or "finding"
    tracked = {"tracking_id": label, "tracking_uid": outline.tracking_uid} if outline.tracking_uid else {}
    lines = [
        hd.pr.GraphicObject(hd.pr.GraphicTypeValues.POLYLINE, piece, _PIXEL, **tracked)
        for border in borders
        for piece in _pieces(border)
    ]
    words = hd.pr.TextObject(label, _PIXEL, anchor_point=top, anchor_point_visible=False)
    return hd.pr.GraphicAnnotation([image], layer, graphic_objects=lines, text_objects=[words])


def _pieces(border: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Cut a border that is too long for one object; the next piece starts where the last one ends."""
    step = _MOST_POINTS - 1
    return [border[start : start + _MOST_POINTS] for start in range(0, max(len(border) - 1, 1), step)]


def _window(picture: KeyPicture) -> list[hd.pr.SoftcopyVOILUTTransformation] | None:
    if picture.window is None:
        return None
    centre, width = picture.window
    return [hd.pr.SoftcopyVOILUTTransformation(window_center=centre, window_width=width)]


def _polarity(image: Dataset) -> hd.PresentationLUTTransformation:
    """Return how the output is shown: an image whose low values are bright needs INVERSE (PS3.3 C.11.6)."""
    is_inverse = image.get("PhotometricInterpretation") == "MONOCHROME1"
    return hd.PresentationLUTTransformation(presentation_lut_shape="INVERSE" if is_inverse else "IDENTITY")


def _finish_display(state: Dataset, image: Dataset) -> None:
    """Show pixels in their true proportions; highdicom assumes squares."""
    for area in state.DisplayedAreaSelectionSequence:
        if "PixelOriginInterpretation" in area:
            del area.PixelOriginInterpretation  # only of tiled images
        spacing = image.get("PixelSpacing") or image.get("ImagerPixelSpacing")
        if spacing:
            area.PresentationPixelSpacing = list(spacing)
            del area.PresentationPixelAspectRatio
        elif image.get("PixelAspectRatio"):
            area.PresentationPixelAspectRatio = list(image.PixelAspectRatio)


def _name_frame(state: Dataset, frame_number: int) -> None:
    references = [*state.ReferencedSeriesSequence[0].ReferencedImageSequence]
    for annotation in state.GraphicAnnotationSequence:
        references += annotation.ReferencedImageSequence
    for reference in references:
        reference.ReferencedFrameNumber = frame_number
