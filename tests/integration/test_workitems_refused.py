"""What is no workitem, and who may not: everything that the worklist refuses, and what is left after it."""

import json
from pathlib import Path
from typing import Any

import pytest

from db.tokens import Scope
from tests.dashboard_support import Site, make_site
from tests.dicomweb_support import events
from tests.workitems_support import code, element, orchestrator, performed, state, uid, ups


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url, dicom={"min_free_bytes": 0})


def warnings(answer: Any) -> str:
    return " ".join(answer.headers.getlist("Warning"))


# --- what is refused ---------------------------------------------------------------------------------------


def _without(keyword: str) -> dict[str, Any]:
    ds = ups()
    delattr(ds, keyword)
    return ds.to_json_dict()


def _deep(levels: int) -> dict[str, Any]:
    item: dict[str, Any] = {}
    for _ in range(levels):
        item = {"00404021": {"vr": "SQ", "Value": [item]}}
    return ups().to_json_dict() | item


REFUSED: dict[str, Any] = {
    "no JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "a number": b"1",
    "nothing": b"",
    "two workitems": [ups().to_json_dict()] * 2,
    "a list of numbers": b"[1]",
    "NaN": b'{"00741200": NaN}',
    "a million brackets": b"[" * 500_000,
    "nested too deep": _deep(12),
    "too many values": ups().to_json_dict() | {"00741204": {"vr": "LO", "Value": ["x"] * 30_000}},
    "a member that is no tag": {"PatientName": {"vr": "PN"}},
    "an element that is none": {"00100010": "Doe"},
    "another VR": ups().to_json_dict() | {"00100010": {"vr": "LO", "Value": ["Doe^Jane"]}},
    "a name as text": ups().to_json_dict() | {"00100010": {"vr": "PN", "Value": ["Doe^Jane"]}},
    "a value that is no list": ups().to_json_dict() | {"00100020": {"vr": "LO", "Value": "P"}},
    "too long": ups().to_json_dict() | {"00100020": {"vr": "LO", "Value": ["P" * 65]}},
    "a NUL": ups().to_json_dict() | {"00100020": {"vr": "LO", "Value": ["P\x00"]}},
    "half a character": ups().to_json_dict() | {"00100020": {"vr": "LO", "Value": ["\ud800"]}},
    "a UID that is none": ups().to_json_dict() | {"0020000D": {"vr": "UI", "Value": ["../../etc"]}},
    "a date that is none": ups().to_json_dict() | {"00404005": {"vr": "DT", "Value": ["20261341"]}},
    "bulk data": ups().to_json_dict() | {"00081080": {"vr": "LO", "BulkDataURI": "http://evil.test"}},
    "no priority": _without("ScheduledProcedureStepPriority"),
    "no label": _without("ProcedureStepLabel"),
    "no start": _without("ScheduledProcedureStepStartDateTime"),
    "no readiness": _without("InputReadinessState"),
    "no state": _without("ProcedureStepState"),
    "another priority": ups(ScheduledProcedureStepPriority="STAT"),
    "not SCHEDULED": ups(ProcedureStepState="IN PROGRESS"),
    "a Transaction UID": ups(TransactionUID="1.2.3"),
    "something performed": ups(
        UnifiedProcedureStepPerformedProcedureSequence=performed().UnifiedProcedureStepPerformedProcedureSequence
    ),
    "another SOP Class": ups(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"),
    "for us without a Study": ups("", "FIRSTREAD"),
    "for us and not our work": ups(
        "1.2.3", "FIRSTREAD", ScheduledWorkitemCodeSequence=[code("110007", "DCM", "Report Verification")]
    ),
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_workitem_is_refused_and_leaves_nothing(site: Site, body: Any) -> None:
    client = orchestrator(site)
    answer = client.send("POST", f"/workitems?{uid()}", body)
    assert answer.status_code == 400
    assert client.found() == []
    assert "Nilsen" not in answer.text


def test_a_giant_payload_and_another_media_type_are_refused(site: Site) -> None:
    client = orchestrator(site)
    giant = ups(CommentsOnTheScheduledProcedureStep="x").to_json_dict()
    giant["00741206"] = {"vr": "UT", "Value": ["x" * 1_100_000]}
    assert client.send("POST", f"/workitems?{uid()}", giant).status_code == 413
    for kind in ("application/dicom", "text/xml", 'multipart/related; type="application/dicom+xml"', ""):
        assert client.send("POST", f"/workitems?{uid()}", ups(), content_type=kind).status_code == 415
    assert client.found() == []


def test_what_nobody_here_knows_is_left_out_and_said(site: Site) -> None:
    client, workitem = orchestrator(site), uid()
    sent = ups().to_json_dict() | {"00090010": {"vr": "LO", "Value": ["ACME"]}}
    answer = client.send("POST", f"/workitems?{workitem}", sent)
    assert (answer.status_code, "created with modifications" in warnings(answer)) == (201, True)
    assert 0x00090010 not in client.item(workitem)
    change = element("ProcedureStepLabel", "new") | {"00090010": {"vr": "LO", "Value": ["ACME"]}}
    answer = client.send("POST", f"/workitems/{workitem}", change)
    assert (answer.status_code, "optional Attributes are not supported" in warnings(answer)) == (200, True)


@pytest.mark.parametrize(
    "change",
    [
        element("PatientID", "P-2"),
        element("ProcedureStepState", "COMPLETED"),
        element("StudyInstanceUID", "1.2.3"),
        element("ProcedureStepLabel"),
        element("ScheduledProcedureStepPriority", "STAT"),
        {},
        {"00404025": {"vr": "SQ", "Value": [code("FIRSTREAD", "99X", "us").to_json_dict()]}},
    ],
)
def test_an_update_may_not_change_whom_it_is_about_nor_empty_what_is_required(site: Site, change: dict) -> None:
    client = orchestrator(site)
    workitem = client.create(ups())
    before = client.get(f"/workitems/{workitem}").json
    assert client.send("POST", f"/workitems/{workitem}", change).status_code == 400
    assert client.get(f"/workitems/{workitem}").json == before


# --- who may ------------------------------------------------------------------------------------------------


def test_a_token_that_reads_may_look_and_subscribe_but_neither_create_nor_claim(site: Site) -> None:
    maker, reader = orchestrator(site, "RIS"), orchestrator(site, "EYES", Scope.READ)
    workitem = maker.create(ups())
    assert reader.item(workitem).PatientID == "P-77"
    assert reader.send("POST", f"/workitems/{workitem}/subscribers/EYES").status_code == 201
    for method, path, body in (
        ("POST", "/workitems", ups()),
        ("POST", f"/workitems/{workitem}", element("ProcedureStepLabel", "x")),
        ("PUT", f"/workitems/{workitem}/state", state("IN PROGRESS", uid())),
        ("POST", f"/workitems/{workitem}/cancelrequest", b""),
    ):
        assert reader.send(method, path, body).status_code == 403
    assert site.app.test_client().get("/ups/workitems").status_code == 401


def test_a_session_may_look_and_needs_its_mark_to_change_anything(site: Site) -> None:
    browser = site.client("radiologist")
    token = browser.token("/account/password")
    sent = json.dumps(ups().to_json_dict())
    headers = {"Content-Type": "application/dicom+json"}
    assert browser.post("/ups/workitems", data=sent, headers=headers).status_code == 400
    answer = browser.post("/ups/workitems", data=sent, headers={**headers, "X-CSRFToken": token})
    assert answer.status_code == 201
    assert browser.get("/ups/workitems").status_code == 200
    assert site.client("admin").get("/ups/workitems").status_code == 403


def test_looking_is_on_record_without_the_patient(site: Site) -> None:
    client = orchestrator(site)
    workitem = client.create(ups())
    client.found(PatientName="Nilsen*")
    client.item(workitem)
    search, retrieval = events(site.sessions, "workitem:read")
    assert (search.actor, search.detail["keys"], search.detail["matches"]) == ("token:ORCH", ["PatientName"], 1)
    assert retrieval.detail["workitem_uid"] == workitem
    assert "Nilsen" not in json.dumps([search.detail, retrieval.detail])


def test_without_the_setting_there_is_no_worklist(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url, web={"workitems": False})
    assert orchestrator(site).get("/workitems").status_code == 404
