"""The signed report as a DICOM object: built by ``reports``, written durably before the signature is committed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from config.results import ResultKind
from config.settings import Settings
from db.lifecycle import NewObject, text_sha256
from db.queries import InstancePath, ReportDetail, instance_paths
from db.report_models import Signature
from db.types import ReportState
from publishing.store import keep_object
from reports.narrative_sr import build_narrative_sr
from reports.sr_common import Evidence
from reports.values import (
    AlgorithmIdentity,
    DraftIdentity,
    Equipment,
    InstanceReference,
    Predecessor,
    Section,
    SectionKey,
    Signer,
    SignOff,
    weights_digest,
)


@dataclass(frozen=True)
class Signing:
    """One act of signing, before it is committed.

    Attributes:
        signature_id: of the Signature to be made.
        state: PRELIMINARY or FINAL.
        login, printed_name: of the signer; the login is the staff number of this site.
        signed_at: the moment, with time zone.
    """

    signature_id: UUID
    state: ReportState
    login: str
    printed_name: str
    signed_at: datetime


def write_signed_document(db: Session, detail: ReportDetail, signing: Signing, settings: Settings) -> NewObject:
    """Build the signed Enhanced SR and write it under the result store; return its row.

    The file name holds the signature's id, so an act that fails later leaves a file nobody refers to, and
    never replaces another.

    Raises:
        RefusedInputError: no text, no readable image, or no valid object.
        OutOfSpaceError: the result store is full.
    """
    return keep_object(
        build_document(db, detail, signing, settings),
        ResultKind.SIGNED_SR if signing.state is ReportState.FINAL else ResultKind.PRELIMINARY_SR,
        f"{detail.study.id}/signed/{signing.signature_id}.dcm",
        results_dir=settings.results_dir,
        destinations=settings.destinations,
        is_signed=True,
    )


def build_document(db: Session, detail: ReportDetail, signing: Signing, settings: Settings) -> Dataset:
    """Return the signed Enhanced SR of a report as it stands.

    Raises:
        RefusedInputError: no text, no readable image, or no valid object.
    """
    used = _instances_used(detail, instance_paths(db, detail.study.id))
    source = _first_readable(settings.instances_dir / one.path for one in used)
    study_uid = detail.study.study_instance_uid
    references = [
        InstanceReference(study_uid, one.series_instance_uid, one.sop_class_uid, one.sop_instance_uid) for one in used
    ]
    earlier = _written_before(detail, settings.results_dir)
    behind = [InstanceReference.of(ds) for kind, ds in earlier if kind in {"SEG", "FINDINGS_SR"}]
    documents = [
        Predecessor(InstanceReference.of(ds)) for kind, ds in earlier if kind.endswith("_SR") and kind in _TEXT
    ]
    return build_narrative_sr(
        [Section(key=cast("SectionKey", key), text=str(text)) for key, text in detail.report.sections.items() if text],
        Evidence(source, [*references, *behind]),
        identity=DraftIdentity(
            study_uid, str(signing.signature_id), text_sha256(detail.report.sections), signing.signed_at
        ),
        equipment=Equipment(software_versions=(version("firstread"),), institution=settings.organization),
        algorithms=algorithms_of(detail.draft.provenance.get("models", []) if detail.draft else []),
        sign_off=SignOff(
            signer=_signer(signing.printed_name, signing.login, settings.organization, signing.signed_at),
            predecessors=tuple(documents),
            preliminary=signing.state is ReportState.PRELIMINARY,
            attested_author=_attested(detail.signatures, signing, settings.organization),
        ),
    )


_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, InvalidDicomError)
_TEXT = frozenset({"DRAFT_SR", "PRELIMINARY_SR"})


def algorithms_of(models: Sequence[Mapping[str, Any]]) -> list[AlgorithmIdentity]:
    """Return the models of a draft's provenance record as they are named in DICOM."""
    return [
        AlgorithmIdentity(
            name=str(one.get("name", "")),
            version=str(one.get("version", "")),
            manufacturer="Firstread" if one.get("demonstration") else "see model licence",
            weights_sha256=weights_digest(one.get("weights_sha256") or {}),
            demonstration=bool(one.get("demonstration")),
            research_only=bool(one.get("research_only")),
        )
        for one in models
    ]


def _instances_used(detail: ReportDetail, held: Sequence[InstancePath]) -> list[InstancePath]:
    """Return the images the draft was made from; all of the study when there is none."""
    record: Mapping[str, Sequence[str]] = detail.draft.provenance.get("instances_used", {}) if detail.draft else {}
    used = {uid for uids in record.values() for uid in uids}
    return [one for one in held if one.sop_instance_uid in used] or list(held)


def _first_readable(paths: Iterable[Path]) -> Dataset:
    for path in paths:
        try:
            return dcmread(path, stop_before_pixels=True, force=True)
        except _UNREADABLE:
            continue
    raise RefusedInputError("no image of this study can be read, so no report can name it")


def _written_before(detail: ReportDetail, results_dir: Path) -> list[tuple[str, Dataset]]:
    """Return what was made of this report's draft and signatures, headers only."""
    draft_id = detail.report.draft_id
    ours = [one for one in detail.objects if one.signature_id is not None or one.draft_id == draft_id]
    return [(one.kind, dcmread(results_dir / one.path, stop_before_pixels=True)) for one in ours]


def _signer(printed_name: str, login: str, organization: str, signed_at: datetime) -> Signer:
    given, _, family = printed_name.rpartition(" ")
    return Signer(printed_name, family, given, login, organization, signed_at)


def _attested(signatures: Sequence[Signature], signing: Signing, organization: str) -> Signer | None:
    """Return who signed the preliminary report that another person now makes final."""
    if signing.state is not ReportState.FINAL:
        return None
    earlier = [one for one in signatures if one.state is ReportState.PRELIMINARY]
    if not earlier or earlier[-1].printed_name == signing.printed_name:
        return None
    last = earlier[-1]
    return _signer(last.printed_name, str(last.user_id), organization, last.signed_at)
