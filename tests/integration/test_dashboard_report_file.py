"""The report as a file: who reads it gets it marked, on the record, under a name that tells nothing of the patient."""

import hashlib
import io
from pathlib import Path
from uuid import uuid4

import pypdf
import pytest

from db.models import AuditEvent
from tests.dashboard_support import PASSWORD, Browser, Site, ct_study, make_site


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url, organization="General Hospital")


def pages(content: bytes) -> list[str]:
    return [" ".join(page.extract_text().split()) for page in pypdf.PdfReader(io.BytesIO(content)).pages]


def signed(site: Site, browser: Browser) -> str:
    """A study whose report the radiologist signed; returns its address."""
    study_id = site.drafted(ct_study(3))
    address = f"/studies/{study_id}"
    assert browser.submit(f"{address}/review").status_code == 303
    finding = site.findings(study_id)[0]
    version = site.report(study_id).version
    assert browser.submit(f"{address}/findings/{finding.id}", version=version, decision="accepted").status_code == 303
    fields = {"version": site.report(study_id).version, "password": PASSWORD, "checked": "1"}
    assert browser.submit(f"{address}/sign/FINAL", **fields).status_code == 303
    return address


@pytest.mark.requirement("REQ-LABEL-2")
def test_a_draft_leaves_marked_on_every_page_and_on_the_record(site: Site) -> None:
    study_id = site.drafted(ct_study(3))
    answer = site.client("radiologist").get(f"/studies/{study_id}/report.pdf")
    assert (answer.status_code, answer.mimetype) == (200, "application/pdf")
    texts = pages(answer.data)
    for text in texts:
        assert text.count("AI-generated draft, not verified") >= 2
        for words in ("Halvorsen, Ingrid", "P-1001", "1958-02-14", "ACC-1001"):
            assert words in text
    assert "lung tumor of 12.4 ml" in " ".join(texts)
    assert "Not signed." in " ".join(texts)
    event = site.one(AuditEvent, tag="report:exported")
    assert (event.actor, event.study_id, event.report_id) == ("radiologist", study_id, site.report(study_id).id)
    assert event.detail["state"] == "draft"
    assert event.detail["sha256"] == hashlib.sha256(answer.data).hexdigest()


@pytest.mark.requirement("REQ-KEEP-4")
def test_a_signed_report_shows_its_signature_and_no_notice(site: Site) -> None:
    browser = site.client("radiologist")
    text = " ".join(pages(browser.get(f"{signed(site, browser)}/report.pdf").data))
    assert "Radiology report – Final" in text
    assert "General Hospital" in text
    assert "Maria Lund" in text
    assert "not verified" not in text
    assert "accepted" in text


def test_the_same_report_has_the_same_bytes(site: Site) -> None:
    browser = site.client("radiologist")
    address = signed(site, browser)
    assert browser.get(f"{address}/report.pdf").data == browser.get(f"{address}/report.pdf").data


@pytest.mark.requirement("REQ-PRIV-2")
@pytest.mark.parametrize(("query", "kind"), [("", "inline"), ("?download=1", "attachment"), ("?download=x", "inline")])
def test_the_file_is_not_stored_by_browsers_and_its_name_tells_nothing_of_the_patient(
    site: Site, query: str, kind: str
) -> None:
    study_id = site.drafted(ct_study(3))
    answer = site.client("auditor").get(f"/studies/{study_id}/report.pdf{query}")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Disposition"] == f'{kind}; filename="report-{str(study_id)[:8]}-draft.pdf"'


@pytest.mark.requirement("REQ-AUDIT-12")
def test_the_assessment_of_findings_leaves_as_json_on_the_record(site: Site) -> None:
    browser = site.client("radiologist")
    address = signed(site, browser)
    answer = browser.get(f"{address}/assessment.json")
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    assert answer.headers["Cache-Control"] == "no-store"
    by_label = {one["finding"]["label"]: one["assessment"] for one in answer.get_json()["assessments"]}
    assert "accepted" in by_label.values()
    event = site.one(AuditEvent, tag="assessment:exported")
    assert event.actor == "radiologist"
    assert event.detail["findings"] == len(answer.get_json()["assessments"])


def test_a_study_that_is_not_here_or_says_nothing_yet_gives_no_file(site: Site) -> None:
    browser = site.client("radiologist")
    for name in ("report.pdf", "assessment.json"):
        assert browser.get(f"/studies/{uuid4()}/{name}").status_code == 404
    waiting = site.receive(ct_study(3))
    assert browser.get(f"/studies/{waiting}/report.pdf").status_code in {400, 404}
    assert "report:exported" not in site.tags()


def test_reading_and_report_page_link_to_the_pdf(site: Site) -> None:
    browser = site.client("radiologist")
    study_id = site.drafted(ct_study(3))
    for page in ("", "/report"):
        assert f'href="/studies/{study_id}/report.pdf"' in browser.get(f"/studies/{study_id}{page}").text
