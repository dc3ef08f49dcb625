"""Q6: signatures without a fresh proof of identity, of studies that were not opened, or made faster than T seconds.

Each signature of the period is looked at, newest first, by the index over the time of signing (of one signer: over the
signer and the time): what is wrong with it depends on the answers to the parameters, so no index can hold it. A page
looks at some 2000 signatures at most, and says so: it may be short, and the next page goes on where it ended. Three
statements serve a chunk, which grows from 200 signatures to 1000: the rows with how long their signer looked, the
proofs of identity in that stretch of time, and, where the page did not count how long images were seen, the openings of
those studies since their reports were begun, which names the partitions.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from db.audit import AuditTag
from db.models import AuditEvent
from db.queries.audit.accounts import account_of
from db.queries.audit.keyset import Key, Keyset
from db.queries.audit.questions import PERIOD, Answered, Answers, Cell, Column, Kind, Page, Parameter, Question, Shown
from db.report_models import Report, Signature, UserAccount
from db.signing_models import ImageView, SafetyCheck

_ORDER = Keyset(Signature.signed_at, Signature.id)
_LEAST_AT_ONCE, _MOST_AT_ONCE, _MOST_LOOKED_AT = 200, 1000, 2000
_SLACK = timedelta(seconds=5)  # between the clock of the proof and that of the signature
_PROOFS = (AuditTag.USER_REAUTHENTICATED, AuditTag.USER_LOGIN, AuditTag.USER_SCREEN_UNLOCKED)
_OPENINGS = (
    AuditTag.REPORT_OPENED, AuditTag.REPORT_LOCKED, AuditTag.REPORT_TAKEN_OVER, AuditTag.REPORT_VIEWED,
    AuditTag.IMAGES_VIEWED,
)  # fmt: skip
_FAULTS = {
    "stale": "the proof of identity was older than allowed",
    "no_proof": "no event of a proof of identity",
    "not_opened": "the signer had not opened the study",
    "fast": "images seen for less than T seconds",
}


@dataclass(frozen=True)
class _Signed:
    """One signature with what is known of its making."""

    signature: Signature
    study_id: UUID
    begun_at: datetime  # the report
    login: str
    viewed_s: float | None  # as counted when it was signed
    opened_at: datetime | None
    proof: int | None = None  # seq of the event

    @property
    def authenticated_s(self) -> float:
        """How old the proof of identity was, s."""
        return (self.signature.signed_at - self.signature.authenticated_at).total_seconds()


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return the signatures with a fault, newest first."""
    found: list[tuple[_Signed, list[str]]] = []
    looked_at, key, more = 0, page.after, True
    size = max(_LEAST_AT_ONCE, page.limit)
    while more and len(found) <= page.limit and looked_at < _MOST_LOOKED_AT:
        chunk, more = _chunk(session, answers, replace(page, limit=size, after=key))
        size = min(2 * size, _MOST_AT_ONCE)
        looked_at += len(chunk)
        found += [(one, faults) for one in chunk if (faults := _faults(one, answers))]
        key = _key(chunk[-1]) if chunk else key
    shown = found[: page.limit]
    if len(found) > page.limit:
        key = _key(shown[-1][0])
    after = key if more or len(found) > page.limit else None
    facts: list[tuple[str, Cell]] = [("signatures looked at for this page", looked_at)]
    return Answered([_cells(one, faults) for one, faults in shown], after, facts)


def _key(one: _Signed) -> Key:
    return one.signature.signed_at.isoformat(), str(one.signature.id)


def _chunk(session: Session, answers: Answers, page: Page) -> tuple[list[_Signed], bool]:
    """Return some signatures of the period with their circumstances, and whether there are more."""
    since, until = answers.period()
    query = (
        select(
            Signature, Report.study_id, Report.created_at, UserAccount.login, SafetyCheck.view_s, ImageView.opened_at
        )
        .join(Report, Report.id == Signature.report_id)
        .join(UserAccount, UserAccount.id == Signature.user_id)
        .outerjoin(SafetyCheck, SafetyCheck.signature_id == Signature.id)
        .outerjoin(ImageView, and_(ImageView.study_id == Report.study_id, ImageView.user_id == Signature.user_id))
        .where(Signature.signed_at >= since, Signature.signed_at < until)
    )
    if signer := answers.text("signer"):
        query = query.where(Signature.user_id == account_of(session, signer))
    rows, after = _ORDER.page(session, query, page)
    chunk = [_Signed(*tuple(row)[:6]) for row in rows]
    return _with_events(session, chunk), after is not None


def _with_events(session: Session, chunk: Sequence[_Signed]) -> list[_Signed]:
    """Return the signatures with the proof before each, and the opening where the page did not count one."""
    proofs = _proofs(session, chunk)
    opened = _openings(session, [one for one in chunk if not _seen_in_time(one)])
    made = []
    for one in chunk:
        at = one.opened_at if _seen_in_time(one) else opened.get((one.study_id, one.signature.user_id))
        if at is not None and at > one.signature.signed_at:
            at = None
        made.append(replace(one, proof=_proof_of(one, proofs), opened_at=at))
    return made


def _seen_in_time(one: _Signed) -> bool:
    return one.opened_at is not None and one.opened_at <= one.signature.signed_at


def _proofs(session: Session, chunk: Sequence[_Signed]) -> Mapping[str, list[tuple[datetime, int]]]:
    """Return when each signer proved who they are in the stretch of time of these signatures, oldest first."""
    found: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    if not chunk:
        return found
    first = min(one.signature.authenticated_at for one in chunk) - _SLACK
    last = max(one.signature.signed_at for one in chunk) + _SLACK
    query = select(AuditEvent.object_id, AuditEvent.occurred_at, AuditEvent.seq).where(
        AuditEvent.tag.in_(_PROOFS), AuditEvent.occurred_at >= first, AuditEvent.occurred_at <= last
    )
    for user, at, seq in session.execute(query.order_by(AuditEvent.occurred_at)):
        found[user].append((at, seq))
    return found


def _proof_of(one: _Signed, proofs: Mapping[str, list[tuple[datetime, int]]]) -> int | None:
    """Return the event of the proof that the signature rests on: at the time it states, or after it."""
    own = proofs.get(str(one.signature.user_id), [])
    at = bisect_left(own, (one.signature.authenticated_at - _SLACK, 0))
    if at < len(own) and own[at][0] <= one.signature.signed_at + _SLACK:
        return own[at][1]
    return None


def _openings(session: Session, chunk: Sequence[_Signed]) -> Mapping[tuple[UUID, UUID], datetime]:
    """Return when each signer first opened the Study."""
    studies = sorted({one.study_id for one in chunk})
    found: dict[tuple[UUID, UUID], datetime] = {}
    if not studies:
        return found
    query = select(AuditEvent.study_id, AuditEvent.user_id, AuditEvent.occurred_at).where(
        AuditEvent.study_id.in_(studies),
        AuditEvent.tag.in_(_OPENINGS),
        AuditEvent.user_id.is_not(None),
        AuditEvent.occurred_at >= min(one.begun_at for one in chunk) - _SLACK,
        AuditEvent.occurred_at <= max(one.signature.signed_at for one in chunk),
    )
    for study_id, user_id, at in session.execute(query):
        if study_id is not None and user_id is not None:
            found[study_id, user_id] = min(at, found.get((study_id, user_id), at))
    return found


def _faults(one: _Signed, answers: Answers) -> list[str]:
    found = list(_found_faults(one, answers))
    wanted = answers.text("fault")
    return found if not wanted or wanted in found else []


def _found_faults(one: _Signed, answers: Answers) -> Iterator[str]:
    if one.authenticated_s > answers.number("fresh_s"):
        yield "stale"
    if one.proof is None:
        yield "no_proof"
    if one.opened_at is None:
        yield "not_opened"
    if (one.viewed_s or 0.0) < answers.number("least_s"):
        yield "fast"


def _cells(one: _Signed, faults: Sequence[str]) -> Sequence[Cell]:
    signed = one.signature
    waited = None if one.opened_at is None else round((signed.signed_at - one.opened_at).total_seconds(), 1)
    return (
        signed.signed_at,
        one.login,
        signed.printed_name,
        signed.state.value,
        one.study_id,
        signed.report_id,
        signed.id,
        "; ".join(_FAULTS[fault] for fault in faults),
        signed.method,
        round(one.authenticated_s, 1),
        one.proof,
        one.opened_at,
        waited,
        None if one.viewed_s is None else round(one.viewed_s, 1),
        signed.draft_id is not None,
    )


QUESTIONS = (
    Question(
        name="Q6",
        slug="signatures-in-doubt",
        title="Signatures in doubt",
        asks="Which reports were signed without fresh proof of identity, unopened, or after T seconds of images?",
        source="21 CFR 11.10(f), 11.200(a), 11.300(d); EU AI Act Art. 14",
        parameters=(
            Parameter("fault", Kind.CHOICE, "Fault", choices=_FAULTS),
            Parameter("fresh_s", Kind.NUMBER, "A proof is fresh for (s)", default="300"),
            Parameter("least_s", Kind.NUMBER, "T: images seen for at least (s)", default="10"),
            Parameter("signer", Kind.TEXT, "Signer's login", longest=64),
            *PERIOD,
        ),
        columns=(
            Column("signed_at", "Signed at", Shown.INSTANT),
            Column("login", "Login"),
            Column("signer", "Signer"),
            Column("state", "As"),
            Column("study", "Study", Shown.STUDY),
            Column("report", "Report", Shown.CODE),
            Column("signature", "Signature", Shown.CODE),
            Column("faults", "What is wrong"),
            Column("method", "Proof"),
            Column("proof_age_s", "Proof's age, s", Shown.NUMBER),
            Column("proof_event", "Proof's event", Shown.NUMBER),
            Column("opened_at", "Opened at", Shown.INSTANT),
            Column("open_s", "Opened before signing, s", Shown.NUMBER),
            Column("viewed_s", "Images seen, s", Shown.NUMBER),
            Column("with_ai", "With AI draft", Shown.YES_NO),
        ),
        run=run,
    ),
)
