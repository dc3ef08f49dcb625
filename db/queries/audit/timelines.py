"""T1: all that became of one Study, in the order it happened: its events, and what its rows know beside them.

One Study has some hundred rows; each kind is read by the study's id, put in order, and cut into pages. Files of single
instances are left out unless they are asked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db.critical_models import CriticalAlert, CriticalCommunication
from db.models import AuditEvent, Delivery, Instance, PeerAssociation, Reading, ResultObject, Study
from db.queries.audit.drafted import draft_items
from db.queries.audit.named_studies import ONE_STUDY, one_study
from db.queries.audit.questions import Answered, Answers, Cell, Column, Kind, Page, Parameter, Question, Shown
from db.queries.audit.tagged import body_of, logins, words
from db.queries.audit.timeline_items import Item
from db.report_models import Report, ReportRevision, Signature
from db.signing_models import ImageView

_CUT = 500  # characters of a changed section that are shown
_RULES = 5  # of a rule's trace
_MOST_EVENTS = 20_000


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return what happened to a Study, oldest first."""
    study = one_study(session, answers.text("study"))
    sources: list[_Source] = [
        _events, _associations, _verdicts, draft_items, _revisions, _signatures, _results, _deliveries, _told, _views,
    ]  # fmt: skip
    if answers.text("files") == "yes":
        sources.append(_files)
    items = sorted((item for source in sources for item in source(session, study)), key=Item.order)
    start = _begin(page)
    if start is not None:
        items = [one for one in items if one.order() > start]
    shown = items[: page.limit]
    after = (shown[-1].at.isoformat(), *shown[-1].order()[1:]) if len(items) > page.limit else None
    return Answered([_row(one) for one in shown], after, _facts(session, study) if page.is_first else (), study.id)


_Source = Callable[[Session, Study], Iterator[Item]]


def _begin(page: Page) -> tuple[datetime, str, str] | None:
    if page.after is None:
        return None
    match page.after:
        case (str(at), str(source), str(key)):
            try:
                return datetime.fromisoformat(at).astimezone(UTC), source, key
            except (ValueError, OverflowError):
                pass
    raise RefusedInputError("cursor: it is not of this question")


def _facts(session: Session, study: Study) -> Sequence[tuple[str, Cell]]:
    state = session.scalar(select(Report.state).where(Report.study_id == study.id))
    events = session.scalar(select(func.count()).where(AuditEvent.study_id == study.id)) or 0
    return (
        ("accession number", study.accession_number),
        ("Study Instance UID", study.study_instance_uid),
        ("received from", study.calling_ae),
        ("images", study.instance_count),
        ("revision", study.revision),
        ("report", state.value if state else ""),
        ("events", events),
    )


def _row(one: Item) -> list[Cell]:
    return [one.at, one.source, one.what, one.who, one.outcome, one.about, one.sha256, one.said]


def _events(session: Session, study: Study) -> Iterator[Item]:
    query = select(AuditEvent).where(AuditEvent.study_id == study.id).order_by(AuditEvent.seq).limit(_MOST_EVENTS)
    for one in session.scalars(query):
        body, detail = body_of(one), one.detail
        address = str(body.get("address") or detail.get("address") or "")
        who = f"{one.actor} ({body['role']})" if body.get("role") else one.actor
        yield Item(
            one.occurred_at,
            "event",
            f"{one.seq:020}",
            one.tag,
            f"{who} from {address}" if address else who,
            one.outcome,
            " ".join(part for part in (one.object_type, one.object_id) if part),
            "",
            words(detail, without=("address",)),
        )


def _associations(session: Session, study: Study) -> Iterator[Item]:
    brought = select(Instance.association_id).where(Instance.study_id == study.id).distinct()
    for one in session.scalars(select(PeerAssociation).where(PeerAssociation.id.in_(brought))):
        said = {
            "address": one.address, "called AE": one.called_ae, "certificate": one.tls_subject,
            "user": one.user_identity, "instances": one.instances, "bytes": one.size_bytes,
        }  # fmt: skip
        told = words({name: value for name, value in said.items() if value})
        about, ended = str(one.id), one.ended_at
        yield Item(one.opened_at, "association", f"{about} 0", "opened", one.calling_ae, "", about, "", told)
        if ended:
            yield Item(ended, "association", f"{about} 1", one.ended_how or "ended", one.calling_ae, "", about, "", "")


def _files(session: Session, study: Study) -> Iterator[Item]:
    columns = (
        Instance.received_at, Instance.sop_instance_uid, Instance.sha256, Instance.size_bytes, Instance.calling_ae,
        Instance.revision, Instance.deleted_at,
    )  # fmt: skip
    for at, uid, sha256, size, sender, revision, deleted in session.execute(
        select(*columns).where(Instance.study_id == study.id)
    ):
        said = f"{size} bytes; revision {revision}" + ("; its file was deleted by retention" if deleted else "")
        yield Item(at, "file", uid, "instance received", sender, "", uid, sha256, said)


def _verdicts(session: Session, study: Study) -> Iterator[Item]:
    """Yield what the routing rules said of each revision, and which were tried."""
    for one in session.scalars(select(Reading).where(Reading.study_id == study.id)):
        tried = [
            f"{rule.get('rule', '')}: {'matched' if rule.get('matched') else rule.get('why') or 'did not match'}"
            for rule in one.rule_trace[:_RULES]
        ]
        said = {"rule": one.rule, "profile": one.profile, "priority": one.priority.value, "use": one.use.value}
        said |= {"tried": ", ".join(tried), "revision": str(one.revision)}
        if one.completed_at is not None and one.rule:
            yield Item(
                one.completed_at, "rule", str(one.id), "judged", "sweeper", "", f"reading {one.id}", "", words(said)
            )


def _revisions(session: Session, study: Study) -> Iterator[Item]:
    """Yield each save of the report: what it said before and after, section by section."""
    query = (
        select(ReportRevision)
        .join(Report, Report.id == ReportRevision.report_id)
        .where(Report.study_id == study.id)
        .order_by(ReportRevision.number)
    )
    rows = session.scalars(query).all()
    people = logins(session, (one.author_id for one in rows))
    before: Mapping[str, str] = {}
    for one in rows:
        changed = [
            f"{key}: {_cut(before.get(key))} → {_cut(one.sections.get(key))}"
            for key in sorted({*before, *one.sections})
            if (before.get(key) or "") != (one.sections.get(key) or "")
        ]
        who = people.get(one.author_id) or "the pipeline"
        yield Item(
            one.created_at, "text", f"{one.number:06}", f"revision {one.number}", who, "", "", "", "\n".join(changed)
        )
        before = one.sections


def _cut(text: object) -> str:
    said = str(text or "")
    return f"“{said[:_CUT]}{'…' if len(said) > _CUT else ''}”"


def _signatures(session: Session, study: Study) -> Iterator[Item]:
    query = select(Signature).join(Report, Report.id == Signature.report_id).where(Report.study_id == study.id)
    for one in session.scalars(query):
        said = {
            "meaning": one.meaning, "proof": one.method, "proven at": one.authenticated_at.isoformat(),
            "images": one.image_set_sha256, "objects": one.objects_sha256, "draft": str(one.draft_id or "none"),
        }  # fmt: skip
        state = one.state.value
        yield Item(
            one.signed_at, "signature", str(one.id), f"signed {state}", one.printed_name, "", f"signature {one.id}",
            one.text_sha256, words(said),
        )  # fmt: skip


def _results(session: Session, study: Study) -> Iterator[Item]:
    for one in session.scalars(select(ResultObject).where(ResultObject.study_id == study.id)):
        of = f"signature {one.signature_id}" if one.signature_id else f"draft {one.draft_id}"
        uid = one.sop_instance_uid
        yield Item(one.created_at, "result", uid, f"{one.kind} made", "", "", uid, one.sha256, f"of {of}")


def _deliveries(session: Session, study: Study) -> Iterator[Item]:
    query = (
        select(Delivery, ResultObject.kind, ResultObject.sop_instance_uid, ResultObject.sha256)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .where(ResultObject.study_id == study.id)
    )
    for one, kind, uid, sha256 in session.execute(query):
        said = {"attempts": one.attempts, "state": one.state.value, "count": one.counted.value}
        said |= {"commitment": one.commitment.value, "transaction": one.commitment_uid, "last error": one.last_error}
        told = words({name: value for name, value in said.items() if value})
        if one.delivered_at:
            what = f"{kind} acknowledged"
            yield Item(one.delivered_at, "delivery", f"{one.id} 0", what, one.destination, "", uid, sha256, told)
        if one.committed_at:
            what = f"{kind} committed"
            yield Item(one.committed_at, "delivery", f"{one.id} 1", what, one.destination, "", uid, sha256, told)


def _told(session: Session, study: Study) -> Iterator[Item]:
    query = (
        select(CriticalCommunication, CriticalAlert.label)
        .join(CriticalAlert, CriticalAlert.id == CriticalCommunication.alert_id)
        .where(CriticalAlert.study_id == study.id)
    )
    rows = session.execute(query).all()
    people = logins(session, [one.told_by for one, _ in rows])
    for one, label in rows:
        said: dict[str, Any] = {"told": one.told_name, "role": one.told_role, "how": one.means.value}
        said |= {"reached": one.reached, "read back": one.read_back, "why not": one.no_read_back_reason}
        who, what = people.get(one.told_by, ""), f"critical result: {label}"
        yield Item(one.told_at, "communication", str(one.id), what, who, "", "", "", words(said))


def _views(session: Session, study: Study) -> Iterator[Item]:
    rows = session.scalars(select(ImageView).where(ImageView.study_id == study.id)).all()
    people = logins(session, [one.user_id for one in rows])
    for one in rows:
        if one.images_at is not None:
            said = f"{one.seconds:.0f} seconds in all"
            who = people.get(one.user_id, "")
            yield Item(one.images_at, "images", str(one.id), "first image on the screen", who, "", "", "", said)


QUESTIONS = (
    Question(
        name="T1",
        slug="timeline-study",
        title="Timeline of one study",
        asks="What happened to this study, from the association that brought it to the last acknowledgement?",
        source="21 CFR 11.10(e); EU AI Act Art 12; HIPAA 164.312(b)",
        parameters=(
            ONE_STUDY,
            Parameter(
                "files", Kind.CHOICE, "Every file with its hash", default="no", choices={"no": "no", "yes": "yes"}
            ),
        ),
        columns=(
            Column("at", "When", Shown.INSTANT),
            Column("source", "From"),
            Column("what", "What"),
            Column("who", "Who"),
            Column("outcome", "Outcome"),
            Column("about", "About", Shown.CODE),
            Column("sha256", "SHA-256", Shown.CODE),
            Column("said", "Said"),
        ),
        run=run,
    ),
)
