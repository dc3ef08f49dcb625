"""What became of each draft, noted once a person decided; the sweeper asks for it, so that no reader waits."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from rapidfuzz.distance import Levenshtein
from sqlalchemy import func, select

from db.lifecycle.review import text_sha256
from db.lifecycle.tallies import tally
from db.models import Reading, Series, Study
from db.quality_models import DraftOutcome
from db.report_models import SET_ASIDE, Draft, DraftRejection, Report, ReportRevision, Signature
from db.types import ReportState, Verdict
from db.uow import UnitOfWork

COMPARED = ("technique", "comparison", "findings", "impression", "recommendation")  # the history is the order's
_AT_ONCE = 100


def note_outcomes(uow: UnitOfWork, *, limit: int = _AT_ONCE) -> int:
    """Add the DraftOutcome of drafts that were decided and have none yet; return how many were added.

    A draft is decided by its rejection or by the first FINAL signature over it, whichever came first. What
    a correction changed later is another matter: the reader had signed.
    """
    made = [*_rejected(uow, limit), *_signed(uow, limit)]
    firsts: dict[UUID, DraftOutcome] = {}
    for one in sorted(made, key=lambda outcome: outcome.decided_at):
        firsts.setdefault(one.draft_id, one)
    uow.session.add_all(firsts.values())
    uow.session.flush()
    tally(uow, firsts.values())
    return len(firsts)


def _rejected(uow: UnitOfWork, limit: int) -> Iterator[DraftOutcome]:
    query = (
        select(DraftRejection, Draft)
        .join(Draft, Draft.id == DraftRejection.draft_id)
        .outerjoin(DraftOutcome, DraftOutcome.draft_id == Draft.id)
        .where(DraftOutcome.id.is_(None), DraftRejection.code != SET_ASIDE)
        .limit(limit)
    )
    for rejection, draft in uow.session.execute(query).all():
        facts = _facts(uow, draft, rejection.rejected_by, rejection.created_at)
        yield DraftOutcome(**facts, verdict=Verdict.REJECTED, words_drafted=len(_words(draft.sections)))


def _signed(uow: UnitOfWork, limit: int) -> Iterator[DraftOutcome]:
    query = (
        select(Signature, Draft)
        .join(Draft, Draft.id == Signature.draft_id)
        .outerjoin(DraftOutcome, DraftOutcome.draft_id == Draft.id)
        .where(DraftOutcome.id.is_(None), Signature.state == ReportState.FINAL)
        .limit(limit)
    )
    for signature, draft in uow.session.execute(query).all():
        text = _signed_text(uow, signature)
        facts = _facts(uow, draft, signature.user_id, signature.signed_at)
        yield DraftOutcome(**facts, **compare(draft.sections, text))


def compare(drafted: Mapping[str, Any], signed: Mapping[str, Any]) -> dict[str, Any]:
    """Return how far the signed text is from the draft, in words.

    ``edits`` is the Levenshtein distance over words: how many a person inserted, deleted or replaced.
    """
    changed = [key for key in COMPARED if _words(drafted, (key,)) != _words(signed, (key,))]
    return {
        "verdict": Verdict.EDITED if changed else Verdict.UNCHANGED,
        "words_drafted": len(_words(drafted)),
        "words_signed": len(_words(signed)),
        "edits": sum(Levenshtein.distance(_words(drafted, (key,)), _words(signed, (key,))) for key in changed),
        "changed_sections": changed,
    }


def _words(sections: Mapping[str, Any], keys: tuple[str, ...] = COMPARED) -> list[str]:
    return [word for key in keys for word in str(sections.get(key) or "").split()]


def _signed_text(uow: UnitOfWork, signature: Signature) -> Mapping[str, Any]:
    """Return the text that was signed: the newest revision with the hash that the signature binds."""
    query = (
        select(ReportRevision)
        .where(ReportRevision.report_id == signature.report_id)
        .order_by(ReportRevision.number.desc())
    )
    for revision in uow.session.scalars(query):
        if text_sha256(revision.sections) == signature.text_sha256:
            return dict(revision.sections)
    report = uow.session.get_one(Report, signature.report_id)
    return dict(report.sections)


def _facts(uow: UnitOfWork, draft: Draft, reader_id: UUID, decided_at: datetime) -> dict[str, Any]:
    study = uow.session.get_one(Study, draft.study_id)
    reading = uow.session.get_one(Reading, draft.reading_id)
    return {
        "draft_id": draft.id,
        "study_id": study.id,
        "reader_id": reader_id,
        "demonstration": draft.demonstration,
        "model": model_of(draft.provenance)[:200],
        "modality": study.modalities,
        "body_part": study.body_part,
        "scanner": _scanner(uow, study.id),
        "sex": study.patient_sex,
        "age_group": age_group(study.patient_birth_date, study.study_date),
        "priority": reading.priority.value,
        "received_at": study.first_received_at,
        "drafted_at": draft.created_at,
        "decided_at": decided_at,
    }


def model_of(provenance: Mapping[str, Any]) -> str:
    """Return the language model of a draft with its version; it is the first in the record."""
    models = provenance.get("models") or [{}]
    return f"{models[0].get('name', '')} {models[0].get('version', '')}".strip()


def age_group(birth_date: str, study_date: str) -> str:
    """Return the decade of age at the study, as ``50-59``; empty when one of the dates (DA) is not known."""
    if not (len(birth_date) == len(study_date) == 8 and birth_date.isdigit() and study_date.isdigit()):
        return ""
    age = int(study_date[:4]) - int(birth_date[:4]) - (study_date[4:] < birth_date[4:])
    return f"{age // 10 * 10}-{age // 10 * 10 + 9}" if 0 <= age < 150 else ""


def _scanner(uow: UnitOfWork, study_id: UUID) -> str:
    maker = func.min(Series.manufacturer + " " + Series.manufacturer_model)
    return (uow.session.scalar(select(maker).where(Series.study_id == study_id)) or "").strip()
