"""A critical result: opened by a draft or a person, confirmed or dismissed by a radiologist, told to somebody."""

from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import func, select

from config.errors import LifecycleError, RefusedInputError
from db.audit import AuditTag
from db.critical_models import OPEN_ALERTS, AlertState, CriticalAlert, CriticalCommunication, NewCommunication
from db.image_set import image_set_sha256
from db.lifecycle.moves import locked, move_alert
from db.lifecycle.priority import raise_priority, suspect_critical
from db.lifecycle.review import FINALISERS, drafter, radiologist, save_sections
from db.lifecycle.self_tests import is_self_test
from db.models import Reading, Study
from db.report_models import Draft, Finding, Report
from db.types import Presence, Priority, utcnow
from db.uow import UnitOfWork

CATEGORIES = (1, 2, 3)
SENTENCE_SECTIONS = ("impression", "recommendation")
MAX_LABEL_CHARS, MAX_TEXT_CHARS = 200, 2000
_CLOCK_SLACK = timedelta(minutes=2)  # between a reader's workstation and this machine


def open_suspected(uow: UnitOfWork, reading: Reading, draft_id: UUID, labels: Collection[str]) -> list[CriticalAlert]:
    """Open an alert for each present Finding of a draft whose label is critical; return the new ones.

    A name that is open already, or that was answered for the same images, opens no second one. The Reading is locked
    and becomes STAT; an alert is never closed by a draft, whatever that draft says.
    """
    critical = {_named(label).casefold() for label in labels}
    draft = uow.session.get_one(Draft, draft_id)
    query = (
        select(Finding)
        .where(Finding.draft_id == draft_id, Finding.presence == Presence.PRESENT)
        .order_by(Finding.position)
    )
    found = [one for one in uow.session.scalars(query) if _named(one.label).casefold() in critical]
    keep_urgent(uow, reading)
    if not found or is_self_test(uow.session, reading.study_id):  # nobody is alarmed by a phantom
        return []
    _lock_report(uow, reading.study_id)
    opened = []
    for finding in found:
        label = _named(finding.label)
        if not _is_settled(uow, reading.study_id, label, draft.image_set_sha256):
            alert = CriticalAlert(
                finding_id=finding.id, label=label, found_by=finding.source, image_set_sha256=draft.image_set_sha256
            )
            opened.append(_open(uow, reading, alert))
    return opened


def keep_urgent(uow: UnitOfWork, reading: Reading) -> None:
    """Raise a new Reading, which is locked, to STAT while an alert of its Study is open."""
    query = select(CriticalAlert.id).where(
        CriticalAlert.study_id == reading.study_id, CriticalAlert.state.in_(OPEN_ALERTS)
    )
    open_one = uow.session.scalar(query.limit(1))
    if open_one is not None:
        raise_priority(uow, reading, Priority.STAT, critical_alert=str(open_one))


def mark(
    uow: UnitOfWork, study_id: UUID, *, category: int, what: str = "", finding_id: UUID | None = None
) -> CriticalAlert:
    """Open an alert at a person's wish, for a Finding of the Study or in their own words.

    It is SUSPECTED when a resident opens it, and CONFIRMED at once when a radiologist does.

    Raises:
        LifecycleError: it is open already, or there is no such Study or Finding.
        NotAuthorisedError: the Actor may not work on reports.
        RefusedInputError: no words, too many, or no such category.
    """
    reader = drafter(uow)
    _require_category(category)
    query = select(Reading.id).where(Reading.study_id == study_id, Reading.superseded.is_(False))
    reading_id = uow.session.scalar(query)
    if reading_id is None:
        raise LifecycleError(f"there is no study {study_id}")
    reading = locked(uow, Reading, reading_id)
    _lock_report(uow, study_id)
    finding = _finding_of(uow, study_id, finding_id) if finding_id else None
    label = _named(finding.label if finding else what)
    if not label or len(label) > MAX_LABEL_CHARS:
        raise RefusedInputError(f"say what is critical, in at most {MAX_LABEL_CHARS} characters")
    if _open_one(uow, study_id, label) is not None:
        raise LifecycleError("this critical result is open already")
    alert = CriticalAlert(
        finding_id=finding_id,
        label=label,
        found_by=finding.source if finding else "",
        category=category,
        opened_by=reader.id,
        image_set_sha256=image_set_sha256(uow.session, study_id),
    )
    _open(uow, reading, alert)
    if reader.role in FINALISERS:
        confirm(uow, alert.id)
    return alert


def confirm(uow: UnitOfWork, alert_id: UUID, *, category: int | None = None) -> None:
    """Say, as a radiologist, that the result is critical; from now on the clock is that of telling somebody.

    Raises:
        LifecycleError: it was answered already.
        NotAuthorisedError: the Actor is no radiologist.
        RefusedInputError: no such category.
    """
    reader = radiologist(uow)
    alert = locked(uow, CriticalAlert, alert_id)
    if category is not None:
        _require_category(category)
        alert.category = category
    move_alert(uow, alert, AlertState.CONFIRMED, detail={"category": alert.category})
    alert.confirmed_by, alert.confirmed_at = reader.id, utcnow()
    alert.clock_at = alert.confirmed_at


def dismiss(uow: UnitOfWork, alert_id: UUID, reason: str) -> None:
    """Say, as a radiologist, that the result is not critical.

    Raises:
        LifecycleError: somebody was told already, or it was dismissed.
        NotAuthorisedError: the Actor is no radiologist.
        RefusedInputError: no reason.
    """
    reader = radiologist(uow)
    reason = _text(reason)
    if not reason:
        raise RefusedInputError("say why this is not critical")
    alert = _locked_with_report(uow, alert_id)
    move_alert(uow, alert, AlertState.DISMISSED, reason=reason)
    alert.reason = reason
    alert.closed_by, alert.closed_at = reader.id, utcnow()
    _keep_in_step(uow, alert.study_id)


def record(uow: UnitOfWork, alert_id: UUID, said: NewCommunication) -> CriticalCommunication:
    """Keep who was told of a confirmed result, or that nobody was reached; return the record, which never changes.

    A record that reached somebody closes the alert. One that corrects the only such record to "nobody was reached"
    opens it again.

    Raises:
        LifecycleError: the alert is not confirmed, or the record to correct is another alert's or corrected already.
        NotAuthorisedError: the Actor is no radiologist.
        RefusedInputError: a name is missing, the time cannot be, or category 1 has neither read-back nor a reason.
    """
    reader = radiologist(uow)
    alert = _locked_with_report(uow, alert_id)
    if alert.state not in {AlertState.CONFIRMED, AlertState.COMMUNICATED}:
        raise LifecycleError(f"this critical result is {alert.state.value}: confirm it first")
    _require_possible(uow, alert, said)
    if said.corrects_id is not None:
        _require_correctable(uow, alert, said.corrects_id)
    elif alert.state is AlertState.COMMUNICATED:
        raise LifecycleError("somebody was told already: correct that record instead")
    kept = CriticalCommunication(
        id=uuid4(),
        alert_id=alert.id,
        told_by=reader.id,
        told_name=_named(said.told_name),
        told_role=_named(said.told_role)[:64],
        means=said.means,
        told_at=said.told_at,
        reached=said.reached,
        read_back=said.reached and said.read_back,
        no_read_back_reason=_text(said.no_read_back_reason),
        note=_text(said.note),
        corrects_id=said.corrects_id,
    )
    uow.session.add(kept)
    uow.session.flush()
    _audit_record(uow, alert, kept)
    _settle(uow, alert, kept, reader.id)
    return kept


def add_sentence(uow: UnitOfWork, alert_id: UUID, text: str, *, section: str, seen_version: int) -> int:
    """Append a sentence about a communication to the report, as its lock holder's edit; return the new version.

    Raises:
        LifecycleError: as `db.lifecycle.review.save_sections`.
        RefusedInputError: no text, or a section that takes none.
    """
    text = _text(text)
    if not text or section not in SENTENCE_SECTIONS:
        raise RefusedInputError(f"a sentence goes into one of: {', '.join(SENTENCE_SECTIONS)}")
    alert = uow.session.get(CriticalAlert, alert_id)
    if alert is None:
        raise LifecycleError("there is no such critical result")
    report = uow.session.scalars(select(Report).where(Report.study_id == alert.study_id)).one()
    before = str(report.sections.get(section) or "").rstrip()
    return save_sections(uow, report.id, {section: f"{before}\n{text}".strip()}, seen_version=seen_version)


def _open(uow: UnitOfWork, reading: Reading, alert: CriticalAlert) -> CriticalAlert:
    """Keep a new alert, raise the Reading to STAT and the Study on the worklist."""
    alert.id, alert.study_id = uuid4(), reading.study_id
    alert.opened_at = alert.clock_at = utcnow()
    uow.session.add(alert)
    uow.session.flush()
    detail = {"what": alert.label, "category": alert.category, "found_by": alert.found_by}
    uow.audit(
        AuditTag.CRITICAL_OPENED,
        study_id=alert.study_id,
        reading_id=reading.id,
        object_type="critical_alert",
        object_id=str(alert.id),
        detail=detail | ({"finding": str(alert.finding_id)} if alert.finding_id else {}),
    )
    raise_priority(uow, reading, Priority.STAT, critical_alert=str(alert.id))
    suspect_critical(uow, alert.study_id, suspected=True)
    return alert


def _is_settled(uow: UnitOfWork, study_id: UUID, label: str, images: str) -> bool:
    """Return whether an alert of this name is open, was told, or was answered for exactly these images."""
    query = select(CriticalAlert).where(CriticalAlert.study_id == study_id)
    return any(
        one.label.casefold() == label.casefold()
        and (one.state is not AlertState.DISMISSED or one.image_set_sha256 == images)
        for one in uow.session.scalars(query)
    )


def _open_one(uow: UnitOfWork, study_id: UUID, label: str) -> CriticalAlert | None:
    query = select(CriticalAlert).where(CriticalAlert.study_id == study_id, CriticalAlert.state.in_(OPEN_ALERTS))
    return next((one for one in uow.session.scalars(query) if one.label.casefold() == label.casefold()), None)


def _finding_of(uow: UnitOfWork, study_id: UUID, finding_id: UUID) -> Finding:
    query = select(Finding).join(Draft, Draft.id == Finding.draft_id)
    finding = uow.session.scalar(query.where(Finding.id == finding_id, Draft.study_id == study_id))
    if finding is None:
        raise LifecycleError(f"finding {finding_id} is not of study {study_id}")
    return finding


def _lock_report(uow: UnitOfWork, study_id: UUID) -> None:
    """Let one act at a time open or settle alerts of a Study."""
    uow.session.execute(select(Report.id).where(Report.study_id == study_id).with_for_update(key_share=True))


def _locked_with_report(uow: UnitOfWork, alert_id: UUID) -> CriticalAlert:
    study_id = uow.session.scalar(select(CriticalAlert.study_id).where(CriticalAlert.id == alert_id))
    if study_id is not None:
        _lock_report(uow, study_id)
    return locked(uow, CriticalAlert, alert_id)


def _keep_in_step(uow: UnitOfWork, study_id: UUID) -> None:
    """Let the worklist say "suspected critical" exactly while an alert is open."""
    uow.session.flush()
    query = select(func.count(CriticalAlert.id))
    still = uow.session.scalar(
        query.where(CriticalAlert.study_id == study_id, CriticalAlert.state.in_(OPEN_ALERTS))
    )  # fmt: skip
    suspect_critical(uow, study_id, suspected=bool(still))


def _settle(uow: UnitOfWork, alert: CriticalAlert, kept: CriticalCommunication, reader_id: UUID) -> None:
    """Move the alert as its records say now."""
    query = select(CriticalCommunication).where(CriticalCommunication.alert_id == alert.id)
    records = uow.session.scalars(query).all()
    corrected = {one.corrects_id for one in records}
    told = any(one.reached for one in records if one.id not in corrected)
    detail = {"record": str(kept.id)}
    if told and alert.state is AlertState.CONFIRMED:
        move_alert(uow, alert, AlertState.COMMUNICATED, detail=detail)
        alert.closed_by, alert.closed_at = reader_id, utcnow()
    elif not told and alert.state is AlertState.COMMUNICATED:
        move_alert(uow, alert, AlertState.CONFIRMED, detail=detail)
        alert.closed_by, alert.closed_at, alert.clock_at = None, None, utcnow()
    else:
        return
    _keep_in_step(uow, alert.study_id)


def _audit_record(uow: UnitOfWork, alert: CriticalAlert, kept: CriticalCommunication) -> None:
    detail = {
        "record": str(kept.id),
        "reached": kept.reached,
        "means": kept.means.value,
        "told_at": kept.told_at.isoformat(),
        "read_back": kept.read_back,
    } | ({"corrects": str(kept.corrects_id)} if kept.corrects_id else {})
    uow.audit(
        AuditTag.CRITICAL_RECORDED,
        study_id=alert.study_id,
        object_type="critical_alert",
        object_id=str(alert.id),
        detail=detail,
    )


def _require_possible(uow: UnitOfWork, alert: CriticalAlert, said: NewCommunication) -> None:
    name = _named(said.told_name)
    if not name or len(name) > 128:
        raise RefusedInputError("say who was told, or called: a name of at most 128 characters")
    if said.told_at > utcnow() + _CLOCK_SLACK:
        raise RefusedInputError("this time is in the future")
    if said.told_at < study_began(uow.session.get_one(Study, alert.study_id)):
        raise RefusedInputError("this time is before the study")
    unread = said.reached and alert.category == 1 and not said.read_back
    if unread and not _text(said.no_read_back_reason):
        raise RefusedInputError("category 1 needs a read-back, or the reason why there was none")


def _require_correctable(uow: UnitOfWork, alert: CriticalAlert, record_id: UUID) -> None:
    found = uow.session.get(CriticalCommunication, record_id)
    if found is None or found.alert_id != alert.id:
        raise LifecycleError("there is no such record of this critical result")
    query = select(CriticalCommunication.id).where(CriticalCommunication.corrects_id == record_id)
    if uow.session.scalar(query) is not None:
        raise LifecycleError("this record was corrected already: correct the newer one")


def study_began(study: Study) -> datetime:
    """Return the earliest instant at which anybody could speak of a Study: when it was made, or received.

    Study Date and Time are those of the site's clock (PS3.3 C.7.2.1); without a Study Time the day begins.
    """
    received = study.first_received_at
    try:
        made = datetime.strptime(f"{study.study_date}{study.study_time[:4] or '0000'}", "%Y%m%d%H%M").astimezone()
    except (ValueError, OverflowError):
        return received
    return min(made, received)


def _require_category(category: int) -> None:
    if category not in CATEGORIES:
        raise RefusedInputError("a critical result is of category 1, 2 or 3")


def _named(text: str) -> str:
    """Return ``text`` in one line, without underscores and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text.replace("_", " ")).split())


def _text(text: str) -> str:
    return "".join(c for c in text.replace("\r\n", "\n") if c.isprintable() or c == "\n").strip()[:MAX_TEXT_CHARS]
