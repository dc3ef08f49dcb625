"""What the tests of workitems share: a client with a token, and Data Sets as an orchestrator would send them."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from sqlalchemy import delete, select
from werkzeug.test import TestResponse

from db.tokens import Scope
from db.workitem_models import WorkitemEvent
from tests.dashboard_support import Site
from tests.dicomweb_support import make_token

JSON_TYPE = "application/dicom+json"
GLOBAL = "1.2.840.10008.5.1.4.34.5"
FILTERED = "1.2.840.10008.5.1.4.34.5.1"
INCONSISTENT = "The submitted request is inconsistent with the state of the UPS Instance."


def uid() -> str:
    """A UID nobody has used."""
    return f"2.25.{uuid4().int}"


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """One coded entry."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def ups(study_uid: str = "", station: str = "", **changes: Any) -> Dataset:
    """A workitem that meets the N-CREATE column of PS3.4 table CC.2.5-3, made by pydicom."""
    ds = Dataset()
    ds.TransactionUID = ""
    ds.ScheduledProcedureStepPriority, ds.ProcedureStepLabel, ds.WorklistLabel = "MEDIUM", "Read chest CT", "AI"
    ds.ScheduledProcedureStepStartDateTime = "20261122093000+0000"
    ds.InputReadinessState, ds.ProcedureStepState = "READY", "SCHEDULED"
    ds.ScheduledWorkitemCodeSequence = [code("110004", "DCM", "Computer Aided Detection")]
    ds.ScheduledStationNameCodeSequence = [code(station, "99LOCAL", "A station")] if station else []
    source = Dataset()
    source.TypeOfInstances, source.StudyInstanceUID = "DICOM", study_uid
    ds.InputInformationSequence = [source] if study_uid else []
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Nilsen^Åse", "P-77", "19600102", "F"
    request = Dataset()
    request.AccessionNumber, request.StudyInstanceUID = "ACC-77", study_uid
    ds.ReferencedRequestSequence = [request]
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def performed() -> Dataset:
    """What a performer has to say before it completes a workitem."""
    done = Dataset()
    done.PerformedStationNameCodeSequence = [code("AI2", "99LOCAL", "Another AI")]
    done.PerformedWorkitemCodeSequence = [code("110004", "DCM", "Computer Aided Detection")]
    done.PerformedProcedureStepStartDateTime = "20261122100000+0000"
    done.PerformedProcedureStepEndDateTime = "20261122100200+0000"
    result = Dataset()
    result.TypeOfInstances, result.StudyInstanceUID = "DICOM", "1.2.3"
    done.OutputInformationSequence = [result]
    ds = Dataset()
    ds.UnifiedProcedureStepPerformedProcedureSequence = [done]
    return ds


def state(to: str, transaction: str = "") -> dict[str, Any]:
    """The payload of a change of state."""
    return element("ProcedureStepState", to) | (element("TransactionUID", transaction) if transaction else {})


def element(keyword: str, *values: Any) -> dict[str, Any]:
    """One element in the DICOM JSON Model."""
    return {f"{tag_for_keyword(keyword):08X}": {"vr": dictionary_VR(keyword), "Value": list(values)}}


@dataclass(frozen=True)
class Orchestrator:
    """A client with a token of its own."""

    site: Site
    ae_title: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """What lets a request in."""
        return {"Authorization": f"Bearer {self.token}"}

    def get(self, path: str, **query: str) -> TestResponse:
        """Ask for something below the service."""
        return self.site.app.test_client().get(f"/ups{path}", query_string=query, headers=self.headers)

    def send(self, method: str, path: str, body: Any = b"", **options: Any) -> TestResponse:
        """Send a Data Set: pydicom's, plain JSON, or bytes as they are."""
        if isinstance(body, Dataset):
            body = [body.to_json_dict()]
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {**self.headers, "Content-Type": options.pop("content_type", JSON_TYPE)}
        return self.site.app.test_client().open(
            f"/ups{path}", method=method, data=content, headers=headers, query_string=options or None
        )

    def create(self, ds: Dataset, workitem: str = "") -> str:
        """Create a workitem; return its UID."""
        workitem = workitem or uid()
        answer = self.send("POST", f"/workitems?{workitem}", ds)
        assert answer.status_code == 201, answer.text
        return workitem

    def claim(self, workitem: str) -> str:
        """Claim a workitem; return the Transaction UID."""
        transaction = uid()
        answer = self.send("PUT", f"/workitems/{workitem}/state", state("IN PROGRESS", transaction))
        assert answer.status_code == 200, answer.text
        return transaction

    def found(self, **query: str) -> list[Dataset]:
        """The workitems that match, read by pydicom."""
        answer = self.get("/workitems", **query)
        assert answer.status_code in {200, 204}, answer.text
        return [Dataset.from_json(one) for one in answer.json] if answer.status_code == 200 else []

    def item(self, workitem: str) -> Dataset:
        """A workitem, read by pydicom."""
        answer = self.get(f"/workitems/{workitem}")
        assert answer.status_code == 200, answer.text
        (one,) = answer.json
        return Dataset.from_json(one)


def orchestrator(site: Site, name: str = "ORCH", *scopes: Scope) -> Orchestrator:
    """A client that may do everything unless told otherwise."""
    return Orchestrator(site, name, make_token(site.sessions, name, *scopes))


def waiting(site: Site, ae_title: str) -> list[tuple[str, str, str]]:
    """(workitem, event type, state) of the event reports that wait."""
    with site.sessions() as db:
        rows = db.scalars(select(WorkitemEvent).where(WorkitemEvent.ae_title == ae_title).order_by(WorkitemEvent.id))
        return [
            (row.uid, row.event_type.value, row.attributes.get("00741000", {}).get("Value", [""])[0]) for row in rows
        ]


def forget(site: Site) -> None:
    """Drop what waits, to see what comes."""
    with site.sessions() as db:
        db.execute(delete(WorkitemEvent))
        db.commit()


def subscribe(client: Orchestrator, workitem: str, **query: str) -> None:
    """Subscribe to a workitem, or to a well-known UID."""
    answer = client.send("POST", f"/workitems/{workitem}/subscribers/{client.ae_title}", **query)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Content-Location"] == f"ws://localhost/ups/subscribers/{client.ae_title}"
