"""What goes in and out of the search for priors: plain frozen values, no rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from db.models import Study
from db.prior_models import Prior


@dataclass(frozen=True)
class PatientFacts:
    """Who a Study says its patient is, as received."""

    patient_id: str
    issuer: str
    name: str
    birth_date: str
    sex: str

    @classmethod
    def of(cls, study: Study) -> Self:
        """Return the patient of a Study."""
        return cls(
            study.patient_id,
            study.issuer_of_patient_id,
            study.patient_name,
            study.patient_birth_date,
            study.patient_sex,
        )


@dataclass(frozen=True)
class SearchJob:
    """One Study to find priors for."""

    search_id: UUID
    study_id: UUID
    study_instance_uid: str
    patient: PatientFacts
    study_date: str
    modalities: str
    body_part: str
    description: str

    @classmethod
    def of(cls, search_id: UUID, study: Study) -> Self:
        """Return the job for a Study; one without Study Date is taken for one of the day it came."""
        return cls(
            search_id=search_id,
            study_id=study.id,
            study_instance_uid=study.study_instance_uid,
            patient=PatientFacts.of(study),
            study_date=study.study_date or study.first_received_at.strftime("%Y%m%d"),
            modalities=study.modalities,
            body_part=study.body_part,
            description=study.study_description,
        )


@dataclass(frozen=True)
class FoundPrior:
    """One earlier Study as an archive described it."""

    study_instance_uid: str
    source: str
    method: str
    study_date: str
    modalities: str
    description: str
    expected_instances: int | None
    note: str = ""


@dataclass(frozen=True)
class PriorJob:
    """One earlier Study to fetch, and the patient it must be of.

    ``to_read`` says that it is here already because others sent it: it is not fetched then.
    """

    prior_id: UUID
    study_id: UUID
    study_instance_uid: str
    source: str
    method: str
    message_id: int
    expected_instances: int | None
    attempts: int
    patient: PatientFacts
    to_read: bool

    @classmethod
    def of(cls, prior: Prior, current: Study, held: Study | None) -> Self:
        """Return the job for one prior of ``current``."""
        return cls(
            prior_id=prior.id,
            study_id=prior.study_id,
            study_instance_uid=prior.study_instance_uid,
            source=prior.source,
            method=prior.method,
            message_id=prior.message_id,
            expected_instances=prior.expected_instances,
            attempts=prior.attempts,
            patient=PatientFacts.of(current),
            to_read=held is not None and not held.is_prior,
        )


@dataclass(frozen=True)
class FetchedPrior:
    """What came of one: ``refused`` says why it is not compared with, and is empty when it may be."""

    documents: Sequence[Mapping[str, Any]] = ()
    refused: str = ""
    note: str = ""
