"""Patients as the RIS corrects them: updates and merges.

The bytes of an Instance stay as received; the identity columns follow the RIS. A draft that nobody signed is taken
back, and read again under the new identity; a signed report stays as it was signed, and is marked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import exists, select

from db.audit import AuditTag
from db.lifecycle.late import reopen
from db.lifecycle.moves import locked
from db.lifecycle.orders import attach, same_patient
from db.message_models import IdentityCorrection
from db.models import ImagingOrder, Reading, Study
from db.report_models import Report, Signature
from db.types import ReadingState, utcnow
from db.uow import UnitOfWork

_IDENTITY = ("patient_id", "issuer_of_patient_id", "patient_name", "patient_birth_date", "patient_sex")
# in these a draft exists, or a worker that has read the old identity is making one
_TAINTED = frozenset({ReadingState.RUNNING, ReadingState.DRAFTED})


@dataclass(frozen=True)
class PatientIdentity:
    """A patient as a message names one, in DICOM terms; empty: the message does not say."""

    patient_id: str
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""


def update_patient(uow: UnitOfWork, said: PatientIdentity, *, message_id: UUID | None = None) -> int:
    """Correct the Studies and orders of a patient; return how many Studies changed."""
    return _correct(uow, said.patient_id, said.issuer_of_patient_id, said, AuditTag.PATIENT_UPDATED, message_id)


def merge_patient(
    uow: UnitOfWork, gone: tuple[str, str], staying: PatientIdentity, *, message_id: UUID | None = None
) -> int:
    """Give the Studies and orders of one identifier to another patient; return how many Studies changed.

    Args:
        uow: the unit of work.
        gone: Patient ID and issuer that are no longer used.
        staying: the patient they belong to.
        message_id: of the message that says so.
    """
    return _correct(uow, *gone, staying, AuditTag.PATIENT_MERGED, message_id)


def _correct(
    uow: UnitOfWork, patient_id: str, issuer: str, said: PatientIdentity, tag: AuditTag, message_id: UUID | None
) -> int:
    orders = uow.session.scalars(select(ImagingOrder).where(ImagingOrder.patient_id == patient_id))
    for order in orders.all():
        if not issuer or not order.issuer_of_patient_id or order.issuer_of_patient_id == issuer:
            _write(order, _changes(order, said))
    corrected = 0
    found = select(Study.id).where(Study.patient_id == patient_id).order_by(Study.id)
    for study_id in uow.session.scalars(found).all():
        study = locked(uow, Study, study_id)
        changes = _changes(study, said) if same_patient(study, patient_id, issuer) else {}
        if changes:
            _correct_study(uow, study, changes, tag, message_id)
            corrected += 1
    return corrected


def _changes(row: Study | ImagingOrder, said: PatientIdentity) -> dict[str, str]:
    """Return what a row would have to say instead; names that differ in upper and lower case only are the same."""
    changes = {}
    for name in _IDENTITY:
        now, then = str(getattr(row, name)), str(getattr(said, name))[: _room(name)]
        if then and now != then and not (name == "patient_name" and _same_name(now, then)):
            changes[name] = then
    return changes


def _room(name: str) -> int:
    length = getattr(Study.__table__.c[name].type, "length", None)
    assert isinstance(length, int)
    return length


def _same_name(one: str, other: str) -> bool:
    """Return whether two PN values agree in every component group that both have."""
    pairs = zip(one.split("="), other.split("="), strict=False)
    return all(_folded(a) == _folded(b) for a, b in pairs)


def _folded(group: str) -> str:
    return group.rstrip("^ ").casefold()


def _write(row: Study | ImagingOrder, changes: Mapping[str, str]) -> None:
    for name, value in changes.items():
        setattr(row, name, value)


def _correct_study(
    uow: UnitOfWork, study: Study, changes: Mapping[str, str], tag: AuditTag, message_id: UUID | None
) -> None:
    before = {name: getattr(study, name) for name in _IDENTITY}
    _write(study, changes)
    signed = bool(
        uow.session.scalar(select(exists().where(Signature.report_id == Report.id, Report.study_id == study.id)))
    )
    kept = uow.session.get(IdentityCorrection, study.id)
    if kept is None:
        kept = IdentityCorrection(study_id=study.id, as_received=before)
        uow.session.add(kept)
    kept.message_id, kept.corrected_at = message_id, utcnow()
    kept.after_signing = bool(kept.after_signing) or signed
    detail = {"changed": sorted(changes), "signed": signed}
    if tag is AuditTag.PATIENT_MERGED:
        detail |= {"gone": before["patient_id"], "stays": study.patient_id}
    uow.audit(tag, study_id=study.id, object_type="patient", object_id=study.patient_id, detail=detail)
    uow.session.flush()
    attach(uow, study)
    if not signed and not study.is_prior and _is_tainted(uow, study):
        reopen(uow, study.id, because="the patient's identity was corrected")


def _is_tainted(uow: UnitOfWork, study: Study) -> bool:
    """Return whether there is, or will be, a draft made under the old identity."""
    standing = select(Reading.state).where(Reading.study_id == study.id, Reading.superseded.is_(False))
    return any(state in _TAINTED for state in uow.session.scalars(standing))
