"""Q1: which drafts were made by a model, a version, a set of weights, at a site, in a stretch of time.

``draft_model`` has a row for each model of each draft, with the draft's time. Every filter has an index that begins
with it and goes on with the time, so a page reads about as many entries as it has rows, among any number of drafts.
Without a filter the index over the time serves. The provenance records themselves are not read.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from db.audit_draft_models import DraftModel, ModelWeights
from db.models import Reading, Study
from db.queries.audit.keyset import AnyRow, Keyset
from db.queries.audit.questions import (
    PERIOD,
    Answered,
    Answers,
    Cell,
    Column,
    Kind,
    Page,
    Parameter,
    Question,
    Shown,
)
from db.queries.audit.tagged import counted
from db.report_models import Draft, Report
from db.types import PackageKind

_ORDER = Keyset(DraftModel.created_at, DraftModel.draft_id, DraftModel.kind, DraftModel.package)
_KINDS = {PackageKind.VLM.value: "language models", PackageKind.EXPERT.value: "experts"}


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return one row for each model of each draft, newest draft first."""
    conditions = _conditions(session, answers)
    query = (
        select(
            DraftModel,
            Draft.study_id,
            Draft.reading_id,
            Draft.demonstration,
            Study.modalities,
            Reading.use,
            Reading.pipeline_version,
            Report.state,
            Report.draft_id,
        )
        .join(Draft, Draft.id == DraftModel.draft_id)
        .join(Study, Study.id == Draft.study_id)
        .join(Reading, Reading.id == Draft.reading_id)
        .join(Report, Report.study_id == Draft.study_id)
        .where(*conditions)
    )
    rows, after = _ORDER.page(session, query, page)
    facts = [("rows", counted(session, select(DraftModel.draft_id).where(*conditions)))] if page.is_first else []
    return Answered([_cells(row) for row in rows], after, facts)


def _conditions(session: Session, answers: Answers) -> list[ColumnElement[bool]]:
    since, until = answers.period()
    found: list[ColumnElement[bool]] = [DraftModel.created_at >= since, DraftModel.created_at < until]
    exact = {
        "model": DraftModel.package,
        "version": DraftModel.version,
        "kind": DraftModel.kind,
        "site": DraftModel.site,
    }
    found += [column == answers.text(name) for name, column in exact.items() if answers.text(name)]
    if weights := answers.text("weights").lower():
        found.append(DraftModel.weights_sha256.in_(weight_sets(session, weights)))
    return found


def weight_sets(session: Session, sha256: str) -> Sequence[str]:
    """Return the sets of weights that this hash names: itself, and those with a file of this hash."""
    query = select(ModelWeights.weights_sha256).where(ModelWeights.sha256 == sha256)
    return sorted({sha256, *session.scalars(query)})


def _cells(row: AnyRow) -> Sequence[Cell]:
    model, study_id, reading_id, demonstration, modalities, use, pipeline, state, standing = tuple(row)[:9]
    return (
        model.created_at,
        model.draft_id,
        study_id,
        model.package,
        model.version,
        model.kind,
        model.weights_sha256,
        model.site,
        modalities,
        use.value,
        demonstration,
        pipeline,
        reading_id,
        state.value if standing == model.draft_id else "another draft stands",
    )


QUESTIONS = (
    Question(
        name="Q1",
        slug="drafts-by-model",
        title="Drafts by model, version and weights",
        asks="In which drafts did this model, version or set of weights have a part, at which site, in this time?",
        source="EU MDR Annex I 17, Art. 83–88; EU AI Act Art. 12",
        parameters=(
            Parameter("model", Kind.TEXT, "Model", longest=64),
            Parameter("version", Kind.TEXT, "Version", longest=64),
            Parameter("weights", Kind.TEXT, "Weights SHA-256", longest=64, hint="of the set, or of one of its files"),
            Parameter("kind", Kind.CHOICE, "Kind", choices=_KINDS),
            Parameter("site", Kind.TEXT, "Site", longest=16, hint="the AE title that sent the study"),
            *PERIOD,
        ),
        columns=(
            Column("drafted_at", "Drafted at", Shown.INSTANT),
            Column("draft", "Draft", Shown.CODE),
            Column("study", "Study", Shown.STUDY),
            Column("model", "Model"),
            Column("version", "Version"),
            Column("kind", "Kind"),
            Column("weights_sha256", "Weights SHA-256", Shown.CODE),
            Column("site", "Site"),
            Column("modalities", "Modality"),
            Column("use", "Use"),
            Column("demonstration", "Demonstration", Shown.YES_NO),
            Column("pipeline", "Pipeline"),
            Column("reading", "Reading", Shown.CODE),
            Column("report", "Report now"),
        ),
        run=run,
    ),
)
