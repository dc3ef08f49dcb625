"""A small history whose answers are known: nine studies, two sites, two versions, three readers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from audit.heads import Head
from audit.sealing import seal_all
from db import lifecycle
from db.audit import AuditTag
from db.audit_anchor_models import AuditAnchor
from db.engine import make_engine, make_sessions
from db.lifecycle.breaking import break_glass
from db.lifecycle.checking import Checked
from db.lifecycle.outcomes import note_outcomes
from db.lifecycle.review import text_sha256
from db.lifecycle.viewing import open_view
from db.queries.audit import ALL
from db.queries.audit.asking import Asked, ask
from db.report_models import Signature
from db.types import Decision, ReportState, Role, utcnow
from db.uow import Actor, unit_of_work
from db.users import record_login
from tests.db_support import (
    WORKER,
    Journey,
    Sessions,
    decide_all,
    header,
    open_review,
    person,
    receive,
    receiving,
    sign,
)

VLM_FILES = {"model-1.safetensors": "1" * 64, "model-2.safetensors": "2" * 64}
# printf 'model-1.safetensors:111…\nmodel-2.safetensors:222…' | sha256sum
VLM_WEIGHTS = "10437ef1c62a92f2834beefb96ec24dcb20c344d5f1c7f48d954605c5955f477"
CXR_WEIGHTS = "0" * 64
GATE = "the profile takes chests only"
TIMEOUT = "expert failed: time limit"


def models(version: str) -> dict[str, Any]:
    """A provenance record that names a language model of this version and one Expert."""
    vlm = {"role": "VLM", "name": "vila", "version": version, "weights_sha256": VLM_FILES}
    cxr = {"role": "CXR", "name": "CXR", "version": "1", "weights_sha256": {"model.pt": CXR_WEIGHTS}}
    return {"models": [vlm, cxr]}


@dataclass
class History:
    """The history, its people and the studies by name."""

    engine: Engine
    sessions: Sessions
    people: dict[str, Actor] = field(default_factory=dict)
    studies: dict[str, Journey] = field(default_factory=dict)
    moments: dict[str, datetime] = field(default_factory=dict)
    head: Head | None = None  # over all of it

    def ask(self, name: str, *, limit: int = 100, cursor: str = "", **given: str) -> Asked:
        """One page of an answer."""
        with self.sessions() as session:
            return ask(session, ALL[name], given, limit=limit, cursor=cursor)

    def rows(self, name: str, **given: str) -> list[dict[str, Any]]:
        """All rows of an answer that fits on a page, by column."""
        asked = self.ask(name, limit=500, **given)
        assert asked.next_cursor == ""
        return [by_column(asked, row) for row in asked.rows]

    def name_of(self, study_id: UUID) -> str:
        """The name of a study in this history."""
        return next(name for name, journey in self.studies.items() if journey.study_id == study_id)

    def as_person(self, name: str, **changes: Any) -> Any:
        """A unit of work of one of the people."""
        who = self.people[name]
        return unit_of_work(self.sessions, Actor(who.name, who.kind, who.user_id, **changes))


def by_column(asked: Asked, row: Any) -> dict[str, Any]:
    """One row with the names of its columns."""
    return dict(zip((column.name for column in asked.question.columns), row, strict=True))


@contextmanager
def history_on(request: pytest.FixtureRequest, folder: Any) -> Iterator[History]:
    """The history on the database that ``request.param`` names, for the tests of one module."""
    if request.param == "sqlite":
        path = folder / "firstread.db"
        path.write_bytes(request.getfixturevalue("_migrated_file").read_bytes())
        engine = make_engine(f"sqlite:///{path}")
    else:
        server = request.getfixturevalue("postgres_server")
        name = f"t_{uuid4().hex}"
        server.create(name, template="firstread_template")
        engine = make_engine(server.url(name))
    made = History(engine, make_sessions(engine))
    _live(made)
    made.head = seal_all(made.sessions, folder / "keys")
    with made.sessions() as session:
        session.add(anchored(made.head.size))
        session.commit()
    yield made
    engine.dispose()


def _live(history: History) -> None:
    for name, role in (("ida", Role.RADIOLOGIST), ("max", Role.RADIOLOGIST), ("ada", Role.ADMIN)):
        history.people[name] = person(history.sessions, name, role)
    _signed_well(history)
    history.moments["after the first"] = utcnow()
    _edited_and_signed_badly(history)
    _rejected(history)
    _late_proof(history)
    for name in ("gated", "gated again"):
        held = _begun(history, name).running().held
        with unit_of_work(history.sessions, WORKER) as uow:
            lifecycle.no_draft(uow, held, GATE)
    held = _begun(history, "broken").running().held
    with unit_of_work(history.sessions, WORKER) as uow:
        lifecycle.fail(uow, held, "the model broke its contract")
    gaps = [{"what": "brain", "why": TIMEOUT}, {"what": "liver", "why": TIMEOUT}]
    _begun(history, "incomplete", site="OTHER").running().drafted(provenance=models("1.1"), not_assessed=gaps)
    _never_opened(history)
    _looked_at(history)
    with unit_of_work(history.sessions, WORKER) as uow:
        assert note_outcomes(uow) == 4


def _begun(history: History, name: str, site: str = "SCANNER", **changes: str) -> Journey:
    number = len(history.studies) + 1
    uid = f"1.2.826.0.9.{number}"
    facts = {"patient_id": f"P-{number}", "accession_number": f"A-{number}"} | changes
    done = receive(history.sessions, header(1, uid, **facts), calling_ae=site)
    journey = Journey(history.sessions, done.study_id, receiving(history.sessions, done.study_id)).queued()
    history.studies[name] = journey
    return journey


def _drafted(history: History, name: str, version: str, **changes: str) -> Journey:
    return _begun(history, name, **changes).running().drafted(provenance=models(version))


def _checked(journey: Journey, view_s: float) -> Checked:
    return Checked(text_sha256(journey.report().sections), "1", view_s=view_s)


def prove(history: History, name: str) -> None:
    """Have somebody prove who they are, as before a signature."""
    who = history.people[name]
    with unit_of_work(history.sessions, who) as uow:
        record_login(uow, who.name, True, lockout_failures=5, lockout_s=60, reauthentication=True)


def _signed_well(history: History) -> None:
    journey, ida = _drafted(history, "well", "1.0"), history.people["ida"]
    with unit_of_work(history.sessions, ida) as uow:
        open_view(uow, journey.study_id, ida.user_id)
    version = decide_all(journey, ida, open_review(journey, ida))
    prove(history, "ida")
    sign(journey, ida, version, authenticated_at=utcnow(), signed_at=utcnow(), checked=_checked(journey, 42.0))


def _edited_and_signed_badly(history: History) -> None:
    """No proof, images seen for 3 s, one finding rejected, the text changed: another side and degree."""
    journey, hurried = _drafted(history, "badly", "1.1"), history.people["max"]
    version = open_review(journey, hurried)
    changed = {"impression": "Mild effusion on the left. Nodule."}
    with unit_of_work(history.sessions, hurried) as uow:
        version = lifecycle.save_sections(uow, journey.report().id, changed, seen_version=version)
    for finding, decision in zip(journey.findings(), (Decision.REJECTED, Decision.ACCEPTED), strict=True):
        with unit_of_work(history.sessions, hurried) as uow:
            version = lifecycle.decide_finding(
                uow, journey.report().id, finding.id, decision, reason="a vessel", seen_version=version
            )
    sign(journey, hurried, version, checked=_checked(journey, 3.0))


def _rejected(history: History) -> None:
    journey, ida = _drafted(history, "rejected", "1.1"), history.people["ida"]
    version = open_review(journey, ida)
    with unit_of_work(history.sessions, ida) as uow:
        lifecycle.reject(uow, journey.report().id, reason="on the left", code="WRONG_SIDE", seen_version=version)


def _late_proof(history: History) -> None:
    """Signed by a proof of four minutes before, after 42 s of images."""
    journey, ida = _drafted(history, "late", "1.0"), history.people["ida"]
    version = decide_all(journey, ida, open_review(journey, ida))
    before = utcnow() - timedelta(minutes=4)
    sign(journey, ida, version, authenticated_at=before, checked=_checked(journey, 42.0))


def _never_opened(history: History) -> None:
    """A signature that no path of the program makes: as if somebody had written into the database."""
    journey, who = history.studies["incomplete"], history.people["max"]
    now = utcnow()
    forged = Signature(
        report_id=journey.report().id,
        user_id=who.user_id,
        printed_name="Dr max",
        meaning="forged",
        state=ReportState.FINAL,
        authenticated_at=now,
        signed_at=now,
        text_sha256="f" * 64,
    )
    with unit_of_work(history.sessions, WORKER) as uow:
        uow.session.add(forged)


def _looked_at(history: History) -> None:
    """A patient with an issuer: seen by two people, refused to one who then broke the glass, sent to one place."""
    journey = _begun(history, "patient", patient_id="P-77", issuer_of_patient_id="HOSP", accession_number="A-77")
    stranger = _begun(history, "namesake", patient_id="P-77", issuer_of_patient_id="CLINIC", accession_number="A-78")
    with history.as_person("ida", role="radiologist", address="10.0.0.5") as uow:
        uow.audit(AuditTag.IMAGES_VIEWED, study_id=journey.study_id, object_type="series", object_id="s1")
        uow.audit(AuditTag.IMAGES_VIEWED, study_id=stranger.study_id, object_type="series", object_id="s2")
    with history.as_person("ada", role="admin", address="10.0.0.9") as uow:
        uow.audit(AuditTag.ACCESS_REFUSED, outcome="failure", study_id=journey.study_id)
    with history.as_person("ada", role="admin", address="10.0.0.9") as uow:
        grant = break_glass(uow, journey.study_id, reason="patient collapsed in the hall", lasts_s=60)
    with history.as_person("ada", role="admin", address="10.0.0.9") as uow:
        detail = {"break_glass": str(grant.id)}
        uow.audit(AuditTag.BREAK_GLASS_USED, study_id=journey.study_id, detail=detail)
    with unit_of_work(history.sessions, Actor("node", "process")) as uow:
        detail = {"destination": "pacs"}
        uow.audit(AuditTag.DELIVERY_DELIVERED, study_id=journey.study_id, object_type="delivery", detail=detail)


def anchored(size: int) -> AuditAnchor:
    """A head that was put into a file."""
    return AuditAnchor(size=size, kind="file", anchored_at=utcnow(), outcome="success", target=f"{size}.head")


def counted(rows: list[dict[str, Any]], *names: str) -> Mapping[tuple[Any, ...], int]:
    """How many rows have each combination of values."""
    found: dict[tuple[Any, ...], int] = {}
    for row in rows:
        key = tuple(row[name] for name in names)
        found[key] = found.get(key, 0) + 1
    return found
