"""Rendered frames and thumbnails (PS3.18 sections 8.3.5 and 10.4.1.8)."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from flask import Response, request
from PIL import Image
from werkzeug.exceptions import NotFound

from config.errors import RefusedInputError, UndecodablePixelsError
from dashboard.dicomweb.accept import Offer, choose
from dashboard.dicomweb.door import record
from dashboard.dicomweb.frames import open_frames
from dashboard.dicomweb.multipart import new_boundary, related, write_parts
from dashboard.dicomweb.objects import HeldObject
from dashboard.dicomweb.service import accepted, base, bp, find_objects, only
from dashboard.dicomweb.wado import parse_frames
from dashboard.permissions import Permission, requires
from dashboard.pixels import Window, read_frame, render, square_pixels

_INSTANCE = "/studies/<study_uid>/series/<series_uid>/instances/<sop_uid>"
_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG"}
_OFFERS = [Offer(media_type, is_multipart=way) for way in (False, True) for media_type in _FORMATS]
_FUNCTIONS = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
_THUMBNAIL = 128
_LARGEST = 8192
_MOST_RENDERED = 64
_TRIES = 5
_NUMBER = re.compile(r"-?\d{1,6}(\.\d{1,6})?")


@dataclass(frozen=True)
class View:
    """How a frame is shown.

    Attributes:
        size: largest width and height in pixels; None keeps the frame's own.
        region: left, top, width and height of the part that is shown, in pixels of the frame; None shows all.
        window: the client's choice; None as the Instance asks.
        quality: of a JPEG, 1 to 100.
    """

    size: tuple[int, int] | None = None
    region: tuple[float, float, float, float] | None = None
    window: Window | None = None
    quality: int = 90

    def picture(self, held: HeldObject, index: int, media_type: str) -> bytes:
        """Return frame ``index`` (0-based) as a picture.

        Raises:
            UndecodablePixelsError: its pixels cannot be decoded here.
        """
        frame = read_frame(held.path, index)
        image = Image.fromarray(render(frame, self.window))
        if self.region:
            left, top, width, height = self.region
            image = image.crop((round(left), round(top), round(left + width), round(top + height)))
        image = square_pixels(image, frame.row_to_column)
        if self.size:
            factor = min(self.size[0] / image.width, self.size[1] / image.height)
            fitted = max(round(image.width * factor), 1), max(round(image.height * factor), 1)
            image = image.resize(fitted, Image.Resampling.BOX if factor < 1 else Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        options = {"quality": self.quality} if media_type == "image/jpeg" else {"compress_level": 1}
        image.save(buffer, _FORMATS[media_type], **options)
        return buffer.getvalue()


@bp.get(f"{_INSTANCE}/rendered", defaults={"numbers": "1"})
@bp.get(f"{_INSTANCE}/frames/<numbers>/rendered")
@requires(Permission.STUDY_READ)
def rendered(study_uid: str, series_uid: str, sop_uid: str, numbers: str) -> Response:
    """Return frames as a person sees them; of a multi-frame Instance without frame numbers the first."""
    view = parse_view()
    study_id, found, _ = find_objects(study_uid, series_uid, sop_uid)
    held = only(found)
    with open_frames(held.path) as source:
        try:
            wanted = parse_frames(numbers, source.count)
        except LookupError as exc:
            raise NotFound(f"There is no such frame: {exc}.") from exc
    if len(wanted) > _MOST_RENDERED:
        raise RefusedInputError(f"at most {_MOST_RENDERED} frames are rendered at once")
    offer = choose(accepted(), [one for one in _OFFERS if one.is_multipart or len(wanted) == 1])
    record().look(study_id, series_uid, "rendered")
    first = view.picture(held, wanted[0], offer.media_type)
    if not offer.is_multipart:
        return Response(first, content_type=offer.media_type)
    boundary = new_boundary()
    made = (
        (
            {"Content-Type": offer.media_type, "Content-Location": f"{base()}{held.address}/frames/{n + 1}/rendered"},
            (first if n == wanted[0] else view.picture(held, n, offer.media_type),),
        )
        for n in wanted
    )
    return Response(write_parts(boundary, made), content_type=related(offer.media_type, boundary))


@bp.get("/studies/<study_uid>/thumbnail", defaults={"series_uid": "", "sop_uid": "", "number": "1"})
@bp.get("/studies/<study_uid>/series/<series_uid>/thumbnail", defaults={"sop_uid": "", "number": "1"})
@bp.get(f"{_INSTANCE}/thumbnail", defaults={"number": "1"})
@bp.get(f"{_INSTANCE}/frames/<number>/thumbnail")
@requires(Permission.STUDY_READ)
def thumbnail(study_uid: str, series_uid: str, sop_uid: str, number: str) -> Response:
    """Return a small picture of a frame, or of one from the middle of a Series or a Study."""
    view = parse_view()
    if view.size is None:
        view = View((_THUMBNAIL, _THUMBNAIL), view.region, view.window, view.quality)
    study_id, found, _ = find_objects(study_uid, series_uid, sop_uid)
    offer = choose(accepted(), [one for one in _OFFERS if not one.is_multipart])
    if not number.isdigit() or int(number) < 1:
        raise RefusedInputError("a frame is a number from 1 on")
    record().look(study_id, series_uid, "thumbnail")
    return Response(_first_picture(found, int(number) - 1, view, offer.media_type), content_type=offer.media_type)


def _first_picture(found: Sequence[HeldObject], index: int, view: View, media_type: str) -> bytes:
    """Return a picture of the middle object that has one; reports have none."""
    middle = len(found) // 2
    for held in [*found[middle:], *found[:middle]][: len(found) if len(found) <= _TRIES else _TRIES]:
        try:
            return view.picture(held, index, media_type)
        except UndecodablePixelsError:
            continue
    raise NotFound("There is no picture of this.")


def parse_view() -> View:
    """Return how the query parameters ask frames to be shown (PS3.18 section 8.3.5.1).

    Raises:
        RefusedInputError: a value that the Standard does not allow.
    """
    size, region = _viewport(request.args.get("viewport", ""))
    quality = request.args.get("quality", "90")
    if not quality.isdigit() or not 1 <= int(quality) <= 100:
        raise RefusedInputError("quality is 1 to 100")
    return View(size, region, _window(request.args.get("window", "")), int(quality))


def _viewport(
    text: str,
) -> tuple[tuple[int, int] | None, tuple[float, float, float, float] | None]:
    if not text:
        return None, None
    values = text.split(",")
    if len(values) not in {2, 6} or not all(_NUMBER.fullmatch(value) for value in values):
        raise RefusedInputError("a viewport is width,height or width,height,left,top,width,height")
    width, height, *rest = (float(value) for value in values)
    if not (1 <= width <= _LARGEST and 1 <= height <= _LARGEST):
        raise RefusedInputError(f"a viewport is 1 to {_LARGEST} pixels wide and high")
    if not rest:
        return (int(width), int(height)), None
    left, top, shown_width, shown_height = rest
    if min(left, top) < 0 or not (1 <= shown_width <= 100_000 and 1 <= shown_height <= 100_000):
        raise RefusedInputError("a viewport's region lies inside the image")
    return (int(width), int(height)), (left, top, shown_width, shown_height)


def _window(text: str) -> Window | None:
    if not text:
        return None
    values = text.split(",")
    if len(values) != 3 or values[2].lower() not in _FUNCTIONS:
        raise RefusedInputError("a window is center,width,function, the function linear, linear-exact or sigmoid")
    if not all(_NUMBER.fullmatch(value) for value in values[:2]) or float(values[1]) <= 0:
        raise RefusedInputError("a window's center is a number, its width a number above 0")
    return Window(float(values[0]), float(values[1]), _FUNCTIONS[values[2].lower()])
