"""Every kind of event as a DICOM audit message by PS3.15; run this file to write the table in docs/audit.md anew."""

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from lxml import etree
from pydicom.sr._concepts_dict import concepts

from config.settings import ROOT
from db.audit import AuditTag
from reports.audit_message import KINDS, AuditSource, RecordedEvent, RecordedStudy, audit_message, audit_resource
from reports.audit_message.codes import ACTIONS, MEANINGS, is_placed, kind_of
from tests.fhir_support import judged

SCHEMA = etree.RelaxNG(etree.parse(ROOT / "tests" / "audit_message.rng"))
SOURCE = AuditSource("firstread", "General Hospital", "1.0")
WHEN = datetime(2026, 11, 22, 14, 3, 5, 123456, tzinfo=timezone(timedelta(hours=1)))
HOSTILE = "a\x00b\x0b\x1f]]>&<x> \"'\ufffe\ud800 \U0001f9e0 Ä\r\n\tend"
STUDY = RecordedStudy("1.2.826.0.1.7", "ACC-1", "P-1", "HOSPITAL", "Doe^Jane", {"1.2.840.10008.5.1.4.1.1.2": 120})
PAGE = ROOT / "docs" / "audit.md"
BEGIN, END = "<!-- atna map -->", "<!-- end of atna map -->"


def event(tag: str = "report:viewed", **changes: Any) -> RecordedEvent:
    """One event with everything said."""
    made = RecordedEvent(
        seq=7, id="5d0a", occurred_at=WHEN, tag=tag, outcome="success", actor="rad", actor_kind="person",
        user_id="u-1", role="radiologist", address="10.1.2.3", study_id="s-1", reading_id="r-1", report_id="p-1",
        object_type="finding", object_id="f-1", detail={"before": "no nodule", "n": 3}, body='{"v":1}', study=STUDY,
    )  # fmt: skip
    return replace(made, **changes)


def read(message: bytes) -> Any:
    """The message as a tree, when the schema takes it."""
    assert b"\n" not in message
    assert b"\r" not in message
    tree = etree.fromstring(message)
    SCHEMA.assertValid(tree)
    for one in tree.iter("ParticipantObjectDetail"):  # libxml2 does not look into xsd:base64Binary
        b64decode(one.get("value"), validate=True)
    return tree


def attributes(tree: Any, path: str) -> list[dict[str, str]]:
    return [dict(one.attrib) for one in tree.findall(path)]


def details(tree: Any) -> dict[str, str]:
    return {one.get("type"): b64decode(one.get("value")).decode() for one in tree.iter("ParticipantObjectDetail")}


@pytest.mark.requirement("REQ-AUDIT-21")
@pytest.mark.parametrize("outcome", ["success", "failure"])
@pytest.mark.parametrize("kind", ["person", "process", "peer"])
def test_every_kind_of_event_is_a_valid_message_whatever_its_texts_are(kind: str, outcome: str) -> None:
    hostile = RecordedStudy(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, {HOSTILE: 1})
    for tag in [*AuditTag, "later:invented"]:
        for study in (hostile, STUDY, None):
            one = event(
                tag, actor_kind=kind, actor=HOSTILE, role=HOSTILE, address=HOSTILE, object_type=HOSTILE[:32],
                object_id=HOSTILE, detail={HOSTILE: HOSTILE, "reason": HOSTILE, "query": {"x": HOSTILE}},
                outcome=outcome, study=study,
            )  # fmt: skip
            tree = read(audit_message(one, AuditSource(HOSTILE, HOSTILE)))
            requestors = [x for x in tree.findall("ActiveParticipant") if x.get("UserIsRequestor") == "true"]
            assert len(requestors) == 1
        read(audit_message(event(tag, actor_kind=kind, outcome=outcome, detail={}, object_type=""), SOURCE))
        empty = RecordedEvent(1, "1", WHEN, tag, outcome, "", kind)
        read(audit_message(empty, AuditSource("firstread")))


@pytest.mark.requirement("REQ-AUDIT-7")
@pytest.mark.parametrize("tag", list(AuditTag))
def test_every_tag_has_its_place_in_the_table(tag: AuditTag) -> None:
    assert is_placed(tag), f"{tag}: reports/audit_message/codes.py lacks it"
    kind = kind_of(tag)
    assert kind.action in ACTIONS[kind.event]
    # PS3.15 A.5.3.1, A.5.3.9, A.5.3.11, A.5.3.12: these demand an EventTypeCode
    assert bool(kind.type_code) is (kind.event in {"110100", "110108", "110113", "110114"})


@pytest.mark.requirement("REQ-AUDIT-21")
def test_the_codes_mean_what_dicom_says() -> None:
    known = {code: said[0] for words in concepts["DCM"].values() for code, said in words.items()}
    assert {code: known.get(code) for code in MEANINGS} == dict(MEANINGS)
    assert set(KINDS) <= set(AuditTag)


@pytest.mark.requirement("REQ-AUDIT-21")
def test_who_what_when_and_where_are_read_out_of_the_message() -> None:
    tree = read(audit_message(event("report:signed_final"), SOURCE))
    about = tree.find("EventIdentification")
    assert about.get("EventDateTime") == "2026-11-22T13:03:05.123456+00:00"
    assert (about.get("EventActionCode"), about.get("EventOutcomeIndicator")) == ("U", "0")
    assert about.find("EventID").get("csd-code") == "110110"
    assert attributes(about, "EventTypeCode") == [
        {"csd-code": "report:signed_final", "codeSystemName": "99FIRSTREAD", "originalText": "report signed final"}
    ]
    who = tree.findall("ActiveParticipant")
    assert (who[0].get("UserID"), who[0].get("AlternativeUserID")) == ("rad@firstread", "u-1")
    assert (who[0].get("NetworkAccessPointTypeCode"), who[0].get("NetworkAccessPointID")) == ("2", "10.1.2.3")
    assert [one.get("csd-code") for one in who[0].findall("RoleIDCode")] == ["radiologist"]
    told = tree.find("AuditSourceIdentification")
    assert (told.get("AuditSourceID"), told.get("AuditEnterpriseSiteID")) == ("firstread", "General Hospital")
    assert told.find("AuditSourceTypeCode").get("csd-code") == "4"
    objects = tree.findall("ParticipantObjectIdentification")
    said = [
        (one.get("ParticipantObjectID"), one.find("ParticipantObjectIDTypeCode").get("csd-code")) for one in objects
    ]
    assert said == [("P-1", "2"), ("1.2.826.0.1.7", "110180"), ("r-1", "reading"), ("p-1", "report"),
                    ("f-1", "finding"), ("5d0a", "event")]  # fmt: skip
    assert objects[0].find("ParticipantObjectName").text == "Doe^Jane"
    assert tree.find(".//Accession").get("Number") == "ACC-1"
    assert attributes(tree, ".//SOPClass") == [{"UID": "1.2.840.10008.5.1.4.1.1.2", "NumberOfInstances": "120"}]
    assert details(tree) == {
        "IssuerOfPatientID": "HOSPITAL", "seq": "7", "before": "no nodule", "n": "3", "body": '{"v":1}',
    }  # fmt: skip


def test_source_and_destination_of_what_is_transferred() -> None:
    came = read(audit_message(event("study:received", actor="SCANNER", actor_kind="peer", role=""), SOURCE))
    roles = [
        (one.get("UserID"), one.get("UserIsRequestor"), one.find("RoleIDCode").get("csd-code"))
        for one in came.findall("ActiveParticipant")
    ]
    assert roles == [("SCANNER", "true", "110153"), ("firstread", "false", "110152")]
    assert came.find("ActiveParticipant").get("AlternativeUserID") == "AETITLES=SCANNER"
    sent = event("delivery:delivered", actor="node", actor_kind="process", role="", detail={"destination": "pacs"})
    roles = [
        (one.get("UserID"), one.find("RoleIDCode").get("csd-code") if one.find("RoleIDCode") is not None else "")
        for one in read(audit_message(sent, SOURCE)).findall("ActiveParticipant")
    ]
    assert roles == [("node", ""), ("firstread", "110153"), ("pacs", "110152")]


def test_a_query_is_told_in_base64() -> None:
    asked = {"PatientID": "P-1", "words": HOSTILE.replace("\ud800", "")}
    tree = read(audit_message(event("dicomweb:queried", detail={"query": asked}), SOURCE))
    queries = [b64decode(one.text) for one in tree.iter("ParticipantObjectQuery")]
    assert [json.loads(one)["query"] for one in queries] == [asked]


def test_failures_and_locked_accounts_have_their_indicator_and_reason() -> None:
    failed = read(audit_message(event("reading:failed", outcome="failure", detail={"reason": "no GPU"}), SOURCE))
    assert failed.find("EventIdentification").get("EventOutcomeIndicator") == "4"
    assert failed.findtext(".//EventOutcomeDescription") == "no GPU"
    locked = read(audit_message(event("user:locked_out", outcome="failure"), SOURCE))
    assert locked.find("EventIdentification").get("EventOutcomeIndicator") == "12"
    broken = read(audit_message(event("access:glass_used"), SOURCE))
    assert details(broken)["PurposeOfUse"] == "BTG"


def test_an_erased_patient_stays_erased() -> None:
    gone = replace(STUDY, patient_id="", patient_name="", issuer_of_patient_id="", accession_number="")
    tree = read(audit_message(event(study=gone), SOURCE))
    patient = tree.find("ParticipantObjectIdentification")
    assert (patient.get("ParticipantObjectID"), patient.findtext("ParticipantObjectName")) == ("[erased]", "[erased]")
    assert tree.find(".//Accession") is None


def test_a_message_that_is_too_long_keeps_everything_but_its_longest_details() -> None:
    long = event(detail={"before": "x" * 40_000, "reason": "short"}, body="y" * 20_000)
    assert len(audit_message(long, SOURCE)) > 60_000
    short = audit_message(long, SOURCE, most_octets=32768)
    assert len(short) <= 32768
    found = details(read(short))
    assert found["reason"] == "short"
    # printf 'x%.0s' {1..40000} | sha256sum
    assert found["before (omitted)"] == (
        "sha256=6285332e3072b27e5b095c5c7d6e37eadd201220eb14694f9d2d0177c25a64ae octets=40000"
    )


@pytest.mark.parametrize("kind", ["person", "process", "peer"])
def test_the_same_event_is_a_valid_fhir_resource(kind: str) -> None:
    for tag in AuditTag:
        hostile = event(tag, actor_kind=kind, actor="x" + HOSTILE, detail={"reason": HOSTILE}, outcome="failure")
        for one in (event(tag, actor_kind=kind), event(tag, study=None, study_id="", detail={}), hostile):
            made = audit_resource(one, SOURCE)
            judged(made)
            message = read(audit_message(one, SOURCE)).find("EventIdentification")
            assert made["type"]["code"] == message.find("EventID").get("csd-code")
            assert made["action"] == message.get("EventActionCode")
            assert made["outcome"] == message.get("EventOutcomeIndicator")
            codes = {(one["system"].rpartition("/")[2], one["code"]) for one in made["subtype"]}
            assert {code for _, code in codes} == {x.get("csd-code") for x in message.findall("EventTypeCode")}


def test_break_glass_says_why_in_fhir() -> None:
    made = audit_resource(event("images:viewed", detail={"break_glass": "g-1"}), SOURCE)
    assert made["purposeOfEvent"][0]["coding"][0]["code"] == "BTG"
    assert made["agent"][0]["purposeOfUse"] == made["purposeOfEvent"]
    assert "purposeOfEvent" not in audit_resource(event("images:viewed"), SOURCE)
    roles = [(one["what"].get("reference"), one.get("role", {}).get("code")) for one in made["entity"]]
    assert roles[:2] == [("ImagingStudy/s-1", "3"), ("DiagnosticReport/p-1", "3")]
    assert made["entity"][-1]["type"]["code"] == "1"


@pytest.mark.requirement("REQ-AUDIT-21")
def test_the_schema_refuses_what_the_standard_does() -> None:
    good = etree.fromstring(audit_message(event(), SOURCE))
    for broken in (
        lambda tree: tree.find("EventIdentification").attrib.pop("EventDateTime"),
        lambda tree: tree.find("EventIdentification").set("EventOutcomeIndicator", "1"),
        lambda tree: tree.find(".//EventID").attrib.pop("originalText"),
        lambda tree: tree.find(".//ParticipantObjectName").set("code", "1"),
        lambda tree: tree.remove(tree.find("AuditSourceIdentification")),
        lambda tree: tree.find(".//ParticipantObjectName").getparent().remove(tree.find(".//ParticipantObjectName")),
    ):
        tree = etree.fromstring(etree.tostring(good))
        broken(tree)
        assert not SCHEMA.validate(tree)


def atna_map() -> str:
    """The table of docs/audit.md."""

    def rows() -> Iterator[str]:
        yield "| EventID | Action | Life cycle | EventTypeCode (DCM) | Tags |"
        yield "|---|---|---|---|---|"
        together: dict[Any, list[str]] = {}
        for tag in AuditTag:
            kind = kind_of(tag)
            together.setdefault((kind.event, kind.type_code, kind.action, int(kind.cycle)), []).append(f"`{tag}`")
        for (event_id, code, action, cycle), tags in sorted(together.items()):
            words = f"{code} {MEANINGS[code]}" if code else ""
            yield f"| {event_id} {MEANINGS[event_id]} | {action} | {cycle} | {words} | {', '.join(tags)} |"

    return "\n".join(rows())


def test_the_page_has_the_map() -> None:
    found = re.search(f"{BEGIN}\n(.*?)\n{END}", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found, "docs/audit.md has no ATNA event map"
    assert found[1].strip() == atna_map(), "run python -m tests.unit.test_audit_message"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        re.sub(f"{BEGIN}\n.*?{END}", lambda _: f"{BEGIN}\n\n{atna_map()}\n\n{END}", text, flags=re.DOTALL),
        encoding="utf-8",
    )
