"""Patient, order and study in FHIR: named as exactly as they are known, and never taken for somebody else's."""

import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from reports.document import OrderFacts, PatientFacts, SeriesFacts, StudyFacts
from reports.values import Section
from tests.fhir_support import STATES, STUDY, bundle, document, resources, the


@pytest.mark.parametrize(
    ("given", "expected"),
    [("19580214", "1958-02-14"), ("1958", "1958"), ("195802", "1958-02"), ("1958.02.14", "1958-02-14"),
     ("", None), ("19580231", None), ("00000000", None), ("unknown", None), ("19581301", None)],
)  # fmt: skip
def test_a_birth_date_is_as_exact_as_it_is_known(given: str, expected: str | None) -> None:
    patient = replace(document().patient, birth_date=given)
    assert the(bundle(document(patient=patient)), "Patient").get("birthDate") == expected


@pytest.mark.parametrize(("sex", "gender"), [("M", "male"), ("F", "female"), ("O", "other"), ("", None), ("X", None)])
def test_the_sex_of_a_patient_is_not_guessed(sex: str, gender: str | None) -> None:
    patient = replace(document().patient, sex=sex)
    assert the(bundle(document(patient=patient)), "Patient").get("gender") == gender


@pytest.mark.requirement("REQ-DELIV-9")
def test_a_japanese_name_keeps_its_three_writings() -> None:
    patient = replace(document().patient, name="Yamada^Tarou=山田^太郎=やまだ^たろう")
    names = the(bundle(document(patient=patient)), "Patient")["name"]
    assert [one["text"] for one in names] == ["Tarou Yamada", "山田 太郎", "やまだ たろう"]
    assert [one["extension"][0]["valueCode"] for one in names] == ["ABC", "IDE", "SYL"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "^^^^",
        "==",
        "=山田^太郎",
        "Müller-Lüdenscheidt^Jörg^^Dr.^jr.",
        "عبد الله^محمد",
        "O'Neil^<b>&amp;",
        "A" * 324,
    ],
)
def test_odd_names_are_names(name: str) -> None:
    patient = replace(document().patient, name=name)
    found = the(bundle(document(patient=patient)), "Patient")
    assert ("name" in found) is bool(name.strip("^="))


def test_a_patient_without_an_id_is_nobody_elses() -> None:
    nobody = PatientFacts("")
    first = bundle(document(patient=nobody))
    other = bundle(document(patient=nobody, study=replace(document().study, study_instance_uid="1.2.9")))
    assert first["entry"][0]["request"] != other["entry"][0]["request"]
    assert the(first, "Patient")["identifier"][0]["use"] == "temp"


def test_two_issuers_or_hospitals_never_share_a_patient() -> None:
    def search(**changes: Any) -> str:
        made = bundle(document(**changes), authority=changes.pop("authority", ""))
        return str(made["entry"][0]["request"]["ifNoneExist"])

    patient = document().patient
    asked = {
        search(),
        search(patient=replace(patient, issuer_of_patient_id="OTHER")),
        search(patient=replace(patient, issuer_of_patient_id="")),
        search(patient=replace(patient, issuer_of_patient_id=""), organization="Elsewhere"),
        search(patient=replace(patient, issuer_of_patient_id="HOSP&1.2.3&ISO")),
    }
    assert len(asked) == 5
    named = bundle(document(patient=replace(patient, issuer_of_patient_id="")), authority="HOSP&1.2.3&ISO")
    assert the(named, "Patient")["identifier"][0]["system"] == "urn:oid:1.2.3"


@pytest.mark.parametrize("value", ["1,2", "1|2", "1$2", "1\\2", "1&identifier=9", "1#x", "a b", "ä/ö?x=1"])
def test_a_value_cannot_make_a_search_another_search(value: str) -> None:
    patient = replace(document().patient, patient_id=value)
    asked = bundle(document(patient=patient))["entry"][0]["request"]["ifNoneExist"]
    (token,) = parse_qs(urlsplit(f"?{asked}").query, strict_parsing=True)["identifier"]
    escaped = "".join(f"\\{c}" if c in ",|$\\" else c for c in value)
    assert token == f"urn:x-firstread:patient:HOSP|{escaped}"


def test_a_study_without_an_order_has_none() -> None:
    built = bundle(document(order=OrderFacts()))
    assert resources(built, "ServiceRequest") == []
    assert "basedOn" not in json.dumps(built)


def test_an_order_says_what_was_asked_and_claims_no_state() -> None:
    order = the(bundle(document()), "ServiceRequest")
    assert (order["status"], order["intent"], order["priority"]) == ("unknown", "order", "urgent")
    assert order["reasonCode"] == [{"text": "Cough since May"}]
    assert order["requester"]["display"] == "Olav Berg"
    kinds = [one["type"]["coding"][0]["code"] for one in order["identifier"]]
    assert kinds == ["ACSN", "PLAC", "FILL"]


def test_a_study_is_named_and_counted() -> None:
    study = the(bundle(document()), "ImagingStudy")
    assert study["identifier"][0] == {"system": "urn:dicom:uid", "value": f"urn:oid:{STUDY}"}
    assert study["identifier"][1]["value"] == "ACC-1001"
    assert (study["numberOfSeries"], study["numberOfInstances"]) == (2, 3)
    assert [one["numberOfInstances"] for one in study["series"]] == [3, 0]
    assert study["started"] == "2026-11-21T08:30:00+01:00"


@pytest.mark.parametrize(
    ("date", "time", "zone", "expected"),
    [("20261121", "083000", "", "2026-11-21"), ("20261121", "0830", "-0330", "2026-11-21T08:30:00-03:30"),
     ("20261121", "08", "+0100", "2026-11-21"), ("202611", "083000", "+0100", "2026-11"),
     ("", "083000", "+0100", None), ("20261121", "256100", "+0100", "2026-11-21"),
     ("20261121", "083060", "+0100", "2026-11-21"), ("20261121", "083000", "+9900", "2026-11-21")],
)  # fmt: skip
def test_a_time_without_its_zone_is_not_sent_as_a_time(date: str, time: str, zone: str, expected: str | None) -> None:
    study = replace(document().study, date=date, time=time, timezone=zone)
    built = bundle(document(study=study))
    assert the(built, "ImagingStudy").get("started") == expected
    assert the(built, "DiagnosticReport").get("effectiveDateTime") == expected


def test_a_report_of_nearly_nothing_is_valid_in_every_state() -> None:
    study = StudyFacts(STUDY, series=(SeriesFacts("1.2.3", ""),))
    for state in STATES:
        made = document(state, patient=PatientFacts(""), study=study, order=OrderFacts(), findings=(), algorithms=(),
                        objects=(), not_assessed=(), organization="", sections=(Section("findings", "x"),))  # fmt: skip
        built = bundle(made)
        assert "conclusion" not in the(built, "DiagnosticReport")
        assert "performer" not in the(built, "DiagnosticReport")
