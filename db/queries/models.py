"""Model packages of this site: what they drafted, what is proposed about them, which drafts a recall would reach."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.models import Study
from db.package_models import LicenceAcceptance, Package
from db.packages import acceptance, list_packages
from db.report_models import Draft, Evidence, Report
from db.running_models import ModelSwitch
from db.types import ReportState, SwitchState

LATELY = timedelta(days=90)
_UNSIGNED = (ReportState.DRAFTED, ReportState.IN_REVIEW, ReportState.PRELIMINARY, ReportState.REJECTED)
_MOST = 500


@dataclass(frozen=True)
class Used:
    """How often a version drafted lately, and when last."""

    drafts: int
    last_at: datetime | None


@dataclass(frozen=True)
class StoredPackage:
    """One package of the store; ``accepted`` is who accepted its licence."""

    package: Package
    accepted: LicenceAcceptance | None
    open_switch: ModelSwitch | None


@dataclass(frozen=True)
class Recalled:
    """One report that is not final and rests on a version."""

    study_id: UUID
    accession_number: str
    modalities: str
    state: ReportState
    drafted_at: datetime


def stored_packages(session: Session) -> list[StoredPackage]:
    """Return every package of the store with its licence's acceptance and the proposal that waits, by name."""
    waiting = {
        row.package_id: row
        for row in session.scalars(select(ModelSwitch).where(ModelSwitch.state == SwitchState.PROPOSED))
    }
    return [
        StoredPackage(one, acceptance(session, one.name, one.licence_sha256), waiting.get(one.id))
        for one in list_packages(session)
    ]


def decided_switches(session: Session, *, limit: int = 20) -> list[tuple[ModelSwitch, Package]]:
    """Return the proposals that were decided, newest first."""
    query = (
        select(ModelSwitch, Package)
        .join(Package, Package.id == ModelSwitch.package_id)
        .where(ModelSwitch.state != SwitchState.PROPOSED)
        .order_by(ModelSwitch.decided_at.desc())
        .limit(limit)
    )
    return [(row, package) for row, package in session.execute(query)]


def used_lately(session: Session, now: datetime) -> Mapping[tuple[str, str], Used]:
    """Return what each version did in 90 days, by name and version: drafts written, or drafts an expert gave to."""
    model = Draft.provenance["models"][0]
    name, version = model["name"].as_string(), model["version"].as_string()
    since = Draft.created_at > now - LATELY
    wrote = select(name, version, func.count(), func.max(Draft.created_at)).where(since).group_by(name, version)
    gave = (
        select(Evidence.expert, Evidence.version, func.count(Draft.id.distinct()), func.max(Draft.created_at))
        .join(Draft, Draft.id == Evidence.draft_id)
        .where(since)
        .group_by(Evidence.expert, Evidence.version)
    )
    found: dict[tuple[str, str], Used] = {}
    for query in (gave, wrote):
        for who, of, count, last in session.execute(query):
            found[str(who), str(of)] = Used(count, last)
    return found


def recall_list(session: Session, name: str, version: str) -> list[Recalled]:
    """Return the reports that are not final and whose draft rests on this version, oldest first.

    What was signed as final stays: for that the audit log answers.
    """
    models: Any = Draft.provenance["models"]
    query = (
        select(Study.id, Study.accession_number, Study.modalities, Report.state, Draft.created_at, models)
        .join(Report, Report.draft_id == Draft.id)
        .join(Study, Study.id == Draft.study_id)
        .where(Report.state.in_(_UNSIGNED))
        .order_by(Draft.created_at)
    )
    found = []
    for study_id, accession, modalities, state, at, recorded in session.execute(query):
        if any((one.get("name"), one.get("version")) == (name, version) for one in recorded or []):
            found.append(Recalled(study_id, accession, modalities, state, at))
            if len(found) == _MOST:
                break
    return found
