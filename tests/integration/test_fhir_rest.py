"""Signed reports served as FHIR: what is told, to whom, and that it is on record."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
from werkzeug.test import Client, TestResponse

from dashboard.fhir.audit_events import event_type
from db.audit import AuditTag
from db.report_models import Signature
from db.tokens import Scope
from tests.dashboard_support import PASSWORD, Site, ct_study, make_site
from tests.dicomweb_support import events, make_token
from tests.fhir_support import judged, references

FHIR_JSON = "application/fhir+json"


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url, web={"dicomweb": False})


@pytest.fixture
def any_site(tmp_path: Path, database_url: str) -> Site:
    """The same on each database."""
    return make_site(tmp_path, database_url, web={"dicomweb": False})


def signed(site: Site, state: str = "FINAL", **changes: Any) -> UUID:
    """A study whose draft a radiologist accepted and signed."""
    browser, study_id = site.client("radiologist"), site.drafted(ct_study(3, **changes))
    assert browser.submit(f"/studies/{study_id}/review").status_code == 303
    path = f"/studies/{study_id}/findings/{site.findings(study_id)[0].id}"
    assert browser.submit(path, version=site.report(study_id).version, decision="accepted").status_code == 303
    given = {"version": site.report(study_id).version, "password": PASSWORD, "checked": "1"}
    assert browser.submit(f"/studies/{study_id}/sign/{state}", **given).status_code == 303
    return study_id


class Reader:
    """A client with a bearer token; every answer is judged."""

    def __init__(self, site: Site, *scopes: Scope) -> None:
        self._client: Client = site.app.test_client()
        self._headers = {"Authorization": f"Bearer {make_token(site.sessions, 'EHR', *scopes)}"}

    def get(self, path: str, status: int = 200, **headers: str) -> Any:
        answer = self.raw(path, **headers)
        assert answer.status_code == status, answer.text
        return checked(answer)

    def raw(self, path: str, method: str = "GET", **headers: str) -> TestResponse:
        return self._client.open(f"/fhir{path}", method=method, headers=self._headers | headers)


def checked(answer: TestResponse) -> Any:
    """The resource of an answer, when it is one."""
    assert answer.content_type == FHIR_JSON
    found = json.loads(answer.data)
    judged(found)
    assert (found["resourceType"] == "OperationOutcome") is (answer.status_code >= 400)
    return found


def matches(bundle: Any) -> list[Any]:
    return [one["resource"] for one in bundle.get("entry", ()) if one["search"]["mode"] == "match"]


@pytest.mark.requirement("REQ-KEEP-4")
def test_a_signed_report_is_read_with_everything_it_refers_to(any_site: Site) -> None:
    site = any_site
    study_id, reader = signed(site), Reader(site)
    report_id = site.report(study_id).id
    report = reader.get(f"/DiagnosticReport/{report_id}")
    assert (report["id"], report["status"], report["conclusion"]) == (
        str(report_id),
        "final",
        "Lung tumor on the right.",
    )
    assert report["meta"]["lastUpdated"] == report["issued"]
    assert "security" not in report["meta"]
    seen = {f"DiagnosticReport/{report_id}": report}
    waiting = [*references(report), f"Provenance/{report_id}"]
    while waiting:
        address = waiting.pop()
        if address not in seen:
            seen[address] = reader.get(f"/{address}")
            assert f"{seen[address]['resourceType']}/{seen[address]['id']}" == address
            waiting += references(seen[address])
    kinds = sorted(address.partition("/")[0] for address in seen)
    assert kinds == ["Device", "Device", "Device", "DiagnosticReport", "ImagingStudy", "Observation", "Organization",
                     "Patient", "Practitioner", "Provenance", "ServiceRequest"]  # fmt: skip
    study = seen[f"ImagingStudy/{study_id}"]
    assert study["numberOfInstances"] == 3
    (finding,) = [one for one in seen.values() if one["resourceType"] == "Observation"]
    assert finding["valueCodeableConcept"]["text"] == "Present"
    assert seen[finding["device"]["reference"]]["deviceName"][0]["name"] == "VISTA3D"


@pytest.mark.requirement("REQ-LABEL-7")
def test_what_nobody_signed_is_not_there(site: Site) -> None:
    study_id, reader = site.drafted(ct_study(3)), Reader(site)
    report_id = site.report(study_id).id
    for address in (f"DiagnosticReport/{report_id}", f"Provenance/{report_id}", f"ImagingStudy/{study_id}",
                    f"ServiceRequest/{study_id}", f"Patient/{study_id}", f"Observation/{report_id.hex}.{'a' * 24}",
                    f"DiagnosticReport/{uuid4()}", f"Device/{uuid4()}", f"Practitioner/{uuid4()}",
                    f"Organization/{uuid4()}", "DiagnosticReport/none", "Observation/%2e%2e"):  # fmt: skip
        assert reader.get(f"/{address}", 404)["issue"][0]["code"] == "not-found"
    assert reader.get("/DiagnosticReport")["total"] == 0


def test_a_preliminary_report_says_that_it_is_one(site: Site) -> None:
    report = Reader(site).get(f"/DiagnosticReport/{site.report(signed(site, 'PRELIMINARY')).id}")
    assert report["status"] == "preliminary"
    assert report["conclusion"].startswith("Preliminary report, not verified")
    assert report["meta"]["security"][0]["code"] == "AIAST"


def test_reports_are_found_by_number_patient_and_time(any_site: Site) -> None:
    site = any_site
    first = signed(site, AccessionNumber="A-1", PatientID="P-1")
    second = signed(site, AccessionNumber="A-2", PatientID="P-2")
    reader = Reader(site)
    ids = {str(site.report(one).id): name for one, name in ((first, "first"), (second, "second"))}

    def found(query: str) -> list[str]:
        return [ids[one["id"]] for one in matches(reader.get(f"/DiagnosticReport?{query}"))]

    assert found("") == ["second", "first"]  # the last signed first
    assert found("accession=A-1") == found("identifier=A-1") == ["first"]
    assert found("identifier=A-1&accession=A-2") == []
    assert found("patient.identifier=P-2") == found("subject.identifier=P-2") == ["second"]
    report = reader.get(f"/DiagnosticReport/{site.report(first).id}")
    for one in report["identifier"]:
        expected = [] if one.get("use") == "secondary" else ["first"]
        assert found(f"identifier={quote(one['system'])}|{one['value']}") == expected
    patient = reader.get(f"/{report['subject']['reference']}")["identifier"][0]
    assert found(f"patient.identifier={quote(patient['system'])}|P-1") == ["first"]
    assert found("patient.identifier=urn:oid:1.2.3|P-1") == []
    assert found(f"_id={site.report(second).id}") == ["second"]
    assert found("_id=none") == []
    signed_at = site.one(Signature, report_id=site.report(second).id).signed_at
    later = (signed_at + timedelta(days=1)).date()
    assert found(f"_lastUpdated=lt{later}&_lastUpdated=ge{signed_at.date()}") == ["second", "first"]
    assert found(f"_lastUpdated=gt{later}") == []
    assert found(f"_lastUpdated={signed_at.year}") == ["second", "first"]
    assert found(f"_lastUpdated=ge{signed_at.isoformat().replace('+', '%2B')}") == ["second"]


def test_pages_follow_each_other_without_a_gap(site: Site) -> None:
    for number in range(3):
        signed(site, AccessionNumber=f"A-{number}")
    reader = Reader(site)
    bundle, found = reader.get("/DiagnosticReport?_count=2"), []
    assert bundle["total"] == 3
    while True:
        found += [one["id"] for one in matches(bundle)]
        following = [one["url"] for one in bundle["link"] if one["relation"] == "next"]
        if not following:
            break
        bundle = reader.get(following[0].partition("/fhir")[2])
    assert len(found) == len(set(found)) == 3
    none = reader.get("/DiagnosticReport?_count=0")
    assert (none["total"], matches(none), [one["relation"] for one in none["link"]]) == (3, [], ["self"])


def test_a_search_brings_along_what_is_asked_for(site: Site) -> None:
    signed(site)
    reader = Reader(site)
    bare = reader.get("/DiagnosticReport")
    assert len(bare["entry"]) == 1
    whole = reader.get("/DiagnosticReport?_include=*&_revinclude=Provenance:target")
    there = {f"{one['resource']['resourceType']}/{one['resource']['id']}": one for one in whole["entry"]}
    assert [one["fullUrl"] for one in whole["entry"]] == [f"http://localhost/fhir/{address}" for address in there]
    for one in whole["entry"]:
        assert set(references(one["resource"])) <= set(there)
    assert {one["search"]["mode"] for one in whole["entry"]} == {"match", "include"}
    assert sum(address.startswith("Provenance/") for address in there) == 1


@pytest.mark.parametrize(
    "query",
    ["name=Halvorsen", "status=final", "_lastUpdated=yesterday", "_lastUpdated=ge2026-13-01", "_count=-1", "_count=x",
     "identifier=", "identifier=a|b|c", "identifier=a,b", "identifier=A&identifier=B", "_include=Patient:link",
     "_revinclude=Observation:subject", "_lastUpdated=9999-12-31", "_lastUpdated=2026-11-22T99:00", "accession=A%00"],
)  # fmt: skip
def test_a_search_that_is_not_understood_is_refused_and_tells_nothing(site: Site, query: str) -> None:
    signed(site)
    said = Reader(site).get(f"/DiagnosticReport?{query}", 400)
    assert "Halvorsen" not in json.dumps(said)


def test_the_server_says_what_it_can_do(site: Site) -> None:
    found = Reader(site).get("/metadata")
    assert (found["fhirVersion"], found["kind"]) == ("4.0.1", "instance")
    kinds = {one["type"] for one in found["rest"][0]["resource"]}
    assert {"DiagnosticReport", "ImagingStudy", "Observation", "Device", "Provenance", "AuditEvent"} <= kinds


def test_every_error_is_an_outcome_and_its_status_is_right(site: Site) -> None:
    reader = Reader(site)
    assert reader.get("/Medication", 404)
    assert reader.get("/Observation", 404)
    assert reader.get("/DiagnosticReport", 406, Accept="application/fhir+xml")["issue"][0]["code"] == "not-supported"
    assert reader.get("/DiagnosticReport?_format=xml", 406)
    for accept in ("", "*/*", FHIR_JSON, "application/json", "text/html, application/fhir+json;q=0.1"):
        assert reader.get("/DiagnosticReport", Accept=accept)["type"] == "searchset"
    assert reader.get("/DiagnosticReport?_format=application/fhir%2Bjson", Accept="text/html")
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        for path in ("/DiagnosticReport", f"/Patient/{uuid4()}", "/"):
            answer = reader.raw(path, method)
            assert answer.status_code == 405
            assert checked(answer)["issue"][0]["code"] == "not-supported"
            assert "GET" in answer.headers["Allow"]


def test_nobody_unknown_is_told_anything(site: Site) -> None:
    report_id = site.report(signed(site)).id
    for path in ("/metadata", "/DiagnosticReport", f"/DiagnosticReport/{report_id}", "/AuditEvent", "/Medication"):
        answer = site.app.test_client().get(f"/fhir{path}")
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="firstread fhir"'
        assert checked(answer)["issue"][0]["code"] == "login"
    wrong = site.app.test_client().get("/fhir/metadata", headers={"Authorization": "Bearer nonsense"})
    assert checked(wrong)["issue"][0]["code"] == "login"
    assert events(site.sessions, "fhir:read") == []


def test_a_token_to_write_does_not_read_and_no_token_reads_the_audit_log(site: Site) -> None:
    assert Reader(site, Scope.WRITE).get("/DiagnosticReport", 403)["issue"][0]["code"] == "forbidden"
    other = make_token(site.sessions, "ALL")
    answer = site.app.test_client().get("/fhir/AuditEvent", headers={"Authorization": f"Bearer {other}"})
    assert (answer.status_code, checked(answer)["issue"][0]["code"]) == (403, "forbidden")
    assert len(events(site.sessions, "access:refused")) == 2


def test_a_session_of_a_role_that_reads_studies_reads_reports(site: Site) -> None:
    report_id = site.report(signed(site)).id
    for login, status in (("radiologist", 200), ("auditor", 200), ("admin", 403)):
        answer = site.client(login).get(f"/fhir/DiagnosticReport/{report_id}")
        assert answer.status_code == status
        checked(answer)
    posted = site.client("radiologist").post("/fhir/DiagnosticReport", data=b"{}", content_type=FHIR_JSON)
    assert posted.status_code == 400  # no mark of a form, so it may come from another site
    checked(posted)


@pytest.mark.requirement("REQ-AUDIT-4")
def test_every_read_is_on_record_by_study(site: Site) -> None:
    first, second = signed(site, AccessionNumber="A-1"), signed(site, AccessionNumber="A-2")
    reader = Reader(site)
    reader.get(f"/DiagnosticReport/{site.report(first).id}")
    reader.get("/DiagnosticReport")
    reader.get("/DiagnosticReport?accession=none")
    recorded = [(one.actor, one.study_id, one.detail["resource"]) for one in events(site.sessions, "fhir:read")]
    who, what = "token:EHR", "DiagnosticReport"
    assert recorded[0] == (who, first, what)
    assert {one[1] for one in recorded[1:3]} == {first, second}
    assert recorded[3:] == [(who, None, what)]
    assert {one.detail["address"] for one in events(site.sessions, "fhir:read")} == {"127.0.0.1"}


def test_one_patient_is_one_patient_in_all_their_reports(site: Site) -> None:
    studies = [signed(site, PatientID=one, AccessionNumber=f"A-{n}") for n, one in enumerate(("P-1", "P-1", "P-2"))]
    reader = Reader(site)
    subjects = [reader.get(f"/DiagnosticReport/{site.report(one).id}")["subject"]["reference"] for one in studies]
    assert subjects == [f"Patient/{studies[0]}", f"Patient/{studies[0]}", f"Patient/{studies[2]}"]
    assert reader.get(f"/Patient/{studies[1]}", 404)


# --- the audit log -------------------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-AUDIT-7")
def test_an_auditor_reads_the_log_as_audit_events(any_site: Site) -> None:
    site = any_site
    study_id = signed(site)
    report_id = site.report(study_id).id
    browser = site.client("auditor")

    def found(query: str) -> list[Any]:
        answer = browser.get(f"/fhir/AuditEvent?{query}")
        assert answer.status_code == 200, answer.text
        return matches(checked(answer))

    of_study = found(f"entity=ImagingStudy/{study_id}&_count=1000")
    codes = {one["subtype"][0]["code"]: one for one in of_study}
    assert {"study:received", "reading:drafted", "report:signed_final", "finding:decided"} <= set(codes)
    signing = codes["report:signed_final"]
    assert (signing["type"]["code"], signing["action"], signing["outcome"]) == ("110110", "U", "0")
    assert signing["agent"][0]["who"]["identifier"] == {
        "system": "urn:x-firstread:actor:person",
        "value": "radiologist",
    }
    targets = [one["what"].get("reference") for one in signing["entity"]]
    assert targets[:2] == [f"ImagingStudy/{study_id}", f"DiagnosticReport/{report_id}"]
    assert codes["study:received"]["type"]["code"] == "110104"
    assert [one["id"] for one in found(f"entity=DiagnosticReport/{report_id}&_count=5")] == [
        one["id"] for one in of_study[:5]
    ]
    assert found(f"entity=ImagingStudy/{uuid4()}") == []
    failed = site.client().log_in("radiologist", "wrong")
    assert failed.status_code == 401
    log_in = [one for one in found("_count=1000") if one["subtype"][0]["code"] == "user:login_failed"]
    assert [(one["type"]["code"], one["outcome"]) for one in log_in] == [("110114", "4")]
    assert len(events(site.sessions, "audit:viewed")) == 4
    one = browser.get(f"/fhir/AuditEvent/{of_study[0]['id']}")
    assert checked(one) == of_study[0]
    assert browser.get("/fhir/AuditEvent/999999999").status_code == 404
    for query in ("entity=Patient/1", "entity=x", "date=never", "patient=1"):
        assert browser.get(f"/fhir/AuditEvent?{query}").status_code == 400


def test_the_log_is_read_page_by_page_and_by_time(site: Site) -> None:
    signed(site)
    browser, seen = site.client("auditor"), []
    path = "/fhir/AuditEvent?_count=7&date=ge2020-01-01&date=lt2020-01-02"
    assert matches(checked(browser.get(path))) == []
    path = "/fhir/AuditEvent?_count=7&date=ge2020-01-01"
    while path:
        bundle = checked(browser.get(path))
        seen += [int(one["id"]) for one in matches(bundle)]
        path = "".join(one["url"].partition("localhost")[2] for one in bundle["link"] if one["relation"] == "next")
        assert len(matches(bundle)) == 7 or not path
    assert len(seen) > 14
    # each page was an event itself, and the pages before it are on the later ones
    assert seen == list(range(1, len(seen) + 1))


@pytest.mark.requirement("REQ-AUDIT-6")
def test_only_an_auditor_does(site: Site) -> None:
    for login in ("radiologist", "admin"):
        assert checked(site.client(login).get("/fhir/AuditEvent"))["issue"][0]["code"] == "forbidden"


@pytest.mark.requirement("REQ-AUDIT-7")
@pytest.mark.parametrize("tag", list(AuditTag))
def test_every_kind_of_event_has_its_dicom_identifier(tag: AuditTag) -> None:
    assert event_type(tag) in {f"1101{n:02}" for n in range(15)}
