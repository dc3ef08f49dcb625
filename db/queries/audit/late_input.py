"""T5: Studies whose images, order or patient changed after a draft was made of them, or after somebody signed.

The kinds of event are few and rare; each is read from the index (tag, seq). What stood at that moment, and what
followed, is looked up by the ids of the page's studies.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.audit import AuditTag as T
from db.models import AuditEvent, Study
from db.queries.audit.questions import PERIOD, Answered, Answers, Cell, Column, Kind, Page, Parameter, Question, Shown
from db.queries.audit.tagged import Span, newest, words
from db.report_models import Draft, Report, Signature

_TAGS = frozenset(
    (T.STUDY_REVISED, T.STUDY_IDENTITY_CONFLICT, T.PATIENT_UPDATED, T.PATIENT_MERGED, T.ORDER_UPDATED,
     T.ORDER_CANCELLED)
)  # fmt: skip
_AFTER = {
    "any": "a draft or a signature",
    "draft": "a draft, before any signature",
    "signature": "a signature",
    "nothing": "nothing: before the first draft too",
}
# who did one of these had the change in front of them
_SEEN = frozenset(
    (T.REPORT_OPENED, T.REPORT_SIGNED_PRELIMINARY, T.REPORT_SIGNED_FINAL, T.REPORT_ADDENDED, T.REPORT_CORRECTED)
)  # fmt: skip
_LOOKED_AT = 500  # changes, for one page


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return the changes of a period, newest first; a page may be short and go on."""
    after = answers.text("after")
    looked_at = page if after == "nothing" else Page(_LOOKED_AT, page.after)
    # an order or a patient may be known before any Study is
    about_a_study = AuditEvent.study_id.is_not(None)
    events, next_key = newest(session, _TAGS, Span(*answers.period()), looked_at, about_a_study)
    studies = {one.study_id for one in events if one.study_id is not None}
    known = _Known(session, studies)
    chosen = [one for one in events if after in {"nothing", *known.before(one)}]
    rows = [_row(one, known) for one in chosen[: page.limit]]
    if len(chosen) > page.limit:
        next_key = (chosen[page.limit - 1].seq,)
    return Answered(rows, next_key)


class _Known:
    """What is known of the page's studies."""

    def __init__(self, session: Session, studies: set[UUID]) -> None:
        self.accessions: dict[UUID, str] = {}
        self.states: dict[UUID, tuple[str, bool]] = {}
        self._drafts: dict[UUID, list[datetime]] = defaultdict(list)
        self._signed: dict[UUID, list[datetime]] = defaultdict(list)
        self._acts: dict[UUID, list[tuple[int, str, str, datetime]]] = defaultdict(list)
        if studies:
            self._read(session, studies)

    def _read(self, session: Session, studies: set[UUID]) -> None:
        found = select(Study.id, Study.accession_number, Report.state, Report.late_images)
        for key, accession, state, late in session.execute(
            found.join(Report, Report.study_id == Study.id).where(Study.id.in_(studies))
        ):
            self.accessions[key], self.states[key] = accession, (state.value, late)
        for key, at in session.execute(select(Draft.study_id, Draft.created_at).where(Draft.study_id.in_(studies))):
            self._drafts[key].append(at)
        signed = select(Report.study_id, Signature.signed_at).join(Report, Report.id == Signature.report_id)
        for key, at in session.execute(signed.where(Report.study_id.in_(studies))):
            self._signed[key].append(at)
        acts = select(AuditEvent.study_id, AuditEvent.seq, AuditEvent.tag, AuditEvent.actor, AuditEvent.occurred_at)
        # the tag is no condition: the database would read all events of it to intersect them
        later = acts.where(AuditEvent.study_id.in_(studies)).order_by(AuditEvent.seq)
        for study_id, seq, tag, actor, at in session.execute(later):
            if study_id is not None and tag in _SEEN:
                self._acts[study_id].append((seq, tag, actor, at))

    def before(self, event: AuditEvent) -> Sequence[str]:
        """Return what the change came after, as the choices say it."""
        assert event.study_id is not None
        if any(at <= event.occurred_at for at in self._signed[event.study_id]):
            return ("any", "signature")
        drafted = any(at <= event.occurred_at for at in self._drafts[event.study_id])
        return ("any", "draft") if drafted else ()

    def seen(self, event: AuditEvent) -> tuple[str, str, datetime | None]:
        """Return the first act of a person who had the change in front of them: tag, login, instant."""
        assert event.study_id is not None
        later = (act for act in self._acts[event.study_id] if act[0] > event.seq)
        return next(((tag, actor, at) for _, tag, actor, at in later), ("", "", None))


def _row(event: AuditEvent, known: _Known) -> list[Cell]:
    assert event.study_id is not None
    state, late = known.states.get(event.study_id, ("", False))
    tag, actor, at = known.seen(event)
    came_after: Mapping[str, str] = {"signature": "a signature", "draft": "a draft"}
    return [
        event.occurred_at,
        event.study_id,
        known.accessions.get(event.study_id, ""),
        event.tag,
        event.actor,
        next((came_after[one] for one in known.before(event) if one in came_after), ""),
        words(event.detail),
        tag,
        actor,
        at,
        state,
        late,
    ]


QUESTIONS = (
    Question(
        name="T5",
        slug="late-input",
        title="Late or changed input",
        asks="Which studies changed after a draft was made of them, or after somebody signed, and who saw it then?",
        source="21 CFR 11.70; EU AI Act Art 26(4); IEC 62304 §9",
        parameters=(*PERIOD, Parameter("after", Kind.CHOICE, "Changed after", default="any", choices=_AFTER)),
        columns=(
            Column("at", "Changed", Shown.INSTANT),
            Column("study_id", "Study", Shown.STUDY),
            Column("accession_number", "Accession number"),
            Column("tag", "What", Shown.CODE),
            Column("actor", "By"),
            Column("after", "After"),
            Column("said", "More"),
            Column("seen", "Next act of a reader", Shown.CODE),
            Column("seen_by", "By"),
            Column("seen_at", "At", Shown.INSTANT),
            Column("report_state", "Report now"),
            Column("late_images", "Banner of late images", Shown.YES_NO),
        ),
        run=run,
    ),
)
