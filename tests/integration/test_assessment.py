"""What readers made of each AI finding is exported whole: who, when, why, under which signature, of which object."""

import json

import pytest
from typer.testing import CliRunner

from config.errors import RefusedInputError
from db import lifecycle
from db.lifecycle import NewFinding
from db.models import AuditEvent, Study
from db.types import Decision, Presence, ReportState
from db.uow import unit_of_work
from firstread.cli import app
from publishing.assessment import assessment
from tests.dashboard_support import make_site
from tests.db_support import an_object, header, open_review, person, received, sign

UIDS = {"nodule": "2.25.1", "effusion": "2.25.2", "fracture": "2.25.3", "strange": "2.25.4"}
DECISIONS = {
    "nodule": (Decision.ACCEPTED, ""),
    "effusion": (Decision.EDITED, "left, not right"),
    "fracture": (Decision.REJECTED, "a vascular groove"),
}


def drafted(sessions):
    """Return a journey whose draft has three coded findings and one that no code was reviewed for."""
    findings = [
        NewFinding(
            label,
            Presence.ABSENT if label == "strange" else Presence.PRESENT,
            "CXR",
            code_value="" if label == "strange" else "52988006",
            code_scheme="SCT",
            code_meaning="Lesion",
            score=0.8,
            evidence_index=0,
            tracking_uid=uid,
        )
        for label, uid in UIDS.items()
    ]
    sr = an_object("FINDINGS_SR", tracking_uids=[UIDS[label] for label in DECISIONS], sop_instance_uid="2.25.77")
    seg = an_object("SEG", tracking_uids=[UIDS["nodule"]], sop_instance_uid="2.25.78")
    journey = received(sessions).queued().running()
    return journey.drafted(findings=findings, objects=[sr, seg, an_object("DRAFT_SR")])


def decide(journey, reader, version, decisions=DECISIONS):
    for finding in journey.findings():
        if finding.label not in decisions:
            continue
        decision, reason = decisions[finding.label]
        with unit_of_work(journey.sessions, reader) as uow:
            version = lifecycle.decide_finding(
                uow, journey.report().id, finding.id, decision, reason=reason, seen_version=version
            )
    return version


def exported(journey):
    with journey.sessions() as session:
        record = json.loads(json.dumps(assessment(session, journey.study_id)))
    return record, {one["finding"]["label"]: one for one in record["assessments"]}


@pytest.mark.requirement("REQ-BIAS-6")
def test_each_finding_says_what_the_reader_made_of_it_and_why(sqlite_sessions):
    journey = drafted(sqlite_sessions)
    reader = person(sqlite_sessions)
    signature = sign(journey, reader, decide(journey, reader, open_review(journey, reader)))
    record, rows = exported(journey)
    assert record["schema"] == "firstread-assessment/1"
    assert record["study"]["study_instance_uid"] == header(1).study_instance_uid
    assert record["report"]["state"] == "FINAL"
    assert {label: (row["assessment"], row["reason"]) for label, row in rows.items()} == {
        "nodule": ("accepted", ""),
        "effusion": ("modified", "left, not right"),
        "fracture": ("rejected", "a vascular groove"),
        "strange": ("not assessed", ""),
    }
    for label in DECISIONS:
        row = rows[label]
        assert row["assessed_by"] == {"login": "reader", "printed_name": "Dr reader"}
        assert row["signature"]["id"] == str(signature.id)
        assert row["signature"]["state"] == "FINAL"
        assert row["assessed_at"] <= row["signature"]["signed_at"]
        assert row["algorithm"]["name"] == "CXR"
        assert row["algorithm"]["weights_sha256"] == {"model.pt": "0" * 64}
    assert rows["strange"]["assessed_by"] is rows["strange"]["assessed_at"] is rows["strange"]["signature"] is None


def test_it_points_at_the_findings_sr_and_the_group_by_its_tracking_uid(sqlite_sessions):
    _, rows = exported(drafted(sqlite_sessions))
    assert {label: row["finding"]["tracking_uid"] for label, row in rows.items()} == UIDS
    assert [rows[label]["findings_sr"]["sop_instance_uid"] for label in DECISIONS] == ["2.25.77"] * 3
    assert rows["strange"]["findings_sr"] is None  # without a code it has no group
    assert [one["kind"] for one in rows["nodule"]["objects"]] == ["FINDINGS_SR", "SEG"]
    assert [one["kind"] for one in rows["effusion"]["objects"]] == ["FINDINGS_SR"]


@pytest.mark.requirement("REQ-BIAS-6")
def test_a_decision_that_was_changed_is_kept_with_its_first_form(sqlite_sessions):
    journey = drafted(sqlite_sessions)
    reader = person(sqlite_sessions)
    version = decide(journey, reader, open_review(journey, reader), {"nodule": (Decision.REJECTED, "no")})
    decide(journey, reader, version, {"nodule": (Decision.ACCEPTED, "seen on the lateral view")})
    _, rows = exported(journey)
    assert rows["nodule"]["assessment"] == "accepted"
    assert [(one["from"], one["to"], one["reason"], one["by"]) for one in rows["nodule"]["history"]] == [
        ("not assessed", "rejected", "no", "reader"),
        ("rejected", "accepted", "seen on the lateral view", "reader"),
    ]
    assert rows["nodule"]["signature"] is None  # nobody signed yet


def test_the_final_signature_counts_before_a_preliminary_one(sqlite_sessions):
    journey = drafted(sqlite_sessions)
    resident, chief = person(sqlite_sessions, "resident"), person(sqlite_sessions, "chief")
    version = decide(journey, resident, open_review(journey, resident))
    sign(journey, resident, version, state=ReportState.PRELIMINARY)
    assert exported(journey)[1]["nodule"]["signature"]["state"] == "PRELIMINARY"
    sign(journey, chief, journey.report().version)
    signature = exported(journey)[1]["nodule"]["signature"]
    assert (signature["state"], signature["printed_name"]) == ("FINAL", "Dr chief")


def test_a_rejected_draft_rejects_its_findings(sqlite_sessions):
    journey = drafted(sqlite_sessions)
    reader = person(sqlite_sessions)
    version = open_review(journey, reader)
    with unit_of_work(journey.sessions, reader) as uow:
        lifecycle.reject(uow, journey.report().id, reason="wrong patient position", seen_version=version)
    record, rows = exported(journey)
    assert record["report"]["state"] == "REJECTED"
    assert {row["assessment"] for row in rows.values()} == {"rejected"}
    assert {row["reason"] for row in rows.values()} == {"draft rejected"}


def test_a_study_that_is_not_here_is_refused(sqlite_sessions):
    journey = drafted(sqlite_sessions)
    with journey.sessions() as session, pytest.raises(RefusedInputError, match="no such study"):
        assessment(session, journey.report().id)


def test_the_verb_prints_it_and_the_export_is_an_event(tmp_path):
    site = make_site(tmp_path)
    study_id = site.drafted()
    uid = site.one(Study, id=study_id).study_instance_uid
    done = CliRunner().invoke(app, ["audit", "assessment", uid, "--data-dir", str(tmp_path)])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["study"]["study_instance_uid"] == uid
    assert {one["assessment"] for one in record["assessments"]} == {"not assessed"}
    event = site.one(AuditEvent, tag="assessment:exported")
    assert (event.study_id, event.actor_kind) == (study_id, "person")
    unknown = CliRunner().invoke(app, ["audit", "assessment", "NOSUCH", "--data-dir", str(tmp_path)])
    assert unknown.exit_code != 0
