"""One report as an R4 transaction: every resource valid, nothing invented, the same input the same bundle."""

import base64
import json
import math
from dataclasses import replace
from datetime import timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.document import Code, DocumentState, PatientFacts
from reports.fhir import build_bundle
from reports.values import MeasurementValue, Section
from tests.fhir_support import (
    AT,
    BUNDLE_UID,
    MODEL,
    STATES,
    bundle,
    document,
    effusion,
    judged,
    references,
    resources,
    signer,
    target,
    the,
    tumor,
)

AI = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}


# --- the report ----------------------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-LABEL-4")
@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("draft", "partial"),
        ("preliminary", "preliminary"),
        ("final", "final"),
        ("addended", "appended"),
        ("corrected", "corrected"),
    ],
)
def test_the_state_of_a_report_is_its_status_in_fhir(state: DocumentState, status: str) -> None:
    built = bundle(document(state))
    report = the(built, "DiagnosticReport")
    assert report["status"] == status
    observed = {one["status"] for one in resources(built, "Observation")}
    assert observed == ({"final"} if state in {"final", "addended", "corrected"} else {"preliminary"})


def test_a_report_says_what_imaging_results_need() -> None:
    built = bundle(document("final"))
    report = the(built, "DiagnosticReport")
    assert [one["coding"][0] | {"display": ""} for one in report["category"]] == [
        {"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD", "display": ""}
    ]
    assert [(one["system"], one["code"]) for one in report["code"]["coding"]] == [
        ("http://loinc.org", "18748-4"),
        ("http://loinc.org", "24627-2"),
    ]
    assert report["issued"] == "2026-11-22T10:30:00.000+00:00"  # when it was signed
    assert report["effectiveDateTime"] == "2026-11-21T08:30:00+01:00"  # when the images were made
    assert report["conclusion"] == "Nodule on the right."
    assert report["language"] == "en-US"
    assert target(built, report["subject"])["resourceType"] == "Patient"
    assert target(built, report["basedOn"][0])["identifier"][0]["value"] == "ACC-1001"
    assert target(built, report["imagingStudy"][0])["resourceType"] == "ImagingStudy"
    assert target(built, report["performer"][0])["name"] == "Nordic Hospital"
    assert target(built, report["resultsInterpreter"][0])["name"][0]["family"] == "Lund"
    assert [target(built, one)["code"]["text"] for one in report["result"]] == ["lung nodule", "Effusion"]


def test_a_report_has_one_identity_through_its_versions_and_one_of_each() -> None:
    known = [the(bundle(document(state)), "DiagnosticReport")["identifier"] for state in STATES]
    assert {one[0]["value"] for one in known} == {"urn:oid:2.25.4711"}
    assert len({one[1]["value"] for one in known}) == len(STATES)
    conditions = {
        one["request"]["url"]
        for state in STATES
        for one in bundle(document(state))["entry"]
        if one["resource"]["resourceType"] == "DiagnosticReport"
    }
    assert len(conditions) == 1


def test_the_presented_form_holds_the_whole_report_and_the_pdf_goes_along() -> None:
    report = the(bundle(document("addended"), pdf=b"%PDF-1.7 x"), "DiagnosticReport")
    page, pdf = report["presentedForm"]
    assert (page["contentType"], pdf["contentType"]) == ("text/html", "application/pdf")
    text = base64.b64decode(page["data"]).decode()
    for words in ("Ingrid Halvorsen", "P-1001", "ACC-1001", "There is a nodule", "Nodule on the right", "Addendum 1",
                  "Known since 2024.", "bone lesion", "Maria Lund"):  # fmt: skip
        assert words in text
    assert base64.b64decode(pdf["data"]) == b"%PDF-1.7 x"
    # SHA-1 of the ten bytes, by sha1sum
    assert base64.b64decode(pdf["hash"]).hex() == "2411109e536d072f347d237f2af33287ca009ad9"


# --- who said it ---------------------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-LABEL-4")
def test_what_ai_asserts_is_labelled_until_a_radiologist_signs() -> None:
    for state in STATES:
        built = bundle(document(state))
        verified = state in {"final", "addended", "corrected"}
        report = the(built, "DiagnosticReport")
        assert (AI in report.get("meta", {}).get("security", [])) is not verified
        for one in resources(built, "Observation"):
            labels = [label["code"] for label in one["meta"]["security"]]
            assert labels == (["CLINAST"] if verified else ["AIAST"])
            assert target(built, one["device"])["deviceName"][0]["name"] == "VISTA3D"


def test_a_draft_says_so_wherever_it_is_read() -> None:
    built = bundle(document("draft"))
    report = the(built, "DiagnosticReport")
    words = "AI-generated draft, not verified"
    assert report["conclusion"].startswith(words)
    assert words in report["text"]["div"]
    assert words in base64.b64decode(report["presentedForm"][0]["data"]).decode()
    assert report["presentedForm"][0]["title"].startswith(words)
    assert "resultsInterpreter" not in report
    for one in resources(built, "Observation"):
        assert words in one["note"][0]["text"]
        assert "performer" not in one
    assert words not in json.dumps(bundle(document("final")))


def test_provenance_names_the_models_as_authors_and_the_reader_as_verifier_and_fakes_no_signature() -> None:
    built = bundle(document("final"))
    made = the(built, "Provenance")
    roles = [(one["type"]["coding"][0]["code"], target(built, one["who"])["resourceType"]) for one in made["agent"]]
    assert roles == [("author", "Device"), ("assembler", "Device"), ("verifier", "Practitioner")]
    assert target(built, made["target"][0])["resourceType"] == "DiagnosticReport"
    assert target(built, made["entity"][0]["what"])["resourceType"] == "ImagingStudy"
    assert made["entity"][1]["what"]["identifier"]["value"] == "urn:oid:1.2.3.9.1"  # the SEG it rests on
    assert "signature" not in made
    draft = the(bundle(document("draft")), "Provenance")
    assert {one["type"]["coding"][0]["code"] for one in draft["agent"]} == {"author", "assembler"}
    first = the(bundle(document("preliminary")), "Provenance")
    assert [one["type"]["coding"][0]["code"] for one in first["agent"]] == ["author", "assembler", "author"]


def test_a_report_that_no_model_had_a_part_in_has_its_reader_as_author_and_no_label() -> None:
    built = bundle(document("final", algorithms=(), findings=()))
    roles = [one["type"]["coding"][0]["code"] for one in the(built, "Provenance")["agent"]]
    assert roles == ["assembler", "author", "verifier"]
    assert "result" not in the(built, "DiagnosticReport")
    assert "AIAST" not in json.dumps(bundle(document("preliminary", algorithms=(), findings=())))


def test_a_model_is_a_device_that_changes_with_its_weights() -> None:
    other = replace(MODEL, weights_sha256="b" * 64, device_uid="")
    built = bundle(document("final", algorithms=(MODEL, other)))
    models = [one for one in resources(built, "Device") if one.get("type")]
    assert len({one["identifier"][0]["value"] for one in models}) == 2
    first = models[0]
    assert (first["deviceName"][0]["name"], first["version"][0]["value"]) == ("VISTA3D", "0.5.0")
    said = {one["type"]["text"]: one["valueCode"][0]["text"] for one in first["property"]}
    assert said == {"weights_sha256": "a" * 64, "threshold": "0.5", "licence": "RESEARCH USE ONLY"}
    assert first["note"] == [{"text": "RESEARCH USE ONLY"}]


# --- findings ------------------------------------------------------------------------------------------------


def test_a_finding_is_coded_with_presence_side_score_and_numbers() -> None:
    one = resources(bundle(document("final")), "Observation")[0]
    assert one["code"]["coding"] == [
        {"system": "http://snomed.info/sct", "code": "786838002", "display": "Nodule of lung"}
    ]
    assert one["valueCodeableConcept"]["coding"][0] == {
        "system": "http://dicom.nema.org/resources/ontology/DCM",
        "code": "121053",
        "display": "Present",
    }
    assert one["interpretation"][0]["coding"][0]["code"] == "POS"
    assert (one["bodySite"]["coding"][0]["code"], one["bodySite"]["text"]) == ("39607008", "Right lung")
    side, score, volume, axis = one["component"]
    assert side["valueCodeableConcept"]["coding"][0]["code"] == "24028007"
    assert score["code"]["text"] == "Model score, not calibrated"
    assert score["valueQuantity"]["value"] == 91.0
    ucum = {"system": "http://unitsofmeasure.org"}
    assert volume["valueQuantity"] == {"value": 12.4, "unit": "mL", "code": "mL", **ucum}
    assert axis["valueQuantity"] == {"value": 31.5, "unit": "mm", "code": "mm", **ucum}
    assert one["derivedFrom"][1]["identifier"] == {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3.1.7"}


def test_code_systems_have_their_own_uris() -> None:
    codes = {
        "SCT": "http://snomed.info/sct",
        "RADLEX": "http://radlex.org",
        "DCM": "http://dicom.nema.org/resources/ontology/DCM",
        "LN": "http://loinc.org",
    }
    for scheme, system in codes.items():
        made = document("final", findings=(tumor(decision="accepted", concept=Code("X1", scheme, "a word")),))
        assert the(bundle(made), "Observation")["code"]["coding"][0]["system"] == system
    made = document("final", findings=(tumor(decision="accepted", concept=Code("X1", "99LOCAL", "a word")),))
    assert "system" not in the(bundle(made), "Observation")["code"]["coding"][0]


def test_only_what_stands_is_said() -> None:
    decided = [tumor(decision=one, tracking_uid=f"2.25.{n}", sentence=one) for n, one in
               enumerate(("pending", "accepted", "edited", "rejected"), 1)]  # fmt: skip
    said = {
        state: [one["note"][-1]["text"] for one in resources(bundle(document(state, findings=decided)), "Observation")]
        for state in STATES
    }
    assert said["draft"][:2] == ["pending", "accepted"]
    assert len(said["draft"]) == 3
    for state in STATES[1:]:
        assert said[state] == ["accepted", "Changed by the reader."]
    assert "rejected" not in json.dumps(bundle(document("final", findings=decided)))


def test_who_got_the_draft_is_told_what_was_rejected_without_a_word_of_it() -> None:
    decided = [tumor(decision="rejected", tracking_uid="2.25.7"), effusion(decision="accepted")]
    built = bundle(document("final", findings=decided), retract=True)
    kept, gone = resources(built, "Observation")
    assert (kept["status"], gone["status"]) == ("final", "entered-in-error")
    assert gone["identifier"][0]["value"] == "urn:oid:2.25.7"
    assert "odule" not in json.dumps(gone)
    assert len(the(built, "DiagnosticReport")["result"]) == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [(math.nan, "not-a-number"), (math.inf, "positive-infinity"), (-math.inf, "negative-infinity")],
)
def test_a_number_that_is_none_is_said_to_be_none(value: float, reason: str) -> None:
    made = document(findings=(tumor(decision="accepted", measurements=(MeasurementValue("volume", value, "mL"),)),))
    component = the(bundle(made), "Observation")["component"][-1]
    assert component["dataAbsentReason"]["coding"][0]["code"] == reason


def test_a_finding_without_code_number_or_tracking_uid_is_still_one_and_the_same() -> None:
    bare = tumor(concept=None, measurements=(), tracking_uid="", score=None, laterality="", source=None, algorithm=None,
                 decision="accepted", sentence="")  # fmt: skip
    built = bundle(document("final", findings=(bare,)))
    one = the(built, "Observation")
    assert one["code"] == {"text": "lung nodule"}
    assert not {"component", "bodySite", "device", "note"} & set(one)
    again = the(bundle(document("corrected", findings=(bare,))), "Observation")
    assert again["identifier"] == one["identifier"]


def test_two_signers_are_two_interpreters_each_once() -> None:
    made = document("addended")
    colleague = replace(made.signatures[1], signer=signer("Kari Moe", "kmoe", after_h=5))
    report_bundle = bundle(replace(made, signatures=(*made.signatures, colleague)))
    who = [target(report_bundle, one) for one in the(report_bundle, "DiagnosticReport")["resultsInterpreter"]]
    assert [one["identifier"][0]["value"] for one in who] == ["mlund", "kmoe"]


# --- the transaction -----------------------------------------------------------------------------------------


def test_the_same_report_gives_the_same_bundle() -> None:
    assert json.dumps(build_bundle(document(), uid=BUNDLE_UID)) == json.dumps(build_bundle(document(), uid=BUNDLE_UID))
    assert build_bundle(document(), uid=BUNDLE_UID)["identifier"]["value"] == f"urn:oid:{BUNDLE_UID}"


def test_ours_is_updated_by_identifier_and_what_others_own_is_only_made_when_missing() -> None:
    ways = {
        one["resource"]["resourceType"]: (one["request"]["method"], "ifNoneExist" in one["request"])
        for one in bundle(document())["entry"]
    }
    made_once = ("POST", True)
    assert ways == {
        "Patient": made_once,
        "Organization": made_once,
        "Practitioner": made_once,
        "ServiceRequest": made_once,
        "ImagingStudy": made_once,
        "Provenance": made_once,
        "Device": ("PUT", False),
        "Observation": ("PUT", False),
        "DiagnosticReport": ("PUT", False),
    }
    assert all("id" not in one["resource"] for one in bundle(document())["entry"])


def test_what_is_referred_to_goes_before_what_refers_to_it() -> None:
    seen: set[str] = set()
    for one in bundle(document("corrected"))["entry"]:
        assert set(references(one["resource"])) <= seen
        seen.add(one["fullUrl"])


def test_times_keep_their_zone() -> None:
    local = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert the(bundle(document(written_at=local)), "DiagnosticReport")["issued"] == "2026-11-22T15:00:00.000+05:30"


_text = st.text(max_size=40) | st.sampled_from(["<script>", "]]>", "&", "\x00", "\x1b[31m", "\ud800", "  ", "\ufffe"])


@pytest.mark.requirement("REQ-TEXT-11")
@given(_text, _text, _text, _text, st.sampled_from(STATES))
def test_no_text_whatever_breaks_a_resource(first: str, second: str, third: str, fourth: str, state: str) -> None:
    made = document(state)  # type: ignore[arg-type]
    odd = tumor(label=first, sentence=second, reason=third, decision="edited", concept=Code("1", "SCT", fourth))
    built = bundle(
        replace(
            made,
            patient=PatientFacts(first, second, f"{third}^{fourth}={first}", second, third),
            study=replace(made.study, description=first, referring_physician=second, date=third, time=fourth),
            order=replace(made.order, accession_number=fourth, indication=first, ordering_provider=third),
            sections=(Section("findings", second), Section("impression", third)),
            findings=(odd,),
            correction=second,
            organization=first,
            not_assessed=(fourth,),
        )
    )
    assert "<script" not in base64.b64decode(the(built, "DiagnosticReport")["presentedForm"][0]["data"]).decode()


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Observation", {"status": "done"}),
        ("Observation", {"code": None}),
        ("Observation", {"device": {"reference": "Patient/1"}}),
        ("DiagnosticReport", {"status": ["final"]}),
        ("DiagnosticReport", {"issued": "2026-11-22T10:30:00"}),
        ("DiagnosticReport", {"text": {"status": "generated", "div": "<div>open"}}),
        ("DiagnosticReport", {"conclusion": ""}),
        ("DiagnosticReport", {"authored": "2026-11-22"}),
        ("ImagingStudy", {"subject": None}),
        ("Patient", {"birthDate": "14.02.1958"}),
        ("Patient", {"gender": "F"}),
        ("Provenance", {"agent": []}),
    ],
)
def test_the_judge_refuses_what_is_wrong(kind: str, change: dict[str, Any]) -> None:
    resource = resources(build_bundle(document(), uid=BUNDLE_UID), kind)[0] | change
    with pytest.raises((AssertionError, ValueError, SyntaxError)):
        judged({name: value for name, value in resource.items() if value is not None})
