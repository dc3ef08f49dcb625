"""Colour Secondary Capture: the picture with its outlines burned in, for systems that draw no overlay at all."""

from collections.abc import Iterator, Sequence

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from config.errors import RefusedInputError
from reports.codes import code_table
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
from reports.typefaces import typeface
from reports.values import SERIES_NUMBERS, AlgorithmIdentity, DraftIdentity, Equipment

SMALLEST_EDGE, LONGEST_EDGE = 512, 1024
"""The longer edge of the image area in pixels: smaller images are enlarged so that words stay legible."""

_MOST_LEGEND_LINES = 12
_LONGEST_CAPTION = 600  # bytes; Image Comments has more of it
_LT_LIMIT = 10_240  # PS3.5 6.2
_WHITE, _WARNING, _BLACK = (255, 255, 255), (255, 220, 90), (0, 0, 0)
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def build_secondary_capture(
    picture: KeyPicture,
    *,
    identity: DraftIdentity,
    equipment: Equipment,
    algorithms: Sequence[AlgorithmIdentity],
    instance_number: int = 1,
) -> Dataset:
    """Return ``picture`` as one RGB image: notice above, outlines on the image, legend and caption below.

    The longer edge of the image area is :data:`SMALLEST_EDGE` to :data:`LONGEST_EDGE` pixels, in the proportions of
    the patient; the bands of text add to the height. It carries no Pixel Spacing, so nobody measures on it. Nothing
    of the patient is burned in, only words of ours (Burned In Annotation NO).

    Args:
        picture: with ``grey``; outlines may be missing.
        identity: fixes UIDs and times.
        equipment: our product.
        algorithms: the models that drew the outlines.
        instance_number: 1-based, tells the captures of one run apart.

    Returns:
        A Secondary Capture Image Instance with file meta information, ready to write.

    Raises:
        GeometryError: a mask has other rows and columns than the image.
        RefusedInputError: no grey picture, no algorithm, or no valid object.
    """
    require_drawable(picture)
    if picture.grey is None or not algorithms:
        raise RefusedInputError("a secondary capture needs a grey picture, and the algorithm that drew on it")
    header = study_header(picture.source)
    notice = draft_notice(algorithms)
    with building("secondary capture"):
        capture = hd.sc.SCImage(
            pixel_array=_drawn(picture.grey, picture, notice),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "P"),  # replaced below: highdicom cannot leave it open
            series_instance_uid=identity.series_instance_uid("secondary_capture"),
            series_number=SERIES_NUMBERS["secondary_capture"],
            sop_instance_uid=identity.sop_instance_uid("secondary_capture", instance_number),
            instance_number=instance_number,
            series_description=draft_description(algorithms),
            contributing_equipment=contributing_equipment(algorithms, local_time(identity.created_at, header)),
            **_patient_arguments(header),
            **equipment_arguments(equipment),
        )
        _finish_image(capture, header, picture, notice)
    stamp(capture, header, identity=identity, equipment=equipment, algorithms=algorithms)
    capture.DateOfSecondaryCapture, capture.TimeOfSecondaryCapture = DA(capture.ContentDate), TM(capture.ContentTime)
    return capture


def _patient_arguments(header: Dataset) -> dict[str, object]:
    return {
        "study_instance_uid": header.StudyInstanceUID,
        "patient_id": header.PatientID,
        "patient_name": header.PatientName,
        "patient_birth_date": header.PatientBirthDate,
        "patient_sex": header.PatientSex,
        "accession_number": header.AccessionNumber,
        "study_id": header.StudyID,
        "study_date": header.StudyDate,
        "study_time": header.StudyTime,
        "referring_physician_name": header.ReferringPhysicianName,
    }


def _finish_image(capture: Dataset, header: Dataset, picture: KeyPicture, notice: str) -> None:
    """Say what the image is, what it was made from, and what is written on it."""
    capture.copy_patient_and_study_information(header)
    capture.ConversionType = "WSD"
    capture.BurnedInAnnotation = "NO"  # nothing that identifies the patient (PS3.3 C.7.6.1.1)
    capture.DerivationDescription = one_line(f"Outlines of findings drawn on a windowed copy. {notice}")
    capture.ImageComments = one_line(picture.caption, _LT_LIMIT)
    del capture.PatientOrientation
    copy_picture_context(capture, header)
    if "PatientOrientation" not in capture:
        capture.PatientOrientation = None  # type 2C: no plane is stated, and the image does not say
    for keyword in _LOSSY:
        if header.get(keyword):
            capture.add(header[keyword])
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    if picture.frame_number is not None and "NumberOfFrames" in header:
        item.ReferencedFrameNumber = picture.frame_number
    item.PurposeOfReferenceCodeSequence = [code_table().concept("source_image")]
    capture.SourceImageSequence = [item]


def _drawn(grey: NDArray[np.uint8], picture: KeyPicture, notice: str) -> NDArray[np.uint8]:
    """Return the drawn picture, ``(rows, columns, 3)`` RGB."""
    size = _displayed_size(picture)
    canvas = Image.fromarray(np.ascontiguousarray(grey, np.uint8))
    canvas = canvas.resize(size, Image.Resampling.LANCZOS).convert("RGB")
    pen = ImageDraw.Draw(canvas)
    drawn = [outline for outline in picture.outlines if outline.mask.any()]
    for outline, colour in _coloured(drawn):
        _draw_outline(pen, outline, colour, size)
    above = _text_band([(notice, _WARNING, None)], size[0], weight="Bold")
    below = _text_band(_legend(drawn, picture.caption), size[0])
    return np.concatenate([np.asarray(part, np.uint8) for part in (above, canvas, below) if part is not None])


def _displayed_size(picture: KeyPicture) -> tuple[int, int]:
    """Return width and height of the image area: true proportions, the longer edge within its bounds."""
    rows, columns = picture.source.Rows, picture.source.Columns
    index = (picture.frame_number or 1) - 1
    measures = functional_group(picture.source, index, "PixelMeasuresSequence")
    spacing = measures.get("PixelSpacing") or picture.source.get("ImagerPixelSpacing") or (1.0, 1.0)
    down, across = (float(one) for one in spacing)
    ratio = down / across if down > 0 and across > 0 else 1.0
    width, height = (float(columns), rows * ratio) if ratio >= 1 else (columns / ratio, float(rows))
    longest = max(width, height)
    factor = min(max(SMALLEST_EDGE / longest, 1.0), LONGEST_EDGE / longest)
    return max(round(width * factor), 1), max(round(height * factor), 1)


def _coloured(outlines: Sequence[Outline]) -> Iterator[tuple[Outline, tuple[int, int, int]]]:
    for number, outline in enumerate(outlines):
        yield outline, OUTLINE_COLOURS[number % len(OUTLINE_COLOURS)]


def _draw_outline(
    pen: ImageDraw.ImageDraw, outline: Outline, colour: tuple[int, int, int], size: tuple[int, int]
) -> None:
    """Draw every border with a dark seam on both sides, so that it stands out on bright bone as well."""
    scale = np.array(size) / np.array(outline.mask.shape[::-1])
    width = max(2, max(size) // 400)
    borders = [[tuple(point) for point in border * scale] for border in closed_outlines(outline.mask)]
    for stroke, ink in ((width + 2, _BLACK), (width, colour)):
        for border in borders:
            pen.line(border, fill=ink, width=stroke, joint="curve")


_Line = tuple[str, tuple[int, int, int], tuple[int, int, int] | None]
"""Words, their colour, and the colour of the square before them."""


def _legend(outlines: Sequence[Outline], caption: str) -> list[_Line]:
    lines: list[_Line] = [
        (one_line(outline.label) or "finding", _WHITE, colour)
        for outline, colour in _coloured(outlines[:_MOST_LEGEND_LINES])
    ]
    if len(outlines) > _MOST_LEGEND_LINES:
        lines.append((f"and {len(outlines) - _MOST_LEGEND_LINES} more", _WHITE, None))
    return [*lines, (one_line(caption, _LONGEST_CAPTION), _WHITE, None)] if caption.strip() else lines


def _text_band(lines: Sequence[_Line], width: int, *, weight: str = "Regular") -> Image.Image | None:
    """Return words on black, wrapped to ``width``; None for no words."""
    if not lines:
        return None
    height = max(16, width // 36)
    face = typeface(weight="Bold" if weight == "Bold" else "Regular")
    font = ImageFont.truetype(str(face), height, layout_engine=ImageFont.Layout.BASIC)
    step, margin, square = round(height * 1.4), height // 2, round(height * 0.7)
    rows: list[tuple[str, _Line, int]] = []
    for line in lines:
        indent = margin + (square + margin if line[2] else 0)
        rows += [(words, line if first else (line[0], line[1], None), indent)
                 for first, words in _wrapped(line[0], font, width - indent - margin)]  # fmt: skip
    band = Image.new("RGB", (width, step * len(rows) + margin), _BLACK)
    pen = ImageDraw.Draw(band)
    for number, (words, (_, ink, colour), indent) in enumerate(rows):
        top = margin // 2 + number * step
        if colour:
            pen.rectangle((margin, top + height // 3, margin + square, top + height // 3 + square), fill=colour)
        pen.text((indent, top), words, fill=ink, font=font)
    return band


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[tuple[bool, str]]:
    """Yield the lines of ``text`` and whether each is the first; a word wider than the line is cut."""
    line, is_first = "", True
    for word in text.split(" "):
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            yield is_first, line
            is_first, longer = False, word
        while font.getlength(longer) > width and len(longer) > 1:
            fits = next(n for n in range(len(longer) - 1, 0, -1) if n == 1 or font.getlength(longer[:n]) <= width)
            yield is_first, longer[:fits]
            is_first, longer = False, longer[fits:]
        line = longer
    yield is_first, line
