"""A report and its study as the linter is given them: rows in, plain facts out."""

import re
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from db.annotation_models import AnnotationKind
from db.critical_models import AlertState, CriticalAlert
from db.prior_models import Prior, PriorState
from db.queries import ReportDetail
from db.queries.annotations import annotations_of
from db.queries.critical import open_alerts
from db.report_models import Finding
from db.types import utcnow
from safety.facts import FindingFact, Measure, ReportFacts, Side
from safety.vocabulary import PAIRED

_SIDE = re.compile(r"\b(left|right|lt|rt)\b")
_NO_IMAGES = frozenset({"SR", "PR", "KO", "SEG", "DOC", "REG", "OT"})
_TO_MM_OR_ML: Mapping[str, tuple[bool, float]] = {  # unit -> (is a length, factor)
    "mm": (True, 1.0), "cm": (True, 10.0), "ml": (False, 1.0), "cm3": (False, 1.0), "mm3": (False, 0.001),
}  # fmt: skip


def report_facts(db: Session, detail: ReportDetail, sections: Mapping[str, str] | None = None) -> ReportFacts:
    """Return what the text of a report is held against.

    Args:
        db: for reading; inside a unit of work, the facts are those that are signed.
        detail: the report.
        sections: another text than the report's own, such as a correction's.
    """
    study = detail.study
    alerts = open_alerts(db, study.id)
    said = detail.report.sections if sections is None else sections
    return ReportFacts(
        sections={key: str(text or "") for key, text in said.items()},
        today=utcnow().date(),
        patient_sex=study.patient_sex,
        patient_age=_age(study.patient_birth_date, study.study_date),
        modalities=frozenset(one for one in study.modalities.replace("\\", ",").split(",") if one) - _NO_IMAGES,
        body_part=f"{study.body_part} {study.study_description}".strip(),
        study_side=_side(study.study_description.lower()),
        findings=[_finding(one) for one in detail.findings],
        has_prior=_has_prior(db, detail),
        drawn=[
            Measure("length", one.value, one.text)
            for one in annotations_of(db, study.id)
            if one.kind is AnnotationKind.LENGTH and one.value is not None and one.unit == "mm"
        ],
        open_alerts=[one.label for one in alerts if one.state is AlertState.SUSPECTED],
        untold_alerts=[one.label for one in alerts if one.state is AlertState.CONFIRMED],
        has_communication=_was_told(db, detail),
    )


def _finding(row: Finding) -> FindingFact:
    return FindingFact(
        finding_id=str(row.id),
        label=row.label,
        presence=row.presence.value,
        decision=row.decision.value,
        side=_known_side(row.laterality),
        sentence=row.sentence,
        instead=row.decision_reason,
        measures=[one for one in map(_measure, row.measurements) if one is not None],
    )


def _measure(kept: Mapping[str, object]) -> Measure | None:
    value, unit = kept.get("value"), str(kept.get("unit", "")).lower()
    known = _TO_MM_OR_ML.get(unit)
    if known is None or not isinstance(value, int | float):
        return None
    is_length, factor = known
    return Measure("length" if is_length else "volume", float(value) * factor, str(kept.get("name", "")))


def _known_side(said: str) -> Side:
    found: dict[str, Side] = {"left": "left", "right": "right", "bilateral": "bilateral"}
    return found.get(said, "")


def _side(description: str) -> Side:
    """Return the side of a paired body part that a description names alone (KNEE LEFT)."""
    named = {one[0] for one in _SIDE.findall(description)} if PAIRED.search(description) else set()
    return "" if len(named) != 1 else "left" if named == {"l"} else "right"


def _age(born: str, studied: str) -> float | None:
    try:
        birth, day = (datetime.strptime(one, "%Y%m%d").date() for one in (born, studied))  # noqa: DTZ007 a DICOM DA
    except ValueError:
        return None
    return float(day.year - birth.year - ((day.month, day.day) < (birth.month, birth.day)))


def _has_prior(db: Session, detail: ReportDetail) -> bool:
    here = exists().where(Prior.study_id == detail.study.id, Prior.state == PriorState.HERE)
    return bool(db.scalar(select(here)))


def _was_told(db: Session, detail: ReportDetail) -> bool:
    told = exists().where(CriticalAlert.study_id == detail.study.id, CriticalAlert.state == AlertState.COMMUNICATED)
    return bool(db.scalar(select(told)))
