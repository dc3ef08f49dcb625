"""A workitem as a Data Set: a Reading's from what is known of it, a client's as it was sent (PS3.4 table CC.2.5-3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from sqlalchemy.orm import Session

from config.settings import Settings
from dashboard.dicomweb.model import json_values
from dashboard.dicomweb.objects import read_attributes
from dashboard.workitems.payload import Element
from db.models import ImagingOrder, Reading, ResultObject, Study
from db.queries.workitems import Input, Output, ReadingItem, inputs, output
from db.types import ReadingState
from db.workitem_models import StepState, Workitem
from db.workitem_values import (
    PRIORITIES,
    READING_CODE,
    READING_LABEL,
    STATION,
    UPS_CLASS,
    WORKLIST_LABEL,
    Step,
    present_step,
    state_report,
)

Code = tuple[str, str, str]
_EXPLICIT = "1.2.840.10008.1.2.1"  # what results are written in
_SERIES_UID = 0x0020000E
_DEVICE_SCHEME = "99FIRSTREAD"
# CID 9300; the words beside it say more
_DISCONTINUED: Code = ("110513", "DCM", "Discontinued for unspecified reason")
_FAILED: Code = ("110501", "DCM", "Equipment failure")
# what every workitem has, if empty: return type 2
_ALWAYS = (
    "ScheduledStationNameCodeSequence", "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence", "ScheduledProcessingParametersSequence",
    "ScheduledWorkitemCodeSequence", "InputInformationSequence", "PatientName", "PatientID", "IssuerOfPatientID",
    "PatientBirthDate", "PatientSex", "AdmissionID", "IssuerOfAdmissionIDSequence", "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence", "ReferencedRequestSequence", "ProcedureStepProgressInformationSequence",
    "UnifiedProcedureStepPerformedProcedureSequence", "CommentsOnTheScheduledProcedureStep",
)  # fmt: skip
_WAITING = {
    ReadingState.QUEUED: "waiting for another attempt",
    ReadingState.RETRYING: "waiting for another attempt",
    ReadingState.RUNNING: "being read",
}


@dataclass(frozen=True)
class Shaper:
    """Makes Data Sets of workitems.

    ``dicomweb`` is the address that images and results are retrieved below; empty when they are not served.
    """

    db: Session
    settings: Settings
    dicomweb: str

    def full(self, item: ReadingItem | Workitem) -> dict[str, Element]:
        """Return all that is known of a workitem."""
        return self._shaped(item, whole=True)

    def brief(self, item: ReadingItem | Workitem) -> dict[str, Element]:
        """Return a workitem for a list: its input and output by Study, not by Instance."""
        return self._shaped(item, whole=False)

    def _shaped(self, item: ReadingItem | Workitem, *, whole: bool) -> dict[str, Element]:
        empty = json_values(dict.fromkeys(_ALWAYS))
        own = self._of_client(item, whole=whole) if isinstance(item, Workitem) else self._of_reading(item, whole=whole)
        return dict(sorted((empty | own).items()))

    def _of_client(self, one: Workitem, *, whole: bool) -> dict[str, Element]:
        known = {
            "SpecificCharacterSet": "ISO_IR 192",
            "SOPClassUID": UPS_CLASS,
            "SOPInstanceUID": one.uid,
            "ProcedureStepState": one.state.value,
            "InputReadinessState": one.readiness.value,
            "WorklistLabel": one.worklist_label,
            "ScheduledProcedureStepModificationDateTime": dt(one.modified_at),
        }
        ds = one.attributes | json_values(known)
        if one.state is StepState.CANCELED:
            ds |= json_values(
                {
                    "ProcedureStepProgressInformationSequence": [
                        _progress(ds.get("00741002"), one.reason, one.finished_at, _DISCONTINUED)
                    ]
                }
            )
        reading = self.db.get(Reading, one.reading_id) if one.is_ours and one.reading_id else None
        if reading is not None and one.state in {StepState.IN_PROGRESS, StepState.COMPLETED}:
            done = one.state is StepState.COMPLETED
            study = self.db.get_one(Study, reading.study_id)
            ds |= json_values(self._performed(reading, study, done=done, whole=whole))
        return ds

    def _of_reading(self, item: ReadingItem, *, whole: bool) -> dict[str, Element]:
        reading, study = item.reading, item.study
        step = present_step(reading)
        reason = reading.reason
        ended_at = reading.finished_at
        if item.is_ended_run and item.run is not None:
            step, reason, ended_at = Step(StepState.CANCELED, step.readiness), item.run.reason, item.run.ended_at
        started = item.run.started_at if item.run else reading.created_at
        series = inputs(self.db, study.id, reading.revision) if whole else []
        values: dict[str, Any] = {
            "SpecificCharacterSet": "ISO_IR 192",
            "SOPClassUID": UPS_CLASS,
            "SOPInstanceUID": item.uid,
            "ScheduledProcedureStepStartDateTime": dt(started),
            "ScheduledProcedureStepModificationDateTime": dt(item.modified_at),
            "ScheduledProcedureStepPriority": PRIORITIES[reading.priority].value,
            "ProcedureStepLabel": READING_LABEL,
            "WorklistLabel": WORKLIST_LABEL,
            "ScheduledWorkitemCodeSequence": [code(READING_CODE)],
            "ScheduledStationNameCodeSequence": [code(STATION)],
            "InputInformationSequence": self._input(study, series),
            **_patient(study, item.order),
            "ReferencedRequestSequence": [_request(study, item.order)],
        }
        if step.state is StepState.CANCELED:
            why = _FAILED if reading.state is ReadingState.FAILED and not item.is_ended_run else _DISCONTINUED
            values["ProcedureStepProgressInformationSequence"] = [_progress(None, reason, ended_at, why)]
        elif step.state is not StepState.SCHEDULED:
            values |= self._performed(reading, study, done=step.state is StepState.COMPLETED, whole=whole)
        told = {tag: element for tag, element in state_report(step).items() if tag != "00741238"}
        return json_values(values) | told

    def _performed(self, reading: Reading, study: Study, *, done: bool, whole: bool) -> dict[str, Any]:
        """Return progress and what was performed: by this station, with the models that its draft names."""
        progress: dict[str, Any] = {"ProcedureStepProgress": 100.0} if done else {}
        words = "a draft report is there" if done else _WAITING.get(reading.state, "")
        progress |= {"ProcedureStepProgressDescription": words} if words else {}
        made = output(self.db, reading.id) if done else None
        performed = {
            "PerformedStationNameCodeSequence": [code(STATION)],
            "PerformedWorkitemCodeSequence": [code(READING_CODE)],
            "PerformedProcedureStepStartDateTime": dt(reading.started_at),
            "PerformedProcedureStepDescription": READING_LABEL,
        }
        if done:
            performed |= {
                "PerformedProcedureStepEndDateTime": dt(reading.finished_at),
                "PerformedProcessingParametersSequence": json_items(_models(made)),
                "OutputInformationSequence": self._output(study, made) if whole else [],
            }
        return {
            "ProcedureStepProgressInformationSequence": [json_values(progress)],
            "UnifiedProcedureStepPerformedProcedureSequence": [json_values(performed)],
        }

    def _input(self, study: Study, series: Sequence[Input]) -> list[Mapping[str, Any]]:
        if not series:
            return [self._reference(study.study_instance_uid)]
        return [self._reference(study.study_instance_uid, one.series_instance_uid, one.instances) for one in series]

    def _output(self, study: Study, made: Output | None) -> list[Mapping[str, Any]]:
        by_series: dict[str, list[tuple[str, str]]] = {}
        for one in made.objects if made else []:
            by_series.setdefault(self._series_of(one), []).append((one.sop_class_uid, one.sop_instance_uid))
        return [self._reference(study.study_instance_uid, uid, objects) for uid, objects in by_series.items()]

    def _series_of(self, made: ResultObject) -> str:
        path = self.settings.results_dir / made.path
        if not path.is_file():
            return ""
        return str(read_attributes(path, _EXPLICIT, [_SERIES_UID]).get("SeriesInstanceUID", ""))

    def _reference(
        self, study_uid: str, series_uid: str = "", instances: Sequence[tuple[str, str]] = ()
    ) -> dict[str, Element]:
        """Return one item of the Referenced Instances and Access Macro (PS3.3 table 10-3b)."""
        address = f"{self.dicomweb}/studies/{study_uid}" + (f"/series/{series_uid}" if series_uid else "")
        values: dict[str, Any] = {"TypeOfInstances": "DICOM", "StudyInstanceUID": study_uid}
        if series_uid:
            values["SeriesInstanceUID"] = series_uid
        if instances:
            values["ReferencedSOPSequence"] = json_items(
                [{"ReferencedSOPClassUID": sop_class, "ReferencedSOPInstanceUID": uid} for sop_class, uid in instances]
            )
        if self.dicomweb:
            values["WADORSRetrievalSequence"] = json_items([{"RetrieveURL": address}])
        return json_values(values)


def json_items(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Element]]:
    """Return the items of a sequence in the DICOM JSON Model, from plain values by keyword."""
    return [json_values(item) for item in items]


def code(entry: Code) -> dict[str, Element]:
    """Return one item of the Code Sequence Macro (PS3.3 table 8.8-1)."""
    value, scheme, meaning = entry
    return json_values({"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning})


def dt(moment: datetime | None) -> str:
    """Return an instant as a DT in UTC (PS3.5 section 6.2)."""
    return moment.astimezone(UTC).strftime("%Y%m%d%H%M%S.%f+0000") if moment else ""


def selected(ds: Mapping[str, Element], keywords: Sequence[str]) -> dict[str, Element]:
    """Return ``ds`` with the attributes of ``keywords`` added empty where they are missing."""
    known = dict(ds)
    for keyword in keywords:
        known.setdefault(f"{tag_for_keyword(keyword):08X}", {"vr": dictionary_VR(keyword)})
    return dict(sorted(known.items()))


def _patient(study: Study, order: ImagingOrder | None) -> dict[str, Any]:
    return {
        "PatientName": study.patient_name,
        "PatientID": study.patient_id,
        "IssuerOfPatientID": study.issuer_of_patient_id,
        "PatientBirthDate": study.patient_birth_date,
        "PatientSex": study.patient_sex,
        "AdmissionID": order.visit_number if order else "",
        "StudyInstanceUID": study.study_instance_uid,
    }


def _request(study: Study, order: ImagingOrder | None) -> dict[str, Element]:
    values: dict[str, Any] = {
        "StudyInstanceUID": study.study_instance_uid,
        "AccessionNumber": study.accession_number or (order.accession_number[:16] if order else ""),
        "RequestedProcedureID": "",
        "RequestedProcedureDescription": (order.procedure_text if order else "")[:64] or study.study_description,
        "RequestedProcedureCodeSequence": [],
    }
    if order is not None:
        values |= {
            "PlacerOrderNumberImagingServiceRequest": order.placer_order_number[:64],
            "FillerOrderNumberImagingServiceRequest": order.filler_order_number[:64],
            "ReasonForTheRequestedProcedure": order.indication[:64],
            "RequestingPhysician": order.ordering_provider,
        }
        if order.procedure_code:
            scheme = order.procedure_scheme[:16] or "L"
            values["RequestedProcedureCodeSequence"] = [
                code((order.procedure_code[:16], scheme, order.procedure_text[:64] or order.procedure_code[:64]))
            ]
    return json_values(values)


def _progress(told: Element | None, reason: str, ended_at: datetime | None, why: Code) -> dict[str, Element]:
    """Return the item that says why and when a step was canceled; what its performer said goes first."""
    values: dict[str, Any] = {"ProcedureStepCancellationDateTime": dt(ended_at)}
    if reason:
        values["ReasonForCancellation"] = reason
    values["ProcedureStepDiscontinuationReasonCodeSequence"] = [code(why)]
    said: dict[str, Element] = ((told or {}).get("Value") or [{}])[0]
    return json_values(values) | said


def _models(made: Output | None) -> list[dict[str, Any]]:
    """Return the models behind a draft as coded or named parameters (PS3.3 section 10.2, Content Item Macro)."""
    return [
        {
            "ValueType": "TEXT",
            "ConceptNameCodeSequence": [code(("111001", "DCM", "Algorithm Name"))],
            "TextValue": f"{model.get('name', '')} {model.get('version', '')}".strip(),
        }
        for model in (made.models if made else [])
    ]
