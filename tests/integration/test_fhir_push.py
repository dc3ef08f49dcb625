"""Reports pushed to a FHIR server that takes transactions as the specification says."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from werkzeug.wrappers import Response

from config.destination import Destination
from config.errors import PeerUnavailableError
from config.settings import Settings, TlsSettings
from db.types import utcnow
from dicom_node.delivery import deliver_due
from reports.document import ReportDocument
from reports.fhir import build_bundle
from ris.answers import Answer
from ris.fhir_client import push_bundle
from tests.dashboard_support import PASSWORD, ct_study, make_site
from tests.fhir_server import FhirServer, fhir_server
from tests.fhir_support import document, effusion, tumor
from tests.tls_support import Authority


@pytest.fixture
def server() -> Iterator[FhirServer]:
    with fhir_server() as running:
        yield running


def to(server: FhirServer, **changes: Any) -> Destination:
    values: dict[str, Any] = {"name": "ehr", "protocol": "fhir", "url": server.url}
    return Destination(**(values | changes))


def content(made: ReportDocument, **more: Any) -> bytes:
    return json.dumps(build_bundle(made, uid=made.uid, **more)).encode()


def push(server: FhirServer, made: ReportDocument, **changes: Any) -> Answer:
    return push_bundle(to(server, **changes), Settings(), content(made))


ONE_OF_EACH = {
    "Device": 2,
    "DiagnosticReport": 1,
    "ImagingStudy": 1,
    "Observation": 2,
    "Organization": 1,
    "Patient": 1,
    "Practitioner": 1,
    "Provenance": 1,
    "ServiceRequest": 1,
}


def test_a_report_arrives_and_a_second_push_leaves_one_of_each(server: FhirServer) -> None:
    assert push(server, document("final")) == Answer(accepted=True, said="HTTP 200")
    first = json.dumps(server.held, sort_keys=True)
    assert server.counts() == ONE_OF_EACH
    assert push(server, document("final")) == Answer(accepted=True, said="HTTP 200")
    assert server.counts() == ONE_OF_EACH
    assert json.dumps(server.held, sort_keys=True) == first


def test_a_correction_updates_the_same_report_and_adds_its_own_provenance(server: FhirServer) -> None:
    push(server, document("draft"))
    partial = server.the("DiagnosticReport")
    assert partial["status"] == "partial"
    assert partial["meta"]["security"][0]["code"] == "AIAST"
    push(server, document("final"))
    push(server, document("corrected"))
    report = server.the("DiagnosticReport")
    assert (report["id"], report["status"]) == (partial["id"], "corrected")
    assert "meta" not in report
    assert server.counts() == ONE_OF_EACH | {"Provenance": 3}
    assert {one["status"] for one in server.held["Observation"]} == {"final"}
    assert {one["target"][0]["reference"] for one in server.held["Provenance"]} == {f"DiagnosticReport/{report['id']}"}


def test_what_was_rejected_is_taken_back_where_the_draft_went_and_told_to_nobody_else(server: FhirServer) -> None:
    push(server, document("draft"))
    signed = document("final", findings=(tumor(decision="rejected"), effusion(decision="accepted")))
    push_bundle(to(server), Settings(), content(signed, retract=True))
    by_code = {one["code"]["text"]: one["status"] for one in server.held["Observation"]}
    assert by_code == {"Withdrawn finding of an AI draft": "entered-in-error", "Effusion": "final"}
    (result,) = server.the("DiagnosticReport")["result"]
    (kept,) = [one for one in server.held["Observation"] if one["code"]["text"] == "Effusion"]
    assert result == {"reference": f"Observation/{kept['id']}"}


def test_what_the_server_knows_of_patient_and_order_stays_as_it_is(server: FhirServer) -> None:
    push(server, document("final"))
    server.the("Patient")["name"] = [{"text": "As the hospital writes it"}]
    push(server, document("addended", patient=replace(document().patient, name="Other^Name")))
    assert server.the("Patient")["name"] == [{"text": "As the hospital writes it"}]


@pytest.mark.parametrize("odd", ["1,2", "1|2", "1$2", "1\\2", "山田 ;?&=#%"])
def test_odd_patient_ids_find_their_own_patient_and_no_other(server: FhirServer, odd: str) -> None:
    for patient_id in ("1", "2", odd, odd):
        patient = replace(document().patient, patient_id=patient_id)
        assert push(server, document("final", patient=patient)).accepted
    assert [one["identifier"][0]["value"] for one in server.held["Patient"]] == ["1", "2", odd]


def test_a_token_is_read_anew_and_its_refusal_is_not_the_end(server: FhirServer, tmp_path: Path) -> None:
    server.token, file = "new-token", tmp_path / "token"
    file.write_text("old-token\n")
    assert push(server, document(), token_file=file) == Answer(
        accepted=False, error="it answered 401: it does not accept our bearer token"
    )
    file.write_text("new-token\n")
    assert push(server, document(), token_file=file).accepted
    for nothing in ("", "two\nlines", "ümlaut"):
        file.write_text(nothing)
        with pytest.raises(PeerUnavailableError, match="token file"):
            push(server, document(), token_file=file)
    file.unlink()
    with pytest.raises(PeerUnavailableError, match="token file"):
        push(server, document(), token_file=file)


@pytest.mark.parametrize(
    ("status", "is_final"),
    [(400, True), (401, False), (403, False), (404, False), (405, True), (408, False), (409, False), (410, True),
     (412, True), (413, True), (415, True), (422, True), (429, False), (500, False), (501, False), (302, True)],
)  # fmt: skip
def test_a_refusal_is_final_where_the_same_bytes_would_be_refused_again(
    server: FhirServer, status: int, is_final: bool
) -> None:
    server.refusal = Response("Halvorsen^Ingrid 19580214", status)
    if status == 302:
        server.refusal.headers["Location"] = "http://localhost:1/elsewhere"
    answer = push(server, document())
    assert (answer.accepted, answer.is_final) == (False, is_final)
    assert answer.error.startswith(f"it answered {status}: ")
    assert "Halvorsen" not in answer.error
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_server_that_is_away_behind_its_proxy_is_away(server: FhirServer, status: int) -> None:
    server.refusal = Response("", status)
    with pytest.raises(PeerUnavailableError, match=str(status)):
        push(server, document())


def test_only_codes_of_an_outcome_are_told(server: FhirServer) -> None:
    issues = [
        {"severity": "error", "code": "invariant", "diagnostics": "Halvorsen", "details": {"text": "Ingrid"}},
        {"severity": "fatal", "code": "Halvorsen^Ingrid"},
        {"severity": "warning", "code": "informational"},
        "nothing",
    ]
    server.refusal = Response(json.dumps({"resourceType": "OperationOutcome", "issue": issues}), 422)
    assert push(server, document()) == Answer(
        accepted=False, error="it answered 422: it finds the content unacceptable (invariant)", is_final=True
    )


@pytest.mark.parametrize(
    ("status", "error", "is_final"),
    [("422 Unprocessable", "it answered 422 for Observation (invariant)", True),
     ("409 Conflict", "it answered 409 for Observation (invariant)", False),
     ("500", "it answered 500 for Observation (invariant)", False),
     ("fine", "it answered nothing for Observation (invariant)", False)],
)  # fmt: skip
def test_one_entry_that_fails_is_a_report_that_failed(
    server: FhirServer, status: str, error: str, is_final: bool
) -> None:
    server.entry_status = {"Observation": status}
    assert push(server, document()) == Answer(accepted=False, error=error, is_final=is_final, said="HTTP 200")


@pytest.mark.parametrize(
    "body",
    ["", "<html>Welcome</html>", "[]", "null", '{"resourceType": "Bundle", "type": "batch-response"}',
     '{"resourceType": "Bundle", "type": "transaction-response"}', "[" * 100_000,
     '{"resourceType": "Bundle", "type": "transaction-response", "entry": [{"response": {"status": "201"}}]}',
     '{"resourceType": "Bundle", "type": "transaction-response", "entry": "all"}'],
)  # fmt: skip
def test_a_yes_that_does_not_name_every_entry_is_no_yes(server: FhirServer, body: str) -> None:
    server.refusal = Response(body, 200, content_type="application/fhir+json")
    answer = push(server, document())
    assert not answer.accepted
    assert not answer.is_final


def test_what_is_sent_is_fhir_json_and_asks_for_little_in_return(server: FhirServer) -> None:
    push(server, document())
    headers = server.requests[0].headers
    assert headers["Content-Type"] == headers["Accept"] == "application/fhir+json"
    assert headers["Prefer"] == "return=minimal"
    assert headers["X-Meta-Snapshot-Mode"] == "SECURITY_LABEL"
    assert "Authorization" not in headers


@pytest.mark.parametrize(
    ("kind", "change", "where"),
    [("Observation", {"status": ["final"]}, "status"), ("DiagnosticReport", {"issued": "Halvorsen"}, "issued"),
     ("Patient", {"birthDate": "Halvorsen"}, "birthDate")],
)  # fmt: skip
def test_what_is_no_valid_fhir_does_not_leave(
    server: FhirServer, kind: str, change: dict[str, Any], where: str
) -> None:
    bundle = build_bundle(document(), uid="2.25.9")
    for entry in bundle["entry"]:
        if entry["resource"]["resourceType"] == kind:
            entry["resource"].update(change)
    answer = push_bundle(to(server), Settings(), json.dumps(bundle).encode())
    assert (answer.accepted, answer.is_final) == (False, True)
    assert answer.error.endswith(f".resource.{where}")
    assert server.requests == []


def test_nobody_there_is_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    destination = Destination(name="ehr", protocol="fhir", url=f"http://127.0.0.1:{port}/fhir")
    with pytest.raises(PeerUnavailableError):
        push_bundle(destination, Settings(), content(document()))


def test_a_server_that_hangs_up_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        destination = Destination(name="ehr", protocol="fhir", url=f"http://127.0.0.1:{listening.getsockname()[1]}")

        def hang_up() -> None:
            connection, _ = listening.accept()
            connection.recv(1024)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(PeerUnavailableError):
            push_bundle(destination, Settings(), content(document()))
        thread.join()


def test_only_a_server_of_the_hospitals_authority_is_told_anything(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    ours, theirs = authority.issue("ehr"), stranger.issue("ehr")
    client = authority.issue("firstread")
    settings = Settings(
        dicom={"tls": TlsSettings(certificate=client.certificate, key=client.key, authorities=authority.file)}
    )
    for issued, trusted in ((ours, True), (theirs, False)):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(issued.certificate, issued.key)
        with fhir_server(context) as secured:
            if trusted:
                assert push_bundle(to(secured), settings, content(document())).accepted
            else:
                with pytest.raises(PeerUnavailableError):
                    push_bundle(to(secured), settings, content(document()))
                assert secured.requests == []


def test_with_tls_our_own_certificate_is_shown(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued, client = authority.issue("ehr"), authority.issue("firstread")
    tls = TlsSettings(certificate=client.certificate, key=client.key, authorities=authority.file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    with fhir_server(context) as mutual:
        made = content(document())
        assert push_bundle(to(mutual, tls=True), Settings(dicom={"tls": tls}), made).accepted
        with pytest.raises(PeerUnavailableError):
            push_bundle(to(mutual), Settings(dicom={"tls": tls}), made)


def test_a_signed_report_gets_from_the_reading_room_to_the_server(
    server: FhirServer, tmp_path: Path, sqlite_url: str
) -> None:
    site = make_site(tmp_path, sqlite_url, destinations=(to(server),))
    browser, study_id = site.client("radiologist"), site.drafted(ct_study(3))
    assert browser.submit(f"/studies/{study_id}/review").status_code == 303
    path = f"/studies/{study_id}/findings/{site.findings(study_id)[0].id}"
    assert browser.submit(path, version=site.report(study_id).version, decision="accepted").status_code == 303
    given = {"version": site.report(study_id).version, "password": PASSWORD, "checked": "1"}
    assert browser.submit(f"/studies/{study_id}/sign/FINAL", **given).status_code == 303
    assert deliver_due(site.sessions, site.settings, utcnow()) == 1
    assert site.tags(tag="delivery:delivered") == ["delivery:delivered"]
    report = server.the("DiagnosticReport")
    assert (report["status"], report["conclusion"]) == ("final", "Lung tumor on the right.")
    # what is pushed is what is served: the same resource, but for ids
    auditor = site.client("auditor")
    served = json.loads(auditor.get(f"/fhir/DiagnosticReport/{site.report(study_id).id}").data)
    for one in ("identifier", "status", "code", "issued", "conclusion", "presentedForm"):
        assert served[one] == report[one]
