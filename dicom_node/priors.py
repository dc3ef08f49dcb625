"""Earlier Studies of the same patient: found, fetched, checked; never drafted.

For each Study that is received to be read, the archives of ``priors.sources`` are asked once; the best candidates
(:mod:`dicom_node.prior_choice`) are fetched, and what came is compared with the patient before anything of it is used.
"""

import random
import re
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from pydicom.dataset import Dataset
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError, InvalidUidError, LifecycleError, PeerUnavailableError
from config.settings import PriorSource, Settings
from db.lifecycle import priors as lifecycle
from db.lifecycle.prior_values import FetchedPrior, FoundPrior, PatientFacts, PriorJob, SearchJob
from db.prior_models import PriorState
from db.uow import Actor, unit_of_work
from dicom_node import retrieve
from dicom_node.dicomweb_archive import WebArchive
from dicom_node.prior_choice import Candidate, by_issuer, date_range, eligible, identity_mismatch, rank, regions
from dicom_node.prior_documents import UNREADABLE, read_documents
from dicom_node.query import find, query_keys
from dicom_node.retrieve import Fetched, Retrieval
from dicom_node.scu import address_of
from instances.arrival import Announced
from instances.header import valid_uid
from instances.inbox import make_inbox

log = structlog.get_logger()
_NODE = Actor("node", "process")
LEASE_S = 900.0
RETRY_BASE_S = 15.0
MAX_ATTEMPTS = 8  # about half an hour
_AT_ONCE = 32  # of one pass, so that searches are not kept waiting by retrievals
HELD = "it is here as a study to read and was not fetched"
SENT = "others sent it while it was fetched: it is a study to read"
NOT_NAMED = (
    "the archive does not name us as Move Originator (0000,1030), so what it sent counts as a study to read; "
    "use c-get or dicomweb with it"
)


def fetch_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Search and fetch for Studies that wait for it; return how many priors came.

    Raises:
        TransientError: the database cannot be used; what was claimed comes back when its lease ends.
    """
    if not settings.priors.sources:
        return 0
    came = 0
    for _ in range(_AT_ONCE):
        search_due(sessions, settings, now)
        with unit_of_work(sessions, _NODE) as uow:
            job = lifecycle.claim_prior(uow, now, lease_s=LEASE_S, max_attempts=MAX_ATTEMPTS)
        if job is None:
            break
        came += _fetch(sessions, settings, job)
    return came


def search_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Ask the archives for every Study that waits for it; return how many were answered."""
    try:
        with unit_of_work(sessions, _NODE) as uow:
            lifecycle.begin_searches(uow, now)
    except LifecycleError:
        log.info("priors.overtaken")  # another node noted the same Study
    answered = 0
    for _ in range(_AT_ONCE):
        with unit_of_work(sessions, _NODE) as uow:
            job = lifecycle.claim_search(uow, now, lease_s=LEASE_S, max_attempts=MAX_ATTEMPTS)
        if job is None:
            break
        answered += _search(sessions, settings, job, now)
    return answered


@dataclass(frozen=True)
class _Answers:
    """What the archives said: candidates, and who did not answer."""

    candidates: list[Candidate]
    answered: list[str]
    silent: list[str]


def _search(sessions: sessionmaker[Session], settings: Settings, job: SearchJob, now: datetime) -> bool:
    answers = _ask_all(settings, job)
    same, left_out = by_issuer(eligible(answers.candidates, job, years=settings.priors.years), job.patient.issuer)
    same = [_with_body_part(one, settings) for one in same]
    try:
        with unit_of_work(sessions, _NODE) as uow:
            if not answers.answered:
                reason = "; ".join(answers.silent)
                lifecycle.search_failed(uow, job.search_id, reason, base_s=_base_s(), max_attempts=MAX_ATTEMPTS)
                return False
            lifecycle.searched(
                uow,
                job.search_id,
                [one.found for one in rank(same, job)[: settings.priors.at_most]],
                now,
                candidates=len(same),
                sources=answers.answered,
                reason="; ".join([*answers.silent, *([left_out] if left_out else [])]),
            )
    except LifecycleError:
        log.info("priors.overtaken")
        return False
    log.info("priors.searched", count=len(same), study_id=job.study_id)
    return True


def _ask_all(settings: Settings, job: SearchJob) -> _Answers:
    answers = _Answers([], [], [])
    for source in settings.priors.sources:
        try:
            found = _ask(source, settings, _study_keys(job, settings.priors.years))
        except PeerUnavailableError as exc:
            log.warning("priors.archive_silent", destination=source.name, study_id=job.study_id, error=exc)
            answers.silent.append(f"{source.name}: {exc}")
            continue
        answers.answered.append(source.name)
        for one in found:
            candidate = _candidate(one, source, job.patient.patient_id.strip())
            if candidate is not None:
                answers.candidates.append(candidate)
    return answers


def _ask(source: PriorSource, settings: Settings, identifier: Dataset) -> list[Dataset]:
    if source.method == "dicomweb":
        return WebArchive(source, settings).studies(identifier)
    return find(address_of(source, settings), identifier)


def _study_keys(job: SearchJob, years: float) -> Dataset:
    """Return the query; the issuer is asked for, not matched: an archive that keeps none would answer nothing."""
    return query_keys(
        "STUDY",
        PatientID=job.patient.patient_id.strip(),
        StudyDate=date_range(job, years),
        IssuerOfPatientID="",
        StudyInstanceUID="",
        ModalitiesInStudy="",
        StudyDescription="",
        NumberOfStudyRelatedInstances="",
    )


def _candidate(ds: Dataset, source: PriorSource, patient_id: str) -> Candidate | None:
    """Return one match as it is kept; None for another patient's, and for one that holds no usable UID or values."""
    try:
        if _text(ds, "PatientID") != patient_id:
            return None
        modalities = ds.get("ModalitiesInStudy") or ""
        count = _text(ds, "NumberOfStudyRelatedInstances")
        found = FoundPrior(
            study_instance_uid=valid_uid(_text(ds, "StudyInstanceUID"), what="Study Instance UID"),
            source=source.name,
            method=source.method,
            study_date=_text(ds, "StudyDate"),
            modalities=(modalities if isinstance(modalities, str) else ",".join(map(str, modalities)))[:64],
            description=_text(ds, "StudyDescription")[:64],
            expected_instances=int(count) if re.fullmatch("[0-9]{1,7}", count) else None,
        )
        return Candidate(found, issuer=_text(ds, "IssuerOfPatientID"))
    except (InvalidUidError, *UNREADABLE):
        log.warning("priors.match_unreadable", destination=source.name)
        return None


def _with_body_part(candidate: Candidate, settings: Settings) -> Candidate:
    """Return the candidate with the Body Part Examined of its Series, where its description tells no region."""
    if regions(candidate.found.description):
        return candidate
    source = next(one for one in settings.priors.sources if one.name == candidate.found.source)
    uid = candidate.found.study_instance_uid
    try:
        if source.method == "dicomweb":
            series = WebArchive(source, settings).series(uid)
        else:
            keys = query_keys("SERIES", StudyInstanceUID=uid, SeriesInstanceUID="", BodyPartExamined="")
            series = find(address_of(source, settings), keys)
    except PeerUnavailableError:
        return candidate  # of an unknown region then
    try:
        parts = {_text(one, "BodyPartExamined") for one in series}
    except UNREADABLE:
        return candidate
    return replace(candidate, body_part=" ".join(sorted(parts)))


def _text(ds: Dataset, keyword: str) -> str:
    value = ds.get(keyword)
    return "" if value is None else str(value).replace("\x00", "").strip()


def _fetch(sessions: sessionmaker[Session], settings: Settings, job: PriorJob) -> bool:
    """Fetch one prior and record what came of it; return whether it may be compared with."""
    try:
        note = HELD if job.to_read else _retrieve(sessions, settings, job)
        with sessions() as session:
            outcome = _judge(session, settings, job, note)
        with unit_of_work(sessions, _NODE) as uow:
            state = lifecycle.prior_fetched(uow, job.prior_id, outcome)
    except LifecycleError:
        log.info("priors.overtaken")
        return False
    except AppError as exc:
        _postpone(sessions, job, exc)
        return False
    log.info("priors.fetched", study_id=job.study_id, destination=job.source, state=state)
    return state is PriorState.HERE


def _retrieve(sessions: sessionmaker[Session], settings: Settings, job: PriorJob) -> str:
    """Bring a Study into our Inbox; return what a reader should know of it.

    What an archive cannot send is asked for again; after the last attempt the rest is taken as it is.

    Raises:
        PeerUnavailableError: it is not all here; why.
    """
    source = next((one for one in settings.priors.sources if one.name == job.source), None)
    if source is None:
        raise PeerUnavailableError(f"{job.source} is not configured any more")
    with sessions() as session:
        before = lifecycle.held_instances(session, job.study_instance_uid)
    if job.expected_instances is not None and len(before) >= job.expected_instances > 0:
        return ""
    fetched = _from(source, sessions, settings, job, before)
    with sessions() as session:
        here = lifecycle.held_instances(session, job.study_instance_uid)
    if not here:
        raise PeerUnavailableError(f"{source.name}: nothing of the study came")
    if fetched.is_whole:
        return ""
    missing = max(fetched.failures, len(fetched.failed))
    short_of = f"{missing} of its instances could not be sent, {len(here)} are here"
    if job.attempts < MAX_ATTEMPTS:
        raise PeerUnavailableError(f"{source.name}: {short_of}")
    return short_of


def _from(
    source: PriorSource, sessions: sessionmaker[Session], settings: Settings, job: PriorJob, held: frozenset[str]
) -> Fetched:
    retrieval = Retrieval(job.study_instance_uid, job.message_id)
    ours = settings.dicom.ae_title
    inbox = make_inbox(sessions, settings)
    if source.method == "dicomweb":
        announced = Announced(
            transfer_syntax_uid="",
            sop_class_uid="",
            sop_instance_uid="",
            calling_ae=source.ae_title or source.name[:16],
            called_ae=ours,
            move_originator_ae=ours,
            move_message_id=job.message_id,
        )
        return WebArchive(source, settings).fetch(retrieval, inbox, announced, held)
    peer = address_of(source, settings)
    if source.method == "c-move":
        return retrieve.move(peer, retrieval)
    return retrieve.get(peer, retrieval, inbox, retrieve.study_classes(peer, job.study_instance_uid))


def _judge(session: Session, settings: Settings, job: PriorJob, note: str) -> FetchedPrior:
    """Return whether what is here is this patient's, and the reports in it."""
    study = lifecycle.held(session, job.study_instance_uid)
    assert study is not None
    if not job.to_read and not study.is_prior:
        note = "; ".join(part for part in (note, NOT_NAMED if job.method == "c-move" else SENT) if part)
    if study.identity_conflict:
        return FetchedPrior(refused="its images name more than one Patient ID", note=note)
    if why := identity_mismatch(job.patient, PatientFacts.of(study)):
        return FetchedPrior(refused=why, note=note)
    documents, contradicted = read_documents(session, settings, study.id, job.patient)
    if contradicted:
        return FetchedPrior(refused=f"a report in it is of another patient: {contradicted}", note=note)
    return FetchedPrior(documents=documents, note=note)


def _postpone(sessions: sessionmaker[Session], job: PriorJob, exc: AppError) -> None:
    log.warning("priors.not_fetched", study_id=job.study_id, destination=job.source, error=exc, attempt=job.attempts)
    try:
        with unit_of_work(sessions, _NODE) as uow:
            lifecycle.prior_failed(uow, job.prior_id, str(exc), base_s=_base_s(), max_attempts=MAX_ATTEMPTS)
    except LifecycleError:
        log.info("priors.overtaken")


def _base_s() -> float:
    return RETRY_BASE_S * random.uniform(0.75, 1.25)  # so that many do not come back at one moment
