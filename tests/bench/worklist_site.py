"""A hospital's worklist for the benchmark: many Studies in every state, made by plain inserts."""

import random
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, bindparam, insert, update

from db.models import Base, Delivery, Reading, ResultObject, Study
from db.report_models import Draft, Finding, Report, Signature
from db.types import DeliveryState, Presence, Priority, ReadingState, ReportState, utcnow
from db.worklist_models import Assignment

CHUNK = 2000
SEED = 20261122
# of 1000 Studies; the rest is signed, as in a hospital that has run for a while
SHARES: Mapping[ReportState, int] = {
    ReportState.DRAFTED: 30,
    ReportState.IN_REVIEW: 3,
    ReportState.PRELIMINARY: 7,
    ReportState.REJECTED: 10,
    ReportState.UNREAD: 25,
}
_ENDS = ("en", "vorsen", "gmann", "dqvist", "tangen")
FAMILIES = tuple(f"{a}{b}" for a in ("Ols", "Hal", "Ber", "Lun", "Dah", "Str", "Vik", "Nyg") for b in _ENDS)
MODALITIES = ("CT", "CT", "CT", "DX", "DX", "DX", "CR", "MR", "MR", "US")
_DRAFTED = {ReportState.DRAFTED, ReportState.IN_REVIEW, ReportState.PRELIMINARY, ReportState.FINAL}
_UNREAD = (ReadingState.QUEUED, ReadingState.NO_DRAFT, ReadingState.NO_DRAFT, ReadingState.FAILED)


def fill(engine: Engine, reader: UUID, studies: int) -> None:
    """Put ``studies`` Studies with their Readings, Reports, drafts and findings into a migrated database."""
    random.seed(SEED)
    for start in range(0, studies, CHUNK):
        made = list(_studies(start, min(CHUNK, studies - start), studies, reader))
        with engine.begin() as connection:
            for model in (Study, Reading, Draft, Finding, Report, Signature, Assignment, ResultObject, Delivery):
                _insert(connection, model, [row for one in made for row in one.get(model, ())])
            moved = [one["move"] for one in made if one["move"]["to"] is not ReportState.UNREAD]
            connection.execute(
                update(Report.__table__)
                .where(Report.__table__.c.id == bindparam("key"))
                .values(state=bindparam("to"), locked_by=bindparam("holder"), suspected_critical=bindparam("critical")),
                moved,
            )
    with engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")


def _insert(connection: Connection, model: type[Base], rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(model), rows)


def _studies(start: int, count: int, of: int, reader: UUID) -> Iterator[dict[Any, Any]]:
    for number in range(start, start + count):
        yield _one(number, utcnow() - timedelta(minutes=(of - number) * 3), reader)


def _one(number: int, at: datetime, reader: UUID) -> dict[Any, Any]:
    state = _state(number)
    keys = {name: UUID(int=random.getrandbits(128), version=4) for name in ("study", "reading", "report", "draft")}
    priority = random.choices((Priority.STAT, Priority.URGENT, Priority.ROUTINE), (3, 12, 85))[0]
    critical = random.random() < 0.05
    rows: dict[Any, Any] = {
        Study: [_study(number, keys["study"], at)],
        Reading: [_reading(keys, state, priority, at)],
        Report: [{"id": keys["report"], "study_id": keys["study"], "sections": {}, "draft_id": None}],
        "move": {"key": keys["report"], "to": state, "critical": critical, "holder": None},
    }
    if state in _DRAFTED:
        rows[Draft] = [_draft(keys)]
        rows[Finding] = [_finding(keys["draft"], index) for index in range(random.randrange(4))]
        rows[Report][0]["draft_id"] = keys["draft"]
    if state is ReportState.IN_REVIEW:
        rows["move"]["holder"] = reader
    if state in {ReportState.FINAL, ReportState.PRELIMINARY}:
        rows[Signature] = [_signature(keys["report"], reader, state, at)]
    if state in {ReportState.DRAFTED, ReportState.UNREAD} and random.random() < 0.3:
        rows[Assignment] = [{"report_id": keys["report"], "user_id": reader, "assigned_by": reader}]
    if state is ReportState.FINAL and random.random() < 0.1:
        rows |= _sent(keys)
    return rows


def _state(number: int) -> ReportState:
    place = number * 617 % 1000
    for state, share in SHARES.items():
        if place < share:
            return state
        place -= share
    return ReportState.FINAL


def _study(number: int, key: UUID, at: datetime) -> dict[str, Any]:
    modality = "NM" if number % 1000 == 999 else random.choice(MODALITIES)  # a rare one
    return {
        "id": key,
        "study_instance_uid": f"1.2.826.0.1.3680043.10.99.{number}",
        "patient_id": f"P-{number // 3:06d}",
        "issuer_of_patient_id": "",
        "patient_name": f"{random.choice(FAMILIES)}^Nr{number}",
        "patient_birth_date": f"{random.randrange(1930, 2015)}0{random.randrange(1, 10)}11",
        "patient_sex": random.choice("FM"),
        "accession_number": f"ACC{number:07d}",
        "study_date": f"{at:%Y%m%d}",
        "study_time": f"{at:%H%M%S}",
        "study_description": f"{modality} examination",
        "modalities": modality,
        "body_part": random.choice(("CHEST", "HEAD", "ABDOMEN")),
        "calling_ae": f"SCANNER{number % 12}",
        "instance_count": random.randrange(1, 400),
        "first_received_at": at,
        "last_received_at": at,
        "is_prior": number % 100 == 57,
    }


def _reading(keys: Mapping[str, UUID], state: ReportState, priority: Priority, at: datetime) -> dict[str, Any]:
    stands = random.choice(_UNREAD) if state is ReportState.UNREAD else ReadingState.DRAFTED
    return {
        "id": keys["reading"],
        "study_id": keys["study"],
        "pipeline_version": "firstread",
        "state": stands,
        "reason": "the input is not supported" if stands is ReadingState.NO_DRAFT else "",
        "priority": priority,
        "rule_trace": [],
        "created_at": at,
    }


def _draft(keys: Mapping[str, UUID]) -> dict[str, Any]:
    return {
        "id": keys["draft"],
        "reading_id": keys["reading"],
        "study_id": keys["study"],
        "sections": {"findings": "None."},
        "not_assessed": [],
        "marks": [],
        "image_set_sha256": "0" * 64,
        "provenance": {},
    }


def _finding(draft_id: UUID, index: int) -> dict[str, Any]:
    return {
        "draft_id": draft_id,
        "position": index,
        "label": "nodule",
        "presence": random.choice((Presence.PRESENT, Presence.ABSENT)),
        "source": "expert",
        "measurements": [],
        "key_slice": {},
    }


def _signature(report_id: UUID, reader: UUID, state: ReportState, at: datetime) -> dict[str, Any]:
    return {
        "report_id": report_id,
        "user_id": reader,
        "printed_name": "Maria Lund",
        "meaning": "I have read the images.",
        "state": state,
        "authenticated_at": at,
        "signed_at": at + timedelta(minutes=1),
        "text_sha256": "0" * 64,
    }


def _sent(keys: Mapping[str, UUID]) -> dict[Any, Any]:
    made = UUID(int=random.getrandbits(128), version=4)
    result = {
        "id": made,
        "study_id": keys["study"],
        "kind": "signed_sr",
        "sop_instance_uid": f"2.25.{made.int}",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.33",
        "sha256": "0" * 64,
        "path": "x",
    }
    state = DeliveryState.FAILED if random.random() < 0.01 else DeliveryState.DELIVERED
    sent = {"result_object_id": made, "destination": "PACS", "state": state}
    return {ResultObject: [result], Delivery: [sent]}
