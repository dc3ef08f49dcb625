"""Searching and storing; retrieving is in :mod:`dashboard.dicomweb.retrieve` and ``pictures``."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from flask import Flask, Response, current_app, request
from flask_wtf.csrf import CSRFProtect
from werkzeug.exceptions import RequestEntityTooLarge, ServiceUnavailable, UnsupportedMediaType
from werkzeug.http import parse_options_header

from config.errors import BrokenBodyError
from dashboard.dicomweb import pictures, qido, retrieve  # noqa: F401 importing them adds their views to the blueprint
from dashboard.dicomweb.accept import Offer, choose
from dashboard.dicomweb.door import client, install_door, record
from dashboard.dicomweb.model import MEDIA_TYPE, json_pieces
from dashboard.dicomweb.multipart import Body, Part, parts
from dashboard.dicomweb.qido import Level
from dashboard.dicomweb.rows import Row, Rows
from dashboard.dicomweb.service import accepted, base, bp, inbox, study_of
from dashboard.dicomweb.stow import Store, Stored, counts_by_study
from dashboard.people import sessions, site
from dashboard.permissions import Permission, requires
from db.audit import AuditTag
from db.lifecycle.arrivals import tell_arrivals
from db.queries.dicomweb import MOST_COUNTED, Page
from db.uow import unit_of_work
from instances.header import valid_uid
from instances.inbox import make_inbox

_JSON = (Offer(MEDIA_TYPE), Offer("application/json"))
_DICOM = "application/dicom"
_RETRY_S = 30
_LOOK_S = 0.5


def serve_dicomweb(app: Flask, csrf: CSRFProtect) -> None:
    """Add DICOMweb to the dashboard; its own door asks a session's POST for the mark that forms carry."""
    settings = app.extensions["firstread.settings"]
    app.extensions["firstread.inbox"] = make_inbox(app.extensions["firstread.sessions"], settings)
    install_door(app)
    # a slow sender holds a request thread: some stay free for everybody else
    app.extensions["firstread.stow_places"] = threading.BoundedSemaphore(max(1, settings.web.threads // 2))
    csrf.exempt(bp)
    app.register_blueprint(bp)


# --- QIDO-RS -----------------------------------------------------------------------------------------------


@bp.get("/studies")
@requires(Permission.STUDY_READ)
def search_studies() -> Response:
    """Return the Studies that match, newest first."""
    return _search(Level.STUDY, {})


@bp.get("/series", defaults={"study_uid": ""})
@bp.get("/studies/<study_uid>/series")
@requires(Permission.STUDY_READ)
def search_series(study_uid: str) -> Response:
    """Return the Series that match, of one Study or of all."""
    return _search(Level.SERIES, {"StudyInstanceUID": study_uid})


@bp.get("/instances", defaults={"study_uid": "", "series_uid": ""})
@bp.get("/studies/<study_uid>/instances", defaults={"series_uid": ""})
@bp.get("/studies/<study_uid>/series/<series_uid>/instances")
@requires(Permission.STUDY_READ)
def search_instances(study_uid: str, series_uid: str) -> Response:
    """Return the Instances that match, of one Series, one Study or all."""
    return _search(Level.INSTANCE, {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid})


def _search(level: Level, path: dict[str, str]) -> Response:
    fixed = {keyword: uid for keyword, uid in path.items() if uid}
    offer = choose(accepted(), _JSON)
    query = qido.parse(level, request.args, fixed)
    with sessions()() as db:
        study = study_of(db, fixed["StudyInstanceUID"]) if "StudyInstanceUID" in fixed else None
        rows, window = Rows(db, site()), {"limit": query.limit, "offset": query.offset}
        page: Page[Row]
        if level is Level.STUDY:
            page = rows.studies(query.matches, **window)
        elif level is Level.SERIES:
            page = rows.series(query.matches, study, **window)
        else:
            page = rows.instances(query.matches, study, **window)
    found = {study.id} if study else {row.study_id for row in page.rows}
    record().write(
        AuditTag.DICOMWEB_QUERIED,
        study_id=found.pop() if len(found) == 1 else None,
        level=level.value,
        keys=sorted(match.keyword for match in query.matches),  # names only: a value may name a patient
        matches=len(page.rows),
    )
    if page.remaining:
        number = f"more than {MOST_COUNTED}" if page.remaining > MOST_COUNTED else str(page.remaining)
        query.warnings.append(f"There are {number} additional results that can be requested.")
    models = (qido.answer(row, query, base()) for row in page.rows)
    body = b"".join(json_pieces(models)) if page.rows else b""
    answer = Response(body, 200 if page.rows else 204, content_type=offer.media_type)
    for text in query.warnings:
        answer.headers.add("Warning", f'299 {base()} "{text}"')
    return answer


# --- STOW-RS -----------------------------------------------------------------------------------------------


@bp.post("/studies", defaults={"study_uid": ""})
@bp.post("/studies/<study_uid>")
@requires(Permission.STUDY_STORE)
def store(study_uid: str) -> Response:
    """Store the Instances of the request's body; the answer says what became of each."""
    offer = choose(accepted(), _JSON)
    if study_uid:
        valid_uid(study_uid, what="Study Instance UID")
    places: threading.BoundedSemaphore = current_app.extensions["firstread.stow_places"]
    if not places.acquire(blocking=False):
        raise ServiceUnavailable("Others are storing; come back in a moment.", retry_after=_RETRY_S)
    body = Body(_read, slow_bytes_per_s=site().dicom.slow_bytes_per_s)
    try:
        box = inbox()
        box.prepare()
        taking = Store(box, calling_ae=client().ae_title, called_ae=site().dicom.ae_title, study_instance_uid=study_uid)
        with _ended_when_late(body):
            taken = taking.take(_parts(body))
    finally:
        places.release()
    _record_store(taken)
    return _stored(taken, offer.media_type)


@contextmanager
def _ended_when_late(body: Body) -> Iterator[None]:
    """Hang up on a sender that crawls: it would keep its place for hours."""
    sock: socket.socket | None = request.environ.get("gunicorn.socket")
    done = threading.Event()

    def watch() -> None:
        while sock is not None and not done.wait(_LOOK_S):
            if body.is_late:
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not TLS's own, which waits for the peer
                return

    threading.Thread(target=watch, name="stow-pace", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _parts(body: Body) -> Iterator[Part]:
    """Return the parts of the request; a single application/dicom is a part without company.

    Raises:
        UnsupportedMediaType: anything else, or a content coding.
    """
    media_type, options = parse_options_header(request.headers.get("Content-Type", ""))
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("A content coding is not taken.")
    if media_type == _DICOM:
        return iter((Part({"content-type": _DICOM}, iter(body.read, b"")),))
    if media_type != "multipart/related" or options.get("type", _DICOM).lower() != _DICOM:
        raise UnsupportedMediaType('Only multipart/related; type="application/dicom" and application/dicom are taken.')
    return parts(body, options.get("boundary", ""))


def _read(most: int) -> bytes:
    try:
        return request.stream.read(most)
    except RequestEntityTooLarge:
        raise
    except Exception as exc:
        # the server's own errors for chunks that are none, and a client that is gone
        raise BrokenBodyError("the request stopped arriving") from exc


def _record_store(taken: Stored) -> None:
    refused = len(taken.bad) + (taken.broken is not None)
    with unit_of_work(sessions(), client().actor) as uow:
        tell_arrivals(uow, taken.request_id, by="request")
    for study_id, count in counts_by_study(taken.good).items():
        record().write(AuditTag.DICOMWEB_STORED, study_id=study_id, stored=count, refused=refused)
    if not taken.good:
        record().write(AuditTag.DICOMWEB_STORED, outcome="failure", stored=0, refused=refused)


def _stored(taken: Stored, media_type: str) -> Response:
    model: dict[str, Any] = taken.model(base())
    answer = Response(json.dumps(model), taken.http_status, content_type=media_type)
    if taken.http_status == 503:
        answer.headers["Retry-After"] = str(_RETRY_S)
    if taken.broken is not None:
        answer.headers.add("Warning", f'299 {base()} "{taken.broken if taken.good else "The body is broken."}"')
    return answer
