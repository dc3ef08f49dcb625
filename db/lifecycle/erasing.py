"""Erasing what the audit log says about one patient, as a law may demand, without touching the chain.

Gone are the values kept apart (``audit_private``) and the keys of their digests, of every event of the patient's
Studies and of those that name the patient, an accession number or an order of theirs; with ``identities`` also the
identity columns of Studies and orders whose pixel data are deleted. What stays is the record itself: who did what to
which Study (by our own number), when. Images, reports, messages and workitems are kept or deleted by other rules
(docs/operations.md).
"""

import hmac
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import and_, delete, insert, or_, select

from config.errors import LifecycleError, RefusedInputError
from db.audit import AuditTag
from db.audit_erasure_models import AuditErasure
from db.lifecycle.audit_archives import held_studies
from db.message_models import IdentityCorrection
from db.models import AuditEvent, AuditPrivate, ImagingOrder, Reading, Study
from db.report_models import Report
from db.uow import UnitOfWork
from db.workitem_models import Workitem

MAX_WORDS = 400  # characters of a reason, and of an authority
_AT_ONCE = 500  # rows of one statement
_OF_STUDY = (
    "patient_id", "issuer_of_patient_id", "patient_name", "patient_birth_date", "patient_sex", "accession_number",
    "referring_physician",
)  # fmt: skip
_OF_ORDER = (
    "patient_id", "issuer_of_patient_id", "patient_name", "patient_birth_date", "patient_sex", "indication",
    "visit_number", "patient_location",
)  # fmt: skip


@dataclass(frozen=True)
class Erasing:
    """Whose values go, why, and by what authority: a patient by identifier and issuer, or one Study by its UID."""

    reason: str
    authority: str
    patient_id: str = ""
    issuer: str = ""
    study_instance_uid: str = ""
    identities: bool = False


@dataclass(frozen=True)
class Erased:
    """What an erasure did.

    Attributes:
        erasure_id: names it in ``audit:erased`` and in ``audit_erasure``.
        key: of the digests of patient and reason in the event, hex; kept nowhere, so whoever has it, and nobody
            else, can show later whose erasure it was.
        left: Studies with the same identifier, but of another issuer or of none: not erased.
    """

    erasure_id: UUID
    key: str
    events: int
    studies: int
    orders: int
    left: int


def erase(uow: UnitOfWork, wanted: Erasing) -> Erased:
    """Erase, and record the erasure in the same transaction.

    Raises:
        LifecycleError: a legal hold stands on one of the Studies, or identities are to go while images are kept.
        RefusedInputError: neither or both of patient and Study, no reason, no authority, or nothing to erase.
    """
    reason, authority = _words(wanted.reason, "reason"), _words(wanted.authority, "authority")
    studies, left = _studies(uow, wanted)
    orders = _orders(uow, wanted, studies)
    _require_erasable(uow, studies, wanted)
    numbers = _events(uow, studies, orders, wanted)
    if not (numbers or studies or orders):
        raise RefusedInputError("the record has nothing about this patient or study")
    made = Erased(uuid4(), secrets.token_hex(32), len(numbers), len(studies), len(orders), left)
    _remove(uow, made.erasure_id, numbers)
    if wanted.identities:
        _blank(uow, studies, orders)
    who = ["study", wanted.study_instance_uid] if wanted.study_instance_uid else [wanted.patient_id, wanted.issuer]
    uow.audit(
        AuditTag.AUDIT_ERASED,
        object_type="erasure",
        object_id=str(made.erasure_id),
        detail={
            "authority": authority,
            "events": made.events,
            "studies": made.studies,
            "orders": made.orders,
            "identities": wanted.identities,
            "subject_digest": receipt_digest(made.key, who),
            "reason_digest": receipt_digest(made.key, [reason]),
        },
    )
    return made


def receipt_digest(key: str, words: Iterable[str]) -> str:
    """Return the digest of a patient (identifier, issuer), a Study ("study", UID) or a reason, as an erasure has it."""
    return hmac.digest(bytes.fromhex(key), "\n".join(words).encode("utf-8"), "sha256").hex()


def _words(text: str, what: str) -> str:
    words = " ".join(text.split())
    if not words or len(words) > MAX_WORDS:
        raise RefusedInputError(f"an erasure needs its {what}, of 1 to {MAX_WORDS} characters")
    return words


def _studies(uow: UnitOfWork, wanted: Erasing) -> tuple[list[Study], int]:
    """Return the Studies meant, locked, and how many carry the identifier under another issuer."""
    if bool(wanted.patient_id) is bool(wanted.study_instance_uid):
        raise RefusedInputError("an erasure is of a patient, or of one study")
    column, value = (
        (Study.study_instance_uid, wanted.study_instance_uid)
        if wanted.study_instance_uid
        else (Study.patient_id, wanted.patient_id)
    )
    found = list(uow.session.scalars(select(Study).where(column == value).order_by(Study.id).with_for_update()))
    meant = [one for one in found if wanted.study_instance_uid or one.issuer_of_patient_id == wanted.issuer]
    return meant, len(found) - len(meant)


def _orders(uow: UnitOfWork, wanted: Erasing, studies: Sequence[Study]) -> list[ImagingOrder]:
    """Return the orders of the Studies; of a patient, also those without one."""
    chosen = ImagingOrder.id.in_([one.order_id for one in studies if one.order_id])
    mine = and_(ImagingOrder.patient_id == wanted.patient_id, ImagingOrder.issuer_of_patient_id == wanted.issuer)
    query = select(ImagingOrder).where(or_(chosen, mine) if wanted.patient_id else chosen)
    return list(uow.session.scalars(query.order_by(ImagingOrder.id)))


def _require_erasable(uow: UnitOfWork, studies: Sequence[Study], wanted: Erasing) -> None:
    held = held_studies(uow.session, [one.id for one in studies])
    if held:
        raise LifecycleError(f"a legal hold stands on {len(held)} of {len(studies)} studies: nothing was erased")
    if wanted.identities and any(one.pixels_deleted_at is None for one in studies):
        raise LifecycleError("identities go only when the pixel data are deleted: images would still name the patient")


def _events(uow: UnitOfWork, studies: Sequence[Study], orders: Sequence[ImagingOrder], wanted: Erasing) -> list[int]:
    """Return the numbers of the events whose values go."""
    ids = [one.id for one in studies]
    numbers = set(uow.session.scalars(select(AuditPrivate.seq).where(AuditPrivate.study_id.in_(ids))))
    related = [
        AuditEvent.reading_id.in_(select(Reading.id).where(Reading.study_id.in_(ids))),
        AuditEvent.report_id.in_(select(Report.id).where(Report.study_id.in_(ids))),
        AuditEvent.object_id.in_(list(_named_objects(uow, studies, orders))),
    ]
    for condition in related:
        query = select(AuditPrivate.seq).join(AuditEvent, AuditEvent.seq == AuditPrivate.seq).where(condition)
        numbers |= set(uow.session.scalars(query.where(AuditPrivate.study_id.is_(None))))
    numbers |= set(_naming(uow, _names(studies, orders, wanted)))
    return sorted(numbers)


def _named_objects(uow: UnitOfWork, studies: Sequence[Study], orders: Sequence[ImagingOrder]) -> Iterator[str]:
    yield from (str(one.id) for one in orders)
    uids = [one.study_instance_uid for one in studies]
    yield from uow.session.scalars(select(Workitem.uid).where(Workitem.study_instance_uid.in_(uids)))


def _names(studies: Sequence[Study], orders: Sequence[ImagingOrder], wanted: Erasing) -> frozenset[str]:
    """Return what names the patient, or is found by, in an event that says nothing of a Study."""
    words = {wanted.patient_id, *(one.accession_number for one in studies), *(one.accession_number for one in orders)}
    words |= {one.placer_order_number for one in orders}
    if wanted.patient_id:
        words |= {one.patient_name for one in studies} | {one.patient_name for one in orders}
    return frozenset(words - {""})


def _naming(uow: UnitOfWork, names: frozenset[str]) -> Iterator[int]:
    """Yield the events of no Study that say one of these; not those about another's order or workitem.

    What was archived, and is no longer in the table, is judged by its words alone.
    """
    query = (
        select(AuditPrivate.seq, AuditPrivate.content)
        .join(AuditEvent, AuditEvent.seq == AuditPrivate.seq, isouter=True)
        .where(AuditPrivate.study_id.is_(None))
        .where(or_(AuditEvent.seq.is_(None), AuditEvent.object_type.not_in(("order", "workitem"))))
    )
    for seq, content in uow.session.execute(query.execution_options(yield_per=1000)):
        if any(word in names for word in _texts(content)):
            yield seq


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, str):
        yield value


def _remove(uow: UnitOfWork, erasure_id: UUID, numbers: Sequence[int]) -> None:
    waiting = iter(numbers)
    while chunk := list(islice(waiting, _AT_ONCE)):
        uow.session.execute(insert(AuditErasure), [{"seq": seq, "erasure_id": erasure_id} for seq in chunk])
        uow.session.execute(delete(AuditPrivate).where(AuditPrivate.seq.in_(chunk)))


def _blank(uow: UnitOfWork, studies: Sequence[Study], orders: Sequence[ImagingOrder]) -> None:
    rows: list[tuple[Study | ImagingOrder, Sequence[str]]] = [*((one, _OF_STUDY) for one in studies)]
    rows += [(one, _OF_ORDER) for one in orders]
    for row, names in rows:
        for name in names:
            setattr(row, name, "")
    corrections = delete(IdentityCorrection).where(IdentityCorrection.study_id.in_([one.id for one in studies]))
    uow.session.execute(corrections)
