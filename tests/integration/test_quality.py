"""What became of drafts is noted once, and the quality page counts it."""

import csv
import io
from pathlib import Path

import pytest
from sqlalchemy import select

from db import lifecycle
from db.lifecycle.outcomes import note_outcomes
from db.quality_models import DraftOutcome
from db.report_models import UserAccount
from db.types import Decision, Verdict
from db.uow import unit_of_work
from tests.dashboard_support import Site, make_site
from tests.db_support import SWEEPER, Journey, Sessions, correct, decide_all, open_review, person, received, sign

CHANGED = {"impression": "Nodule in the right upper lobe."}


def note(sessions: Sessions) -> int:
    with unit_of_work(sessions, SWEEPER) as uow:
        return note_outcomes(uow)


def outcomes(sessions: Sessions) -> list[DraftOutcome]:
    with sessions() as session:
        return list(session.scalars(select(DraftOutcome).order_by(DraftOutcome.decided_at)))


def drafted(sessions: Sessions, number: int, **changes: str) -> Journey:
    return received(sessions, f"1.2.826.0.{number}", **changes).queued().running().drafted()


def edited(journey: Journey, reader, sections=CHANGED) -> int:
    version = open_review(journey, reader)
    with unit_of_work(journey.sessions, reader) as uow:
        version = lifecycle.save_sections(uow, journey.report().id, sections, seen_version=version)
    return decide_all(journey, reader, version)


@pytest.mark.requirement("REQ-BIAS-7")
def test_each_decided_draft_has_one_outcome(sessions):
    reader = person(sessions)
    whole = {"manufacturer": "GE", "manufacturer_model": "Revolution", "patient_sex": "F", "modality": "CT"}
    ages = {"patient_birth_date": "19580214", "study_date": "20261121"}
    kept, changed, refused, waiting = (drafted(sessions, number, **whole, **ages) for number in range(1, 5))
    sign(kept, reader, decide_all(kept, reader, open_review(kept, reader)))
    sign(changed, reader, edited(changed, reader))
    version = open_review(refused, reader)
    with unit_of_work(sessions, reader) as uow:
        lifecycle.reject(uow, refused.report().id, reason="Text unusable", seen_version=version)
    open_review(waiting, reader)

    assert note(sessions) == 3
    assert note(sessions) == 0
    correct(kept, reader, sections={"impression": "Quite another thing."})  # after the signature: no longer the draft's
    assert note(sessions) == 0
    made = {one.study_id: one for one in outcomes(sessions)}
    assert [made[j.study_id].verdict for j in (kept, changed, refused)] == [
        Verdict.UNCHANGED,
        Verdict.EDITED,
        Verdict.REJECTED,
    ]
    # "Nodule." against "Nodule in the right upper lobe.": one word replaced, five inserted
    assert (made[changed.study_id].edits, made[changed.study_id].changed_sections) == (6, ["impression"])
    one = made[kept.study_id]
    assert (one.scanner, one.sex, one.age_group, one.modality) == ("GE Revolution", "F", "60-69", "CT")
    assert one.received_at <= one.drafted_at <= one.decided_at


def test_a_rejected_draft_that_was_read_from_scratch_stays_rejected(sqlite_sessions):
    reader = person(sqlite_sessions)
    journey = drafted(sqlite_sessions, 1)
    version = open_review(journey, reader)
    with unit_of_work(sqlite_sessions, reader) as uow:
        lifecycle.reject(uow, journey.report().id, reason="Text unusable", seen_version=version)
    sign(journey, reader, edited(journey, reader, {"findings": "Normal.", "impression": "Normal."}))
    assert note(sqlite_sessions) == 1
    assert outcomes(sqlite_sessions)[0].verdict is Verdict.REJECTED


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def _decided(site: Site) -> None:
    """Two signed drafts, one of them with a refuted finding."""
    reader = person(site.sessions, "reader-2", printed_name="Dr Two")
    for number, decision in ((1, Decision.ACCEPTED), (2, Decision.REJECTED)):
        journey = drafted(site.sessions, number, manufacturer="=cmd()", patient_name="Halvorsen^Ingrid")
        version = open_review(journey, reader)
        for finding in journey.findings():
            if finding.presence == "present":
                with unit_of_work(site.sessions, reader) as uow:
                    version = lifecycle.decide_finding(
                        uow, journey.report().id, finding.id, decision, reason="no", seen_version=version
                    )
        sign(journey, reader, version, printed_name="Dr Two")
    note(site.sessions)


def _table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_page_counts_and_names_no_patient(site):
    _decided(site)
    lead = site.client("lead")
    page = lead.get("/quality?by=reader").text
    assert "Dr Two" in page
    assert "Halvorsen" not in page
    findings = {row["Finding"]: row for row in _table(lead.get("/quality/findings.csv").text)}
    assert (findings["nodule"]["AI present"], findings["nodule"]["Confirmed"], findings["nodule"]["Refuted"]) == (
        "2",
        "0.5",
        "1",
    )
    assert (findings["effusion"]["AI absent"], findings["effusion"]["Overlooked"]) == ("2", "0")
    scanners = _table(lead.get("/quality/groups.csv?by=scanner").text)
    assert [row["Scanner"] for row in scanners] == ["'=cmd()"]  # no spreadsheet runs it
    assert len(lead.get("/quality/all.json").json["sheets"]) == 7
    assert site.tags(actor="lead").count("quality:exported") == 3


def test_choosing_leaves_the_others_out(site):
    _decided(site)
    lead = site.client("lead")
    assert _table(lead.get("/quality/groups.csv?sex=M").text) == []
    assert _table(lead.get("/quality/groups.csv?by=reader&reader=Dr+Two").text)[0]["Drafts"] == "2"
    assert lead.get("/quality?days=7").status_code == 400
    assert lead.get("/quality?by=patient_name").status_code == 400
    assert lead.get("/quality/nothing.csv").status_code == 404


@pytest.mark.requirement("REQ-BIAS-7")
def test_who_runs_the_system_sees_no_single_reader(site):
    _decided(site)
    admin = site.client("admin")
    assert "Dr Two" not in admin.get("/quality").text
    assert admin.get("/quality?by=reader").status_code == 400
    assert admin.get("/quality?reader=Dr+Two").status_code == 200  # passed over, as any other word
    assert site.client("radiologist").get("/quality").status_code == 403


def test_an_account_that_was_closed_still_counts(site):
    _decided(site)
    with site.sessions() as db:
        db.scalars(select(UserAccount).where(UserAccount.login == "reader-2")).one().active = False
        db.commit()
    assert "Dr Two" in site.client("auditor").get("/quality?by=reader").text
