"""The reading page: who may change what, what is shown as the AI's, and two readers at one report."""

import re
from pathlib import Path

import pytest

from db import lifecycle
from db.types import Decision, ReportState, Role
from db.uow import unit_of_work
from tests.dashboard_support import DRAFT, SECTIONS, WORKER, Browser, Site, ct_study, make_site


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def version(site: Site, study_id: object) -> int:
    return site.report(study_id).version  # type: ignore[arg-type]


def save(browser: Browser, study_id: object, seen: int, *, htmx: bool = False, **sections: str) -> object:
    return browser.submit(f"/studies/{study_id}/sections", htmx=htmx, version=seen, **sections)


@pytest.mark.requirement("REQ-LABEL-1")
def test_an_unsigned_page_says_so_and_names_the_models(site: Site) -> None:
    study_id = site.drafted()
    page = site.client("radiologist").get(f"/studies/{study_id}").text
    for words in (
        "AI-generated draft, not verified",
        "DEMONSTRATION MODEL",
        "VILA-M3 demo 0.1.0-demo",
        "HALVORSEN, Ingrid",
        "ACC-1001",
        "Omission: an expert&#39;s finding is missing from the text",
        "Not assessed by AI",
        "VISTA3D does not offer it",
        "a" * 64,  # hash of the weights
        "2,310.5 ml",
    ):
        assert words in page, words


def test_addresses_name_no_patient(site: Site) -> None:
    study_id = site.drafted()
    page = site.client("radiologist").get(f"/studies/{study_id}").text
    addresses = " ".join(re.findall(r'(?:href|src|action|hx-get|hx-post|data-base)="([^"]*)"', page))
    assert str(study_id) in addresses
    for secret in ("Halvorsen", "HALVORSEN", "P-1001", "ACC-1001", "1958"):
        assert secret not in addresses


@pytest.mark.requirement("REQ-AUDIT-4")
def test_looking_is_recorded_and_changes_nothing(site: Site) -> None:
    study_id = site.drafted()
    before = version(site, study_id)
    page = site.client("radiologist").get(f"/studies/{study_id}").text
    assert "<textarea" not in page
    assert site.tags(tag="report:viewed", study_id=study_id) == ["report:viewed"]
    assert version(site, study_id) == before
    assert site.report(study_id).state is ReportState.DRAFTED


def test_a_review_gives_one_reader_the_pen(site: Site) -> None:
    study_id = site.drafted()
    site.user("second", Role.RADIOLOGIST, "Per Holm")
    first, second = site.client("radiologist"), site.client("second")
    assert first.submit(f"/studies/{study_id}/review").status_code == 303
    assert "<textarea" in first.get(f"/studies/{study_id}").text
    watched = second.get(f"/studies/{study_id}").text
    assert "<textarea" not in watched
    assert "Maria Lund</b> is reading this study" in watched
    assert second.submit(f"/studies/{study_id}/review").status_code == 409
    assert second.submit(f"/studies/{study_id}/review", take_over="1").status_code == 303
    assert "report:taken_over" in site.tags(study_id=study_id)
    assert save(first, study_id, version(site, study_id), findings="x").status_code == 409  # type: ignore[attr-defined]


def test_text_is_the_ais_until_it_is_touched(site: Site) -> None:
    study_id = site.drafted()
    browser = site.client("radiologist")
    browser.submit(f"/studies/{study_id}/review")
    assert browser.get(f"/studies/{study_id}").text.count('class="section ai"') == 4
    answer = save(
        browser, study_id, version(site, study_id), **SECTIONS | {"impression": "Benign nodule on the right."}
    )
    assert answer.status_code == 303  # type: ignore[attr-defined]
    page = browser.get(f"/studies/{study_id}").text
    assert page.count('class="section ai"') == 3
    assert "<del>Lung</del><ins>Benign</ins> <del>tumor</del><ins>nodule</ins> on the right." in page
    assert "Revision 2</b> · Maria Lund" in page


def test_saving_by_script_tells_the_page_its_new_version(site: Site) -> None:
    study_id = site.drafted()
    browser = site.client("radiologist")
    browser.submit(f"/studies/{study_id}/review")
    answer = save(browser, study_id, version(site, study_id), htmx=True, findings="Changed.")
    now = version(site, study_id)
    assert answer.headers["HX-Trigger"] == f'{{"reportVersion": {now}}}'  # type: ignore[attr-defined]
    assert f"Saved version {now} at" in answer.text  # type: ignore[attr-defined]


@pytest.mark.requirement("REQ-EDIT-2")
def test_a_stale_tab_loses_and_sees_both_texts(site: Site) -> None:
    study_id = site.drafted()
    browser = site.client("radiologist")
    browser.submit(f"/studies/{study_id}/review")
    stale = version(site, study_id)
    save(browser, study_id, stale, findings="Saved in the first tab.")
    for htmx in (False, True):
        answer = save(browser, study_id, stale, htmx=htmx, findings="Typed in the second tab.")
        assert answer.status_code == 409  # type: ignore[attr-defined]
        assert "Typed in the second tab." in answer.text  # type: ignore[attr-defined]
        assert "first" in answer.text  # type: ignore[attr-defined]
    assert site.report(study_id).sections["findings"] == "Saved in the first tab."


@pytest.mark.requirement("REQ-BIAS-3")
def test_each_finding_is_accepted_edited_or_rejected_with_a_reason(site: Site) -> None:
    study_id = site.drafted()
    browser = site.client("radiologist")
    browser.submit(f"/studies/{study_id}/review")
    path = f"/studies/{study_id}/findings/{site.findings(study_id)[0].id}"

    def decide(**fields: str) -> int:
        return browser.submit(path, version=version(site, study_id), **fields).status_code

    assert decide(decision="rejected", reason=" ") == 400
    assert decide(decision="edited") == 400
    assert decide(decision="pending") == 400
    assert decide(decision="rejected", reason="Artefact") == 303
    assert site.findings(study_id)[0].decision is Decision.REJECTED
    assert decide(decision="accepted") == 303
    found = site.findings(study_id)[0]
    assert (found.decision, found.decision_reason) == (Decision.ACCEPTED, "")
    assert browser.submit(path, version=1, decision="accepted").status_code == 409
    fragment = browser.submit(path, htmx=True, version=version(site, study_id), decision="rejected", reason="Artefact")
    assert fragment.text.count("<html") == 0
    assert "Artefact" in fragment.text
    assert fragment.headers["HX-Trigger"] == f'{{"reportVersion": {version(site, study_id)}}}'


@pytest.mark.requirement("REQ-BIAS-1")
def test_a_finding_leads_to_its_slice(site: Site) -> None:
    study_id = site.drafted()
    page = site.client("radiologist").get(f"/studies/{study_id}").text
    match = re.search(r'data-jump="[^"]+" data-series="([^"]+)" data-index="(\d+)" data-label="([^"]+)"', page)
    assert match is not None
    # the lesion's middle is the sixth of eight slices counted from the head
    assert match.groups() == (str(site.series_id(study_id)), "5", f"{site.evidence_id(study_id)}:23")
    assert 'data-index="5"' in page.split('id="viewer"')[1].split(">")[0]


@pytest.mark.requirement("REQ-ACCESS-4")
def test_patient_text_cannot_become_markup(site: Site) -> None:
    datasets = ct_study(2, PatientName="<script>alert(1)</script>", StudyDescription="<b>x</b>")
    study_id = site.drafted(datasets, sections={"findings": "<img src=x onerror=alert(1)>"})
    page = site.client("radiologist").get(f"/studies/{study_id}").text
    assert "<script>alert" not in page.lower()
    assert "<img src=x" not in page
    assert "<b>x</b>" not in page


@pytest.mark.requirement("REQ-GATE-9")
def test_a_study_without_a_draft_is_readable_and_says_why(site: Site) -> None:
    study_id = site.receive(ct_study(2))
    claim = site.claimed(study_id)
    with unit_of_work(site.sessions, WORKER) as uow:
        lifecycle.no_draft(uow, claim, "two slices make no volume")
    page = site.client("radiologist").get(f"/studies/{study_id}").text
    assert "No AI draft.</b> two slices make no volume" in page
    assert 'id="slice"' in page


def test_late_images_warn_that_the_draft_speaks_of_fewer(site: Site) -> None:
    datasets = ct_study(3)
    study_id = site.drafted(datasets[:2])
    site.receive(datasets[2:])
    browser = site.client("radiologist")
    assert "No AI draft." in browser.get(f"/studies/{study_id}").text
    assert browser.submit(f"/studies/{study_id}/review").status_code == 409
    assert DRAFT.action == "draft"


@pytest.mark.requirement("REQ-EDIT-1")
def test_who_cannot_edit_because_of_another_reader_is_told_so(site: Site) -> None:
    study_id = site.drafted(ct_study(2))
    site.client("resident").submit(f"/studies/{study_id}/review")
    page = site.client("radiologist").get(f"/studies/{study_id}").text
    assert "Rasmus Ident is reading it; you are viewing only." in page
    assert "Your role reads only." not in page
    assert "Your role reads only." in site.client("viewer").get(f"/studies/{site.drafted(ct_study(2))}").text
