"""What every DICOMweb view shares: the blueprint with its door, errors as plain text, and finding what is held."""

import re
from typing import cast
from uuid import UUID

import structlog
from flask import Blueprint, Response, current_app, request
from sqlalchemy.orm import Session
from werkzeug.exceptions import Gone, HTTPException, NotFound

from config.errors import AppError, RefusedInputError, UndecodablePixelsError
from dashboard.dicomweb.door import admit
from dashboard.dicomweb.objects import HeldObject, read_attributes
from dashboard.errors import status_of
from dashboard.people import sessions, site
from dashboard.withholding import results_to_show
from db.models import ResultObject, Study
from db.queries.dicomweb import find_study, held_instances
from instances.header import valid_uid
from instances.inbox import Inbox

log = structlog.get_logger()
bp = Blueprint("dicomweb", __name__, url_prefix="/dicomweb")
_RETRY_S = "30"
_PORT = re.compile(r":\d+$")
_USUAL = frozenset({"80", "443"})
_EXPLICIT = "1.2.840.10008.1.2.1"  # what results are written in
_SERIES_UID = 0x0020000E

bp.before_request(admit)


def base() -> str:
    """Return the address of the service, as the client reached it.

    Some clients leave a port that is not the usual one out of their Host field.
    """
    root = site().web.public_url or request.url_root
    if not site().web.public_url and not _PORT.search(request.host) and request.environ["SERVER_PORT"] not in _USUAL:
        root = f"{request.scheme}://{request.host}:{request.environ['SERVER_PORT']}"
    return f"{root.rstrip('/')}{bp.url_prefix}"


def accepted() -> str:
    """Return what the client accepts: the query parameter goes before the header (PS3.18 section 8.3.3.1)."""
    if "accept" in request.args:
        # a plus sign in an address is a blank
        return ",".join(request.args.getlist("accept")).replace("dicom ", "dicom+").replace("svg ", "svg+")
    return str(request.headers.get("Accept", ""))


def inbox() -> Inbox:
    """Return the application's inbox."""
    return cast("Inbox", current_app.extensions["firstread.inbox"])


@bp.errorhandler(AppError)
def refused(error: AppError) -> Response:
    """Answer an error of ours; what cannot be decoded has no acceptable form (406)."""
    status = 406 if isinstance(error, UndecodablePixelsError) else status_of(error)
    log.warning("request.refused", error=type(error).__name__, status=status)
    answer = plain(status, str(error) if status != 500 else "It was logged.")
    if status == 503:
        answer.headers["Retry-After"] = _RETRY_S
    return answer


@bp.errorhandler(HTTPException)
def http(error: HTTPException) -> Response:
    """Answer what Flask or a view raised, with its own header fields."""
    answer = plain(error.code or 500, error.description or error.name)
    for name, value in error.get_headers():
        if name not in {"Content-Type", "Content-Length"}:
            answer.headers[name] = value
    return answer


def plain(status: int, text: str) -> Response:
    """Return an answer of one line of text."""
    return Response(f"{text}\n", status, content_type="text/plain; charset=utf-8")


def study_of(db: Session, study_instance_uid: str) -> Study:
    """Return a Study.

    Raises:
        InvalidUidError: that is no UID.
        NotFound: it is not held.
    """
    study = find_study(db, valid_uid(study_instance_uid, what="Study Instance UID"))
    if study is None:
        raise NotFound("There is no such Study.")
    return study


def find_objects(study_uid: str, series_uid: str = "", sop_uid: str = "") -> tuple[UUID, list[HeldObject], bool]:
    """Return a Study's id, the objects of it that an address names, and whether these are all.

    Raises:
        InvalidUidError: a UID that is none.
        NotFound: nothing of that name is held.
        Gone: retention took all of it.
    """
    for uid, what in ((series_uid, "Series Instance UID"), (sop_uid, "SOP Instance UID")):
        if uid:
            valid_uid(uid, what=what)
    with sessions()() as db:
        study = study_of(db, study_uid)
        found = _instances(db, study, series_uid, sop_uid) + _results(db, study, series_uid, sop_uid)
    if not found:
        raise NotFound("There is no such object.")
    kept = [one for one in found if not one.is_deleted]
    if not kept:
        raise Gone("Retention has deleted the pixel data.")
    there = [one for one in kept if one.path.is_file()]
    if len(there) < len(kept):
        log.error("instance.file_missing", study_id=study.id, count=len(kept) - len(there))
    if not there:
        raise NotFound("The file of this object is missing.")
    return study.id, there, len(there) == len(found)


def _instances(db: Session, study: Study, series_uid: str, sop_uid: str) -> list[HeldObject]:
    root = site().instances_dir
    return [
        HeldObject(
            study.study_instance_uid,
            series.series_instance_uid,
            one.sop_instance_uid,
            one.sop_class_uid,
            one.transfer_syntax_uid,
            root / one.path,
            one.deleted_at is not None,
        )
        for series, one in held_instances(db, study.id, series_instance_uid=series_uid, sop_instance_uid=sop_uid)
    ]


def _results(db: Session, study: Study, series_uid: str, sop_uid: str) -> list[HeldObject]:
    made = results_to_show(db, [study.id]).get(study.id, [])
    found = [_result(study, one) for one in made if sop_uid in {"", one.sop_instance_uid}]
    return [one for one in found if one.series_instance_uid and series_uid in {"", one.series_instance_uid}]


def _result(study: Study, made: ResultObject) -> HeldObject:
    path = site().results_dir / made.path
    series_uid = str(read_attributes(path, _EXPLICIT, [_SERIES_UID]).get("SeriesInstanceUID", ""))
    return HeldObject(study.study_instance_uid, series_uid, made.sop_instance_uid, made.sop_class_uid, _EXPLICIT, path)


def only(objects: list[HeldObject]) -> HeldObject:
    """Return the one object that an Instance's address names."""
    if len(objects) != 1:
        raise RefusedInputError("the address names more than one object")
    return objects[0]
