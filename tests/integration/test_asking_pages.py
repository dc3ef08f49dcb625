"""Asking the model and drafting anew on the reading page, without a script."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from db.asking_models import AnswerCopy, ErrandState, Question, Redraft
from db.lifecycle import asking, errands, redrafting
from db.models import AuditEvent, Instance
from db.package_models import Package
from db.report_models import Draft
from db.types import PackageKind, PackageState, Presence, utcnow
from db.uow import unit_of_work
from tests.asking_support import ANSWER
from tests.dashboard_support import SECTIONS, WORKER, ct_study, make_site
from tests.db_support import new_draft

SCRIPT = "<script>alert('x')</script>"


@pytest.fixture
def site(tmp_path, sqlite_url):
    return make_site(tmp_path, sqlite_url)


@pytest.fixture
def opened(site):
    """A drafted study that the radiologist has open, and the radiologist's browser."""
    study_id = site.drafted(ct_study(3))
    browser = site.client("radiologist")
    assert browser.submit(f"/studies/{study_id}/review").status_code == 303
    return study_id, browser


def version(site, study_id):
    return site.report(study_id).version


def answer(site, question_id, text=ANSWER.text):
    with unit_of_work(site.sessions, WORKER) as uow:
        claim = asking.claim_question(uow, question_id, owner="w", lease_s=60)
        asking.answered(uow, claim, replace(ANSWER, text=text, prompt=f"<image>{text}"))


def offer(site, redraft_id, **changes):
    with unit_of_work(site.sessions, WORKER) as uow:
        claim = redrafting.claim_redraft(uow, redraft_id, owner="w", lease_s=60)
        made = new_draft(claim.held, **changes)
        redrafting.offered(uow, claim, made)


def test_a_question_is_asked_answered_and_copied_only_by_an_act(site, opened):
    study_id, browser = opened
    assert browser.submit(f"/studies/{study_id}/questions", question="Is there an effusion?").status_code == 303
    question = site.one(Question)
    page = browser.get(f"/studies/{study_id}").text
    assert 'hx-trigger="every 2s"' in page
    assert "Waiting" in page
    answer(site, question.id)
    page = browser.get(f"/studies/{study_id}").text
    assert "every 2s" not in page  # nothing is to come, nothing is asked
    assert "AI answer, not part of the report, not verified" in page
    assert "Demonstration model" in page
    assert site.report(study_id).sections == SECTIONS
    done = browser.submit(
        f"/studies/{study_id}/questions/{question.id}/copy", section="impression", version=version(site, study_id)
    )
    assert done.status_code == 303
    assert site.report(study_id).sections["impression"] == f"{SECTIONS['impression']}\n{asking.marked(ANSWER.text)}"
    assert site.one(AnswerCopy).section == "impression"
    assert "Copied into Impression" in browser.get(f"/studies/{study_id}").text
    checks = browser.get(f"/studies/{study_id}/checks", headers={"HX-Request": "true"}).text
    assert asking.AI_MARK in checks  # an open field: nothing is signed before its reader has removed the mark


def test_with_a_script_the_parts_come_alone_and_a_stale_page_stays_stale(site, opened):
    study_id, browser = opened
    seen = version(site, study_id)
    part = browser.submit(f"/studies/{study_id}/questions", htmx=True, question="Is there an effusion?", version=seen)
    assert part.status_code == 200
    assert part.text.strip().startswith('<section id="asking"')
    answer(site, question_id := site.one(Question).id)
    browser.submit(f"/studies/{study_id}/sections", htmx=True, findings="Changed in another tab.", version=seen)
    stale = browser.get(f"/studies/{study_id}/questions?version={seen}", headers={"HX-Request": "true"}).text
    assert re.findall(r'name="version"[^>]*value="(\d+)"', stale) == [str(seen)] * 2
    copy = f"/studies/{study_id}/questions/{question_id}/copy"
    assert browser.submit(copy, htmx=True, section="findings", version=seen).status_code == 409
    now = version(site, study_id)
    done = browser.submit(copy, htmx=True, section="findings", version=now)
    assert done.status_code == 200
    assert str(now + 1) in done.headers["HX-Trigger"]
    assert "Changed in another tab.\n[AI answer, not verified]" in done.text
    assert 'id="questions"' in done.text


def test_what_cannot_be_asked_is_said_beside_the_question_which_stays(site, opened):
    study_id, browser = opened
    target = f"/studies/{study_id}/questions"
    other = site.drafted(ct_study(3, PatientID="P-2"))
    with site.sessions() as db:
        foreign = db.scalars(select(Instance.sop_instance_uid).where(Instance.study_id == other)).first()
    part = browser.submit(
        target, htmx=True, question="What is this?", about="shown", sop_instance_uid=foreign, frame_number="1"
    )
    assert "The image of the question is none of this study." in part.text
    assert ">What is this?</textarea>" in part.text
    assert browser.submit(target, question=" ").status_code == 400
    assert browser.submit(target, question="x" * 501).status_code == 400
    assert site.client("lead").submit(target, question="Mine?").status_code == 409  # another reader's lock
    with site.sessions() as db:
        assert db.scalars(select(Question)).all() == []


def test_hostile_text_is_text(site, opened):
    study_id, browser = opened
    browser.submit(f"/studies/{study_id}/questions", question=f"{SCRIPT} Is it?")
    answer(site, site.one(Question).id, f'{SCRIPT} "><img src=x onerror=alert(1)> \u202etxet')
    browser.submit(f"/studies/{study_id}/redrafts", instruction=SCRIPT)
    offer(site, site.one(Redraft).id, sections={"findings": SCRIPT, "impression": SCRIPT})
    page = browser.get(f"/studies/{study_id}").text
    assert SCRIPT not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;") >= 4


def test_another_draft_is_asked_for_offered_and_adopted(site, opened):
    study_id, browser = opened
    target = f"/studies/{study_id}/redrafts"
    assert browser.submit(target).status_code == 400
    part = browser.submit(target, htmx=True, instruction="x" * 501)
    assert "500 characters at most" in part.text
    assert browser.submit(target, instruction="Compare the left apex.").status_code == 303
    redraft_id = site.one(Redraft).id
    assert 'hx-trigger="every 3s"' in browser.get(target, headers={"HX-Request": "true"}).text
    finding = replace(new_draft_finding(), label="lung tumor", presence=Presence.ABSENT)
    offer(site, redraft_id, sections={"findings": "No tumor.", "impression": "Normal."}, findings=[finding])
    page = browser.get(f"{target}?version={version(site, study_id)}", headers={"HX-Request": "true"}).text
    assert "every 3s" not in page
    assert "New AI draft, not yet adopted" in page
    assert re.search(r"<td>Lung tumor</td><td>present</td><td><b>absent</b>", page)
    assert "<ins>No</ins>" in page
    assert site.report(study_id).sections == SECTIONS
    assert "report:viewed" in site.tags(report_id=site.report(study_id).id)
    adopted = browser.submit(f"{target}/{redraft_id}/adopt", version=version(site, study_id))
    assert adopted.status_code == 303
    report = site.report(study_id)
    assert report.sections["impression"] == "Normal."
    assert site.one(Draft, id=report.draft_id).reading_id == redraft_id
    assert browser.submit(f"{target}/{redraft_id}/adopt", version=report.version).status_code == 409
    assert browser.get(f"/studies/{study_id}").status_code == 200
    assert site.client("lead").get("/worklist").status_code == 200


def new_draft_finding():
    from db.lifecycle import NewFinding

    return NewFinding("x", Presence.PRESENT, "VLM after VISTA3D", score=0.2, evidence_index=0)


def test_keeping_mine_is_one_click_and_a_failure_is_said(site, opened):
    study_id, browser = opened
    target = f"/studies/{study_id}/redrafts"
    browser.submit(target, instruction="Again.")
    first = site.one(Redraft).id
    offer(site, first)
    part = browser.submit(f"{target}/{first}/discard", htmx=True, version=version(site, study_id))
    assert "Ask for another draft" in part.text
    assert site.report(study_id).sections == SECTIONS
    browser.submit(target, instruction="And again.")
    second = site.one(Redraft, state=ErrandState.ASKED)
    with unit_of_work(site.sessions, WORKER) as uow:
        redrafting.claim_redraft(uow, second.id, owner="w", lease_s=-1)
        errands.requeue(uow, utcnow() + timedelta(seconds=1), max_attempts=1)
    assert "the worker stopped answering" in browser.get(f"/studies/{study_id}").text


def test_models_that_the_gates_would_refuse_are_not_offered(site, opened):
    study_id, browser = opened
    facts = {"kind": PackageKind.VLM, "place": "vlm", "version": "1", "licence": "x", "imported_by": "admin"}
    with unit_of_work(site.sessions, WORKER) as uow:
        for number, (name, kind) in enumerate(
            [("open", {}), ("noncommercial", {"research_only": True}), ("gone", {"state": PackageState.RETIRED})]
        ):
            hashes = {"manifest_sha256": f"{number}" * 64, "licence_sha256": f"{number}" * 64, "folder": name}
            values = {"research_only": False, "demonstration": False} | kind
            uow.session.add(Package(name=name, **facts, **hashes, **values))
    page = browser.get(f"/studies/{study_id}").text
    choices = re.search(r'<select id="redraft-package".*?</select>', page, re.S)[0]
    assert re.findall(r">([^<>]+)</option>", choices) == ["The one in force", "open 1"]
    with site.sessions() as db:
        retired = db.scalars(select(Package.id).where(Package.name == "gone")).one()
    assert browser.submit(f"/studies/{study_id}/redrafts", package=str(retired)).status_code == 400


def test_who_only_reads_sees_no_unverified_answers_and_an_auditor_sees_what_was_asked(site, opened):
    study_id, browser = opened
    browser.submit(f"/studies/{study_id}/questions", question="Is there an effusion?")
    answer(site, site.one(Question).id)
    assert ANSWER.text not in site.client("viewer").get(f"/studies/{study_id}").text
    auditors = site.client("auditor").get(f"/studies/{study_id}").text
    assert ANSWER.text in auditors
    assert "Copy, marked as AI text" not in auditors
    with site.sessions() as db:
        told = " ".join(str(one.detail) for one in db.scalars(select(AuditEvent)))
    assert "effusion" not in told
