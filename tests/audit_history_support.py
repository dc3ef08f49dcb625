"""A small history of a department, on each database, whose answers to audit questions are known from its script.

Seven studies, A to G, each with a nodule that the AI calls present and an effusion that it calls absent:

A  F 1958, GE Revolution, SCANNER, model 1.0: both kept, signed final, delivered and committed, later an addendum
B  M 1980, Siemens Force, SITE2, model 1.0: both refused, signed over a warning, delivery given up, later corrected
C  F 1958, GE Revolution, SCANNER, model 1.0: critical, told by phone and read back; opened, never signed
D  M 1980, GE Revolution, SCANNER, model 2.0: refused as a whole; critical, escalated, nobody was told
E  F 1990, GE Revolution, SITE2, model 2.0: failed, read again, drafted; its report waits
F  M 1980, Siemens Force, SCANNER, model 1.0: both kept, signed final; one more image came afterwards
G  F 1958, GE Revolution, SCANNER, model 2.0: drafted; one more image came before anybody opened it
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, select

from config.critical_settings import CriticalSettings
from config.node_settings import Peer
from db import lifecycle, packages, peers, users
from db.audit import AuditTag
from db.engine import make_engine, make_sessions
from db.lifecycle import critical, model_switching
from db.lifecycle.breaking import break_glass
from db.lifecycle.checking import Checked
from db.lifecycle.commitments import CommitmentAnswer, Patience, order_commitment, take_answer
from db.lifecycle.critical_clock import escalate_due
from db.lifecycle.outcomes import note_outcomes
from db.lifecycle.queueing import process_again
from db.lifecycle.review import text_sha256
from db.lifecycle.viewing import count_view, open_view
from db.models import ResultObject
from db.queries.audit import named
from db.queries.audit.asking import Asked, ask
from db.types import Decision, PackageKind, Role, utcnow
from db.uow import Actor, unit_of_work
from tests.critical_support import alerts, said
from tests.db_support import (
    SENDER,
    SWEEPER,
    WORKER,
    Journey,
    Sessions,
    addend,
    an_object,
    correct,
    decide_all,
    header,
    open_review,
    person,
    receive,
    receiving,
    sign,
)

WEIGHTS = {"1.0": "1" * 64, "2.0": "2" * 64}
GE, SIEMENS = ("GE", "Revolution"), ("Siemens", "Force")
WARNING = {
    "rule": "left-right", "severity": "warning", "words": "left", "section": "impression", "start": 0, "end": 4,
    "finding": "", "reason": "The side was checked twice",
}  # fmt: skip


@dataclass
class History:
    """The history; ``studies`` are its studies by letter."""

    sessions: Sessions
    studies: dict[str, Journey] = field(default_factory=dict)
    people: dict[str, Actor] = field(default_factory=dict)
    package_id: UUID | None = None

    def ask(self, name: str, *, limit: int = 100, cursor: str = "", **given: str) -> Asked:
        """Ask a question."""
        question = named(name)
        assert question is not None
        with self.sessions() as session:
            return ask(session, question, given, limit=limit, cursor=cursor)

    def rows(self, name: str, **given: str) -> list[dict[str, Any]]:
        """Return the whole answer as rows by column name, read in pages of two."""
        found: list[dict[str, Any]] = []
        cursor, first = "", True
        while first or cursor:
            asked = self.ask(name, limit=2, cursor=cursor, **given)
            assert len(asked.rows) <= 2
            names = [one.name for one in asked.question.columns]
            found += [dict(zip(names, row, strict=True)) for row in asked.rows]
            cursor, first = asked.next_cursor, False
        return found

    def facts(self, name: str, **given: str) -> dict[str, Any]:
        """Return what stands above the first page."""
        return dict(self.ask(name, **given).facts)

    def letters(self, rows: list[dict[str, Any]]) -> list[str]:
        """Return the letters of the rows' studies, in their order."""
        known = {one.study_id: letter for letter, one in self.studies.items()}
        return [known[row["study_id"]] for row in rows]


def each_engine(request: pytest.FixtureRequest, folder: Any) -> Iterator[Engine]:
    """Yield an engine on a migrated database of its own, of the kind ``request.param`` says."""
    if request.param == "sqlite":
        path = folder / "firstread.db"
        path.write_bytes(request.getfixturevalue("_migrated_file").read_bytes())
        engine = make_engine(f"sqlite:///{path}")
    else:
        server = request.getfixturevalue("postgres_server")
        name = f"t_{uuid4().hex}"
        server.create(name, template="firstread_template")
        engine = make_engine(server.url(name))
    yield engine
    engine.dispose()


def make_history(engine: Engine) -> History:
    """Let the department work."""
    made = History(make_sessions(engine))
    for login, role in (
        ("reader", Role.RADIOLOGIST), ("second", Role.RADIOLOGIST), ("alice", Role.LEAD), ("bob", Role.LEAD),
        ("vera", Role.VIEWER), ("root", Role.ADMIN),
    ):  # fmt: skip
        made.people[login] = person(made.sessions, login, role)
    _switch_model(made)
    _change_the_site(made)
    for letter, sex, born, scanner, site, version in (
        ("A", "F", "19580214", GE, "SCANNER", "1.0"), ("B", "M", "19800101", SIEMENS, "SITE2", "1.0"),
        ("C", "F", "19580214", GE, "SCANNER", "1.0"), ("D", "M", "19800101", GE, "SCANNER", "2.0"),
        ("E", "F", "19900101", GE, "SITE2", "2.0"), ("F", "M", "19800101", SIEMENS, "SCANNER", "1.0"),
        ("G", "F", "19580214", GE, "SCANNER", "2.0"),
    ):  # fmt: skip
        _draft(made, letter, {"patient_sex": sex, "patient_birth_date": born, "site": site}, scanner, version)
    _read(made)
    _tell(made)
    _deliver(made)
    _amend(made)
    _come_late(made)
    with unit_of_work(made.sessions, SWEEPER) as uow:
        assert note_outcomes(uow) == 4  # A, B, F signed, D refused
    return made


def _switch_model(made: History) -> None:
    """Alice proposes version 1.0, a worker compares its files, Bob approves."""
    alice, bob = made.people["alice"], made.people["bob"]
    new = packages.NewPackage(
        PackageKind.VLM, "demo-vlm", "1.0", "abc", "demo-vlm@1.0", "f" * 64, "Apache-2.0",
        packages.text_sha256("terms"),
        research_only=False, demonstration=True,
    )  # fmt: skip
    with unit_of_work(made.sessions, alice) as uow:
        packages.accept_licence(uow, package="demo-vlm", licence="Apache-2.0", text="terms")
        made.package_id = packages.add_package(uow, new, AuditTag.MODEL_IMPORTED, source="folder")
    with unit_of_work(made.sessions, alice) as uow:
        switch = model_switching.propose(uow, made.package_id, act="activate", reason="Better on nodules")
    with unit_of_work(made.sessions, WORKER) as uow:
        model_switching.verified(uow, switch, [])
    with unit_of_work(made.sessions, bob) as uow:
        model_switching.approve(uow, switch, answer="Agreed after the trial")


def _change_the_site(made: History) -> None:
    root = made.people["root"]
    with unit_of_work(made.sessions, root) as uow:
        users.set_role(uow, made.people["second"].user_id or uuid4(), Role.RESIDENT)
        users.set_role(uow, made.people["second"].user_id or uuid4(), Role.RADIOLOGIST)
        peers.add_peer(uow, Peer(ae_title="SITE2"))
    with unit_of_work(made.sessions, root) as uow:
        peers.remove_peers(uow, "SITE2")


def _draft(made: History, letter: str, facts: Mapping[str, str], scanner: tuple[str, str], version: str) -> None:
    uid = f"1.2.826.0.7.{ord(letter)}"
    told = dict(facts)
    site = told.pop("site")
    about = {
        "accession_number": f"{letter}-100", "patient_id": f"PAT-{letter}", "patient_name": f"Haldorsen^{letter}",
        "manufacturer": scanner[0], "manufacturer_model": scanner[1], "study_date": "20261101", **told,
    }  # fmt: skip
    results = [receive(made.sessions, header(number, uid, **about), calling_ae=site) for number in (1, 2)]
    journey = Journey(made.sessions, results[0].study_id, receiving(made.sessions, results[0].study_id))
    made.studies[letter] = journey
    journey.queued().running()
    if letter == "E":
        with unit_of_work(made.sessions, WORKER) as uow:
            lifecycle.fail(uow, journey.held, "the GPU fell off the bus")
        with unit_of_work(made.sessions, made.people["alice"]) as uow:
            process_again(uow, journey.reading_id)
        journey.running(owner="w2")
    model = {"role": "VLM", "name": "demo-vlm", "version": version, "weights_sha256": {"model.bin": WEIGHTS[version]}}
    record = {"models": [model], "pipeline_version": "1.0", "conversations": [{"prompt": f"Read {letter}, please."}]}
    journey.drafted(provenance=record, critical=("nodule",) if letter in "CD" else ())


def _read(made: History) -> None:
    reader, second, vera = (made.people[name] for name in ("reader", "second", "vera"))
    for letter in "AF":
        journey = made.studies[letter]
        version = open_review(journey, reader)
        _look(made, journey, reader, 20.0)
        sign(journey, reader, decide_all(journey, reader, version))
    refused = made.studies["B"]
    version = open_review(refused, reader)
    for finding in refused.findings():
        with unit_of_work(made.sessions, reader) as uow:
            version = lifecycle.decide_finding(
                uow, refused.report().id, finding.id, Decision.REJECTED, reason="Seen otherwise", seen_version=version
            )
    checked = Checked(text_sha256(refused.report().sections), "1", [WARNING], view_s=50.0)
    sign(refused, reader, version, checked=checked)
    version = open_review(made.studies["D"], second)
    with unit_of_work(made.sessions, second) as uow:
        lifecycle.reject(uow, made.studies["D"].report().id, reason="Text unusable", seen_version=version)
    open_review(made.studies["C"], second)
    with unit_of_work(made.sessions, vera) as uow:
        break_glass(uow, made.studies["A"].study_id, reason="My patient is in theatre now", lasts_s=600.0)


def _look(made: History, journey: Journey, reader: Actor, seconds: float) -> None:
    assert reader.user_id is not None
    with unit_of_work(made.sessions, reader) as uow:
        open_view(uow, journey.study_id, reader.user_id)
        count_view(uow, journey.study_id, reader.user_id, seconds)


def _tell(made: History) -> None:
    """C is confirmed and told; D is escalated, and nobody answers."""
    reader = made.people["reader"]
    told = next(one for one in alerts(made.sessions) if one.study_id == made.studies["C"].study_id)
    with unit_of_work(made.sessions, reader) as uow:
        critical.confirm(uow, told.id)
    with unit_of_work(made.sessions, reader) as uow:
        critical.record(uow, told.id, said())
    with unit_of_work(made.sessions, SWEEPER) as uow:
        assert escalate_due(uow, utcnow() + timedelta(hours=1), CriticalSettings(escalate_s=1.0)) == 1


def _deliver(made: History) -> None:
    """What A signed is stored and committed; what B signed is given up; everything else waits."""
    made_by = {letter: _signed_object(made, letter) for letter in "AB"}
    while True:
        with unit_of_work(made.sessions, SENDER) as uow:
            job = lifecycle.claim_delivery(uow, utcnow(), lease_s=60.0)
            if job is None:
                break
            if job.sop_instance_uid == made_by["A"].sop_instance_uid:
                lifecycle.delivered(uow, job.delivery_id)
            elif job.sop_instance_uid == made_by["B"].sop_instance_uid:
                lifecycle.delivery_failed(uow, job.delivery_id, "A700 out of resources", base_s=1.0, max_attempts=1)
            else:
                lifecycle.delivery_failed(uow, job.delivery_id, "busy", base_s=3600.0, max_attempts=99)
    with unit_of_work(made.sessions, SENDER) as uow:
        wanted = order_commitment(uow, "pacs", utcnow() + timedelta(hours=1), Patience(60.0, 3), at_most=9)
        assert wanted is not None
        answer = CommitmentAnswer(wanted.transaction_uid, wanted.references, {})
        take_answer(uow, answer, ["pacs"], Patience(60.0, 3), resend_s=60.0)
    with unit_of_work(made.sessions, SENDER) as uow:  # owed to nobody
        study = made.studies["A"]
        loose = an_object("KEY_IMAGES")
        values = {
            name: getattr(loose, name) for name in ("kind", "sop_instance_uid", "sop_class_uid", "sha256", "path")
        }
        uow.session.add(ResultObject(study_id=study.study_id, draft_id=study.draft_id, **values))


def _signed_object(made: History, letter: str) -> ResultObject:
    with made.sessions() as session:
        query = select(ResultObject).where(
            ResultObject.study_id == made.studies[letter].study_id, ResultObject.signature_id.is_not(None)
        )
        return session.scalars(query).one()


def _amend(made: History) -> None:
    addend(made.studies["A"], made.people["second"], "A fracture of the seventh rib was overlooked.")
    correct(made.studies["B"], made.people["reader"], "Wrong side.")


def _come_late(made: History) -> None:
    for letter in "FG":
        uid = f"1.2.826.0.7.{ord(letter)}"
        late = header(3, uid, accession_number=f"{letter}-100", patient_id=f"PAT-{letter}")
        receive(made.sessions, replace(late, patient_name=f"Haldorsen^{letter}"))
