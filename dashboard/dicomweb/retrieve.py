"""Retrieving objects, headers, frames and bulk data (PS3.18 sections 10.4.1.1 to 10.4.1.7)."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack

from flask import Response
from werkzeug.exceptions import NotAcceptable, NotFound

from dashboard.dicomweb import wado
from dashboard.dicomweb.accept import Offer, both_ways, choose
from dashboard.dicomweb.door import record
from dashboard.dicomweb.frames import open_frames
from dashboard.dicomweb.model import MEDIA_TYPE, bulk_element, json_pieces
from dashboard.dicomweb.multipart import new_boundary, related, write_parts
from dashboard.dicomweb.objects import PIXELS, HeldObject, read_header
from dashboard.dicomweb.service import accepted, base, bp, find_objects, only
from dashboard.permissions import Permission, requires
from db.audit import AuditTag

_JSON = (Offer(MEDIA_TYPE), Offer("application/json"))
_OCTETS = "application/octet-stream"
_INSTANCE = "/studies/<study_uid>/series/<series_uid>/instances/<sop_uid>"
_PARTIAL = 206


@bp.get("/studies/<study_uid>", defaults={"series_uid": "", "sop_uid": ""})
@bp.get("/studies/<study_uid>/series/<series_uid>", defaults={"sop_uid": ""})
@bp.get(_INSTANCE)
@requires(Permission.STUDY_READ)
def objects(study_uid: str, series_uid: str, sop_uid: str) -> Response:
    """Return the objects of a Study, a Series, or one, as DICOM files."""
    study_id, found, is_whole = find_objects(study_uid, series_uid, sop_uid)
    chosen, refusal = _choose_each(found)
    if not chosen:
        raise refusal or NotAcceptable
    is_whole = is_whole and len(chosen) == len(found)
    level = "instance" if sop_uid else "series" if series_uid else "study"
    record().write(AuditTag.DICOMWEB_RETRIEVED, study_id=study_id, what=level, objects=len(chosen))
    held, offer = chosen[0]
    if not offer.is_multipart:
        return _stream(wado.object_pieces(held, offer), offer.content_type, base() + held.address)
    answer = _multipart(wado.object_parts(chosen, base()), "application/dicom")
    answer.status_code = 200 if is_whole else _PARTIAL
    return answer


def _choose_each(found: Sequence[HeldObject]) -> tuple[list[tuple[HeldObject, Offer]], NotAcceptable | None]:
    """Return how each object is sent; several can only be sent together."""
    chosen, refusal = [], None
    for held in found:
        offers = wado.object_offers(held)
        try:
            offer = choose(accepted(), [one for one in offers if one.is_multipart or len(found) == 1])
        except NotAcceptable as exc:
            refusal = exc
            continue
        chosen.append((held, offer))
    return chosen, refusal


@bp.get("/studies/<study_uid>/metadata", defaults={"series_uid": "", "sop_uid": ""})
@bp.get("/studies/<study_uid>/series/<series_uid>/metadata", defaults={"sop_uid": ""})
@bp.get(f"{_INSTANCE}/metadata")
@requires(Permission.STUDY_READ)
def metadata(study_uid: str, series_uid: str, sop_uid: str) -> Response:
    """Return the headers of a Study, a Series, or one object, as JSON."""
    offer = choose(accepted(), _JSON)
    study_id, found, is_whole = find_objects(study_uid, series_uid, sop_uid)
    record().write(AuditTag.DICOMWEB_RETRIEVED, study_id=study_id, what="metadata", objects=len(found))
    answer = _stream(json_pieces(wado.metadata(found, base())), offer.media_type)
    answer.status_code = 200 if is_whole else _PARTIAL
    return answer


@bp.get(f"{_INSTANCE}/frames/<numbers>")
@requires(Permission.STUDY_READ)
def frames(study_uid: str, series_uid: str, sop_uid: str, numbers: str) -> Response:
    """Return frames of an Instance, as they are stored or decoded."""
    study_id, found, _ = find_objects(study_uid, series_uid, sop_uid)
    held = only(found)
    with ExitStack() as opened:
        source = opened.enter_context(open_frames(held.path))
        wanted = _wanted(numbers, source.count)
        offer = choose(accepted(), [one for one in source.offers() if one.is_multipart or len(wanted) == 1])
        made = wado.frame_parts(source, wanted, offer, base() + held.address)
        record().look(study_id, series_uid, "frames")
        keep_open = opened.pop_all()
    answer = _answer(offer, made)
    answer.call_on_close(keep_open.close)
    return answer


@bp.get(f"{_INSTANCE}/bulkdata/<path:name>")
@requires(Permission.STUDY_READ)
def bulkdata(study_uid: str, series_uid: str, sop_uid: str, name: str) -> Response:
    """Return one large value of an object, by the address its metadata give."""
    study_id, found, _ = find_objects(study_uid, series_uid, sop_uid)
    held = only(found)
    with held.path.open("rb") as file:
        ds, pixels = read_header(file)
    location = f"{base()}{held.address}/bulkdata/{name}"
    if pixels is not None and name.upper() == f"{pixels.tag:08X}":
        if pixels.is_encapsulated:
            numbers = range(1, min(_count(ds), wado.MOST_FRAMES + 1) + 1)
            return frames(study_uid, series_uid, sop_uid, ",".join(map(str, numbers)))
        content: Iterable[bytes] = wado.pixel_pieces(held, pixels)
    else:
        element = bulk_element(ds, name)
        if element is None or not isinstance(element.value, bytes):
            raise NotFound("This object has no such bulk data.")
        content = (element.value,)
    offer = choose(accepted(), both_ways(_OCTETS))
    record().look(study_id, series_uid, "bulkdata" if name.upper() not in _PIXEL_NAMES else "frames")
    return _answer(offer, iter([({"Content-Type": _OCTETS, "Content-Location": location}, content)]))


_PIXEL_NAMES = frozenset(f"{tag:08X}" for tag in PIXELS)


def _count(ds: Mapping[str, object]) -> int:
    return max(int(str(ds.get("NumberOfFrames") or 1)), 1)


def _wanted(numbers: str, count: int) -> list[int]:
    try:
        return wado.parse_frames(numbers, count)
    except LookupError as exc:
        raise NotFound(f"There is no such frame: {exc}.") from exc


def _answer(offer: Offer, made: Iterable[tuple[Mapping[str, str], Iterable[bytes]]]) -> Response:
    """Return parts as multipart/related, or the only one by itself."""
    if offer.is_multipart:
        return _multipart(made, offer.media_type)
    headers, content = next(iter(made))
    return _stream(content, headers["Content-Type"], headers["Content-Location"])


def _multipart(made: Iterable[tuple[Mapping[str, str], Iterable[bytes]]], media_type: str) -> Response:
    boundary = new_boundary()
    return _stream(write_parts(boundary, made), related(media_type, boundary))


def _stream(pieces: Iterable[bytes], content_type: str, location: str = "") -> Response:
    answer = Response(pieces, content_type=content_type)
    if location:
        answer.headers["Content-Location"] = location
    return answer
