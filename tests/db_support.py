"""What the database tests share: actors, and one Study taken to any point of its journey."""

import hashlib
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from config.routing import RoutingVerdict
from db import lifecycle
from db.lifecycle import Claim, InstanceHeader, NewDraft, NewEvidence, NewFinding, NewObject, Received
from db.lifecycle.checking import Checked
from db.lifecycle.review import text_sha256
from db.models import AuditEvent, Delivery, OutboxMessage, Reading, Study
from db.queries import image_set_sha256
from db.report_models import Amendment, Finding, Report, Signature, UserAccount
from db.types import Decision, Presence, ReportState, Role, utcnow
from db.uow import Actor, unit_of_work

Sessions = sessionmaker[Session]
SCANNER = Actor("SCANNER", "peer")
SWEEPER = Actor("sweeper", "process")
WORKER = Actor("worker", "process")
SENDER = Actor("node", "process")
DRAFT = RoutingVerdict("draft", profile="chest-ct", rule="ct-chest", trace=[{"rule": "ct-chest", "matched": True}])
HEADER = InstanceHeader(
    study_instance_uid="1.2.826.0.1",
    series_instance_uid="1.2.826.0.1.1",
    sop_instance_uid="1.2.826.0.1.1.1",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    patient_id="P-1",
    patient_name="Doe^Jane",
    accession_number="A-1",
    modality="CT",
    body_part="CHEST",
)


def header(number: int, study: str = "1.2.826.0.1", **changes: Any) -> InstanceHeader:
    """The header of the ``number``-th Instance of a Study."""
    uids = {
        "study_instance_uid": study,
        "series_instance_uid": f"{study}.1",
        "sop_instance_uid": f"{study}.1.{number}",
        "instance_number": number,
    }
    return replace(HEADER, **(uids | changes))


def receive(sessions: Sessions, head: InstanceHeader, *, sha256: str | None = None, **changes: Any) -> Received:
    """Index one Instance; its hash follows from its UID unless given."""
    facts: dict[str, Any] = {"calling_ae": "SCANNER", "called_ae": "FIRSTREAD", "quiet_s": 0.0, "size_bytes": 100}
    digest = sha256 or hashlib.sha256(head.sop_instance_uid.encode()).hexdigest()
    with unit_of_work(sessions, SCANNER) as uow:
        return lifecycle.receive_instance(
            uow, head, path=f"{head.sop_instance_uid}.dcm", sha256=digest, **(facts | changes)
        )


def receiving(sessions: Sessions, study_id: UUID) -> UUID:
    """The Reading of a Study's newest revision."""
    with sessions() as session:
        query = select(Reading.id).where(Reading.study_id == study_id, Reading.superseded.is_(False))
        return session.scalars(query).one()


@dataclass
class Journey:
    """One Study on its way; each step returns the journey."""

    sessions: Sessions
    study_id: UUID
    reading_id: UUID
    claim: Claim | None = None
    draft_id: UUID | None = None

    @property
    def held(self) -> Claim:
        """The claim taken last."""
        assert self.claim is not None
        return self.claim

    def reading(self) -> Reading:
        """The Reading as it is now."""
        with self.sessions() as session:
            return session.get_one(Reading, self.reading_id)

    def report(self) -> Report:
        """The Report as it is now."""
        with self.sessions() as session:
            return session.scalars(select(Report).where(Report.study_id == self.study_id)).one()

    def study(self) -> Study:
        """The Study as it is now."""
        with self.sessions() as session:
            return session.get_one(Study, self.study_id)

    def findings(self) -> list[Finding]:
        """The findings of the report's draft."""
        with self.sessions() as session:
            query = select(Finding).join(Report, Report.draft_id == Finding.draft_id)
            return list(session.scalars(query.where(Report.study_id == self.study_id).order_by(Finding.position)))

    def queued(self, verdict: RoutingVerdict = DRAFT) -> "Journey":
        """Complete the Study and judge it."""
        with unit_of_work(self.sessions, SWEEPER) as uow:
            lifecycle.complete(uow, self.reading_id, verdict)
        return self

    def running(self, *, owner: str = "w1", lease_s: float = 60.0) -> "Journey":
        """Take it."""
        with unit_of_work(self.sessions, WORKER) as uow:
            self.claim = lifecycle.claim(uow, self.reading_id, owner=owner, lease_s=lease_s)
        assert self.claim is not None
        return self

    def drafted(self, **changes: Any) -> "Journey":
        """Keep a draft with one finding that is present and one that is absent."""
        with unit_of_work(self.sessions, WORKER) as uow:
            self.draft_id = lifecycle.drafted(uow, self.held, new_draft(self.held, **changes))
        return self


def received(sessions: Sessions, study: str = "1.2.826.0.1", images: int = 2, **changes: Any) -> Journey:
    """A Study of some images that is still RECEIVING."""
    results = [receive(sessions, header(number, study, **changes)) for number in range(1, images + 1)]
    return Journey(sessions, results[0].study_id, receiving(sessions, results[0].study_id))


def new_draft(claim: Claim, **changes: Any) -> NewDraft:
    """A draft of the claimed images."""
    draft = NewDraft(
        sections={"findings": "A nodule.", "impression": "Nodule."},
        image_set_sha256=claim.image_set_sha256,
        pipeline_version="1.0",
        findings=[
            NewFinding("nodule", Presence.PRESENT, "CXR", score=0.9, evidence_index=0),
            NewFinding("effusion", Presence.ABSENT, "CXR", score=0.1, evidence_index=0),
        ],
        evidence=[NewEvidence("CXR", version="1", weights_sha256={"model.pt": "0" * 64}, seconds=0.5)],
        objects=[an_object("DRAFT_SR"), an_object("SEG")],
    )
    names = changes.pop("destinations", ["pacs"])
    draft = replace(draft, **changes)
    return replace(draft, objects=[replace(one, destinations=one.destinations or names) for one in draft.objects])


def an_object(kind: str = "SIGNED_SR", **changes: Any) -> NewObject:
    """A result object with a UID of its own."""
    made = NewObject(
        kind=kind,
        sop_instance_uid=f"2.25.{uuid4().int}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.22",
        sha256=uuid4().hex * 2,
        path=f"{kind.lower()}.dcm",
    )
    return replace(made, **changes)


def person(sessions: Sessions, login: str = "reader", role: Role = Role.RADIOLOGIST, **changes: Any) -> Actor:
    """An account, as the Actor it logs in as; the printed name is ``Dr <login>``."""
    key = uuid4()
    values: dict[str, Any] = {"password_hash": "x", "printed_name": f"Dr {login}"}
    with unit_of_work(sessions, SWEEPER) as uow:
        uow.session.add(UserAccount(id=key, login=login, role=role, **(values | changes)))
    return Actor(login, "person", key)


def open_review(journey: Journey, reader: Actor, *, take_over: bool = False) -> int:
    """Open the report for a reader; return the version to edit."""
    with unit_of_work(journey.sessions, reader) as uow:
        return lifecycle.open_review(uow, journey.report().id, take_over=take_over)


def decide_all(journey: Journey, reader: Actor, version: int) -> int:
    """Accept every finding; return the version to sign."""
    for finding in journey.findings():
        with unit_of_work(journey.sessions, reader) as uow:
            version = lifecycle.decide_finding(
                uow, journey.report().id, finding.id, Decision.ACCEPTED, seen_version=version
            )
    return version


def sign(journey: Journey, reader: Actor, version: int, **changes: Any) -> Signature:
    """Sign as FINAL with a fresh authentication unless told otherwise."""
    now = utcnow()
    values: dict[str, Any] = {
        "state": ReportState.FINAL,
        "meaning": "I reviewed the images and agree",
        "printed_name": f"Dr {reader.name}",
        "authenticated_at": now - timedelta(seconds=10),
        "seen_version": version,
        "objects": [an_object()],
        "signed_at": now,
        "signature_id": uuid4(),
        "checked": Checked(text_sha256(journey.report().sections), "1"),
    }
    names = changes.pop("destinations", ["pacs"])
    objects = changes.pop("objects", values["objects"])
    values["objects"] = [replace(one, destinations=one.destinations or names) for one in objects]
    with unit_of_work(journey.sessions, reader) as uow:
        return lifecycle.sign(uow, journey.report().id, **(values | changes))


def act(journey: Journey, reader: Actor, **changes: Any) -> lifecycle.Amending:
    """A fresh act of amending the report as it is now, with the images there are."""
    now = utcnow()
    with journey.sessions() as session:
        seen = image_set_sha256(session, journey.study_id)
    values: dict[str, Any] = {
        "signature_id": uuid4(),
        "meaning": "I am the author of this change",
        "printed_name": f"Dr {reader.name}",
        "authenticated_at": now - timedelta(seconds=10),
        "signed_at": now,
        "seen_version": journey.report().version,
        "seen_images": seen,
        "objects": [an_object()],
        "checked": Checked("", "1"),
    }
    return lifecycle.Amending(**(values | changes))


def _checked(journey: Journey, sections: dict[str, str], added: str = "") -> Checked:
    """The answer of a linter that found nothing in the text as it will be signed."""
    with journey.sessions() as session:
        query = select(Amendment.text).where(Amendment.state == ReportState.ADDENDED).order_by(Amendment.number)
        addenda = [*session.scalars(query.where(Amendment.report_id == journey.report().id)), *([added] * bool(added))]
    return Checked(text_sha256(lifecycle.with_addenda(sections, addenda)), "1")


def addend(journey: Journey, reader: Actor, text: str = "Seen again.", **changes: Any) -> Signature:
    """Sign an addendum with a fresh authentication unless told otherwise."""
    changes = {"checked": _checked(journey, journey.report().sections, text)} | changes
    with unit_of_work(journey.sessions, reader) as uow:
        return lifecycle.addend(uow, journey.report().id, text, act(journey, reader, **changes))


def correct(journey: Journey, reader: Actor, reason: str = "Wrong side.", **changes: Any) -> Signature:
    """Sign a corrected impression, or other ``sections``."""
    sections = changes.pop("sections", {"impression": "Nodule on the left."})
    changes = {"checked": _checked(journey, journey.report().sections | sections)} | changes
    with unit_of_work(journey.sessions, reader) as uow:
        return lifecycle.correct(uow, journey.report().id, sections, reason, act(journey, reader, **changes))


def tags(sessions: Sessions, **columns: Any) -> list[str]:
    """The tags of the audit events with these column values, in their order."""
    with sessions() as session:
        query = select(AuditEvent.tag).filter_by(**columns).order_by(AuditEvent.seq)
        return list(session.scalars(query))


def messages(sessions: Sessions) -> list[dict[str, str]]:
    """The arguments of the messages that wait in the outbox."""
    with sessions() as session:
        query = select(OutboxMessage.arguments).where(OutboxMessage.published_at.is_(None)).order_by(OutboxMessage.id)
        return list(session.scalars(query))


def delivery_states(sessions: Sessions) -> list[str]:
    """The states of all Deliveries, sorted."""
    with sessions() as session:
        return sorted(state.value for state in session.scalars(select(Delivery.state)))
