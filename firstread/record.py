"""Questions to the record from the command line; each look is itself an event."""

from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from config.settings import Settings
from db import queries
from db.audit import AuditTag
from db.engine import current_sessions
from db.report_models import Draft
from db.uow import unit_of_work
from firstread.people import actor
from publishing.assessment import assessment

if TYPE_CHECKING:
    from worker.reproduce import Reproduction


def study_events(settings: Settings, accession: str) -> list[dict[str, Any]]:
    """Return a Study's audit events in order; looking is itself recorded."""
    sessions = current_sessions(settings.database)
    with unit_of_work(sessions, actor()) as uow:
        uow.audit(AuditTag.AUDIT_VIEWED, object_type="accession", object_id=accession[:64])
    with sessions() as session:
        if "." in accession:
            # an Accession Number (SH) of digits and dots is rare, and would be a UID
            events = queries.audit_events(session, study_instance_uid=accession)
        else:
            events = queries.audit_events(session, accession=accession)
        return [
            {
                "seq": e.seq,
                "occurred_at": e.occurred_at.isoformat(),
                "actor": e.actor,
                "tag": e.tag,
                "outcome": e.outcome,
                "object": f"{e.object_type}:{e.object_id}" if e.object_id else e.object_type,
                "detail": e.detail,
            }
            for e in events
        ]


def draft_record(settings: Settings, name: str) -> dict[str, Any]:
    """Return a draft's provenance record with its human side; looking is itself recorded.

    Raises:
        RefusedInputError: no such draft.
    """
    sessions = current_sessions(settings.database)
    with unit_of_work(sessions, actor()) as uow:
        draft = find_draft(uow.session, name)
        uow.audit(
            AuditTag.AUDIT_VIEWED,
            study_id=draft.study_id,
            reading_id=draft.reading_id,
            object_type="draft",
            object_id=str(draft.id),
        )
        human = queries.human_side(uow.session, draft)
        return {"draft_id": draft.id, "created_at": draft.created_at, **draft.provenance, "human": human}


def study_assessment(settings: Settings, name: str) -> dict[str, Any]:
    """Return what readers made of each AI finding of a Study; the export is itself recorded.

    Raises:
        RefusedInputError: no such Study, or more than one carries the Accession Number.
    """
    sessions = current_sessions(settings.database)
    with unit_of_work(sessions, actor()) as uow:
        uid = name if "." in name else ""
        studies = queries.find_studies(uow.session, accession="" if uid else name, study_instance_uid=uid)
        if len(studies) != 1:
            raise RefusedInputError(f"{len(studies)} studies carry this name: name one by its Study Instance UID")
        record = assessment(uow.session, studies[0].id)
        uow.audit(AuditTag.ASSESSMENT_EXPORTED, study_id=studies[0].id)
        return record


def find_draft(session: Session, name: str) -> Draft:
    """Return the draft of that id, or the newest draft of the Study of that Accession Number or UID.

    Raises:
        RefusedInputError: none, or more than one Study carries the Accession Number.
    """
    try:
        found = queries.draft(session, UUID(name))
    except ValueError:
        uid = name if "." in name else ""
        studies = queries.find_studies(session, accession="" if uid else name, study_instance_uid=uid)
        if len(studies) > 1:
            raise RefusedInputError(
                f"{len(studies)} studies carry this accession number: name one by its UID"
            ) from None
        found = queries.newest_draft(session, studies[0].id) if studies else None
    if found is None:
        raise RefusedInputError("there is no such draft")
    return found


def reproduce_draft(settings: Settings, name: str) -> "Reproduction":
    """Run a draft's attempt again with the models it names and record the verdict.

    Raises:
        RefusedInputError: no such draft, or its inputs are not what they were.
        ModelError: the models are not installed any more, or cannot be run.
    """
    sessions = current_sessions(settings.database)
    with sessions() as session:
        draft = find_draft(session, name)

    from worker.pipeline import StudyPipeline  # seconds, which a name that is wrong need not wait for
    from worker.reproduce import reproduce

    result = reproduce(StudyPipeline(sessions, settings), sessions, draft.id)
    with unit_of_work(sessions, actor()) as uow:
        uow.audit(
            AuditTag.DRAFT_REPRODUCED,
            study_id=draft.study_id,
            reading_id=draft.reading_id,
            object_type="draft",
            object_id=str(draft.id),
            detail={"verdict": result.verdict, "circumstances": list(result.circumstances)},
        )
    return result
