"""What a signature takes beside a password: answered checks, seen images; and what it leaves behind."""

import html
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydicom.uid import EnhancedSRStorage

from config.durable import write_durably
from db.lifecycle import NewObject, text_sha256
from db.models import AuditEvent, ResultObject
from db.report_models import DraftRejection, Signature
from db.signing_models import ImageView, SafetyCheck
from db.types import ReportState
from tests.dashboard_support import Browser, Site, ct_study, make_site
from tests.dicomweb_support import encoded, make_token
from tests.integration.test_dashboard_signing import reviewed
from tests.signing_support import REASON, overrides, sign

WRONG_SIDE = {"findings": "There is a lung tumor of 12.4 ml in the left lung.", "impression": "Lung tumor on the left."}


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


@pytest.fixture
def browser(site: Site) -> Browser:
    return site.client("radiologist")


def write(site: Site, browser: Browser, study_id: UUID, **sections: str) -> None:
    version = site.report(study_id).version
    assert browser.submit(f"/studies/{study_id}/sections", version=version, **sections).status_code == 303


def detail_of(site: Site, tag: str) -> dict[str, Any]:
    found: dict[str, Any] = site.one(AuditEvent, tag=tag).detail
    return found


def test_a_warning_is_signed_with_a_reason_that_is_kept_for_good(site: Site, browser: Browser) -> None:
    study_id = reviewed(site, browser, marks=[])
    write(site, browser, study_id, **WRONG_SIDE)
    live = browser.get(f"/studies/{study_id}/checks").text
    assert "The text says left for lung tumor; it was measured right." in live
    for reason in ("", "  yes"):
        answer = sign(site, browser, study_id, **dict.fromkeys(overrides(_sign_page(browser, study_id)), reason))
        assert answer.status_code == 400
        assert "Give a reason" in answer.text
    assert site.report(study_id).state is ReportState.IN_REVIEW
    assert sign(site, browser, study_id).status_code == 303
    kept, signature = site.one(SafetyCheck), site.one(Signature)
    assert (kept.signature_id, kept.text_sha256) == (signature.id, signature.text_sha256)
    assert [(one["rule"], one["severity"], one["reason"]) for one in kept.issues] == [
        ("laterality", "warning", REASON),
        ("laterality", "warning", REASON),
    ]
    said = detail_of(site, "report:signed_final")["checks"]
    assert [(one["rule"], one["section"], one["reason"]) for one in said["overridden"]] == [
        ("laterality", "findings", REASON),
        ("laterality", "impression", REASON),
    ]
    assert "lung tumor" not in str(said)  # the record of what was said is with the signature
    page = site.client("auditor").get(f"/studies/{study_id}/report").text
    assert f"Reason: {REASON}" in page
    assert "Text and objects are what was signed" in page


def _sign_page(browser: Browser, study_id: UUID) -> str:
    return browser.get(f"/studies/{study_id}/sign/FINAL").text


@pytest.mark.requirement("REQ-TEXT-6")
def test_what_blocks_is_not_signed_whatever_the_reason(site: Site, browser: Browser) -> None:
    study_id = reviewed(site, browser, marks=[])
    write(site, browser, study_id, findings="Lung tumor of [ ] mm on the right.")
    page = _sign_page(browser, study_id)
    assert "An open field is left in the text: [ ]" in html.unescape(page)
    assert "disabled" in page.split("sign-acts")[1]
    assert sign(site, browser, study_id, **{"override-0123456789abcdef": REASON}).status_code == 409
    assert site.report(study_id).state is ReportState.IN_REVIEW
    assert "signed" not in {path.parent.name for path in site.settings.results_dir.rglob("*.dcm")}


def test_a_reason_for_another_issue_answers_nothing(site: Site, browser: Browser) -> None:
    study_id = reviewed(site, browser, marks=[])
    write(site, browser, study_id, **WRONG_SIDE)
    seen = overrides(_sign_page(browser, study_id))
    write(site, browser, study_id, findings="There is a lung tumor of 99 ml in the left lung.")
    fields = {"version": site.report(study_id).version, "password": "x", "checked": "1"}
    assert browser.submit(f"/studies/{study_id}/sign/FINAL", **fields, **seen).status_code == 400
    old_text = text_sha256({"findings": "x"})
    assert sign(site, browser, study_id, text=old_text).status_code == 409


@pytest.mark.requirement("REQ-SIGN-10")
def test_each_role_signs_what_is_its_own(site: Site, browser: Browser) -> None:
    resident = site.client("resident")
    study_id = reviewed(site, resident)
    assert sign(site, resident, study_id).status_code == 403
    assert sign(site, resident, study_id, "PRELIMINARY").status_code == 303
    assert "awaits final review" in site.one(Signature).meaning
    for role in ("viewer", "admin", "auditor"):
        assert sign(site, site.client(role), study_id).status_code == 403
    assert sign(site, site.client("lead"), study_id).status_code == 303
    assert site.report(study_id).state is ReportState.FINAL
    assert sign(site, browser, study_id).status_code == 409


@pytest.mark.requirement("REQ-SIGN-5")
def test_an_altered_object_is_no_longer_what_was_signed(site: Site, browser: Browser) -> None:
    study_id = reviewed(site, browser)
    assert sign(site, browser, study_id).status_code == 303
    path = site.settings.results_dir / site.one(ResultObject, signature_id=site.one(Signature).id).path
    path.write_bytes(path.read_bytes().replace(b"right", b"left "))
    page = browser.get(f"/studies/{study_id}/report").text
    assert "Not what was signed" in page
    assert path.name in page


def test_an_ended_session_signs_nothing_and_the_page_can_tell_before_it_sends(site: Site, browser: Browser) -> None:
    study_id = reviewed(site, browser)
    state = f"/studies/{study_id}/session"
    assert browser.get(state).status_code == 200
    stale = browser.token(f"/studies/{study_id}/sign/FINAL")
    version = site.report(study_id).version
    browser.delete_cookie("firstread")
    gone = browser.get(state, headers={"Sec-Fetch-Mode": "cors"})
    assert gone.status_code == 401
    assert "your text stays here" in gone.text
    fields = {"csrf_token": stale, "version": version, "password": "x"}
    assert browser.post(f"/studies/{study_id}/sign/FINAL", data=fields).status_code in {303, 400}
    assert site.report(study_id).state is ReportState.IN_REVIEW
    browser.log_in("radiologist")
    fresh = browser.get(state).text  # the mark of the new session, for the form that is still open
    fields |= {"csrf_token": fresh, "password": "correct-horse-battery", "checked": "1"}
    assert browser.post(f"/studies/{study_id}/sign/FINAL", data=fields).status_code == 303
    assert site.report(study_id).state is ReportState.FINAL


@pytest.mark.requirement("REQ-SIGN-9")
def test_sign_and_next_goes_to_the_next_study_and_signs_one(site: Site, browser: Browser) -> None:
    other = site.drafted(ct_study(3, AccessionNumber="ACC-2"))
    study_id = reviewed(site, browser)
    assert sign(site, browser, study_id, then="next").headers["Location"] == f"/studies/{other}"
    assert site.report(other).state is ReportState.DRAFTED


def test_a_rejection_keeps_its_code(site: Site, browser: Browser) -> None:
    study_id = reviewed(site, browser, decide=False)
    path, version = f"/studies/{study_id}/reject", site.report(study_id).version
    assert browser.submit(path, version=version, kind="NO_SUCH", note="kept").status_code == 400
    assert browser.submit(path, version=version, kind="WRONG_SIDE", note="it is left").status_code == 303
    assert site.report(study_id).reason == "Wrong side or location: it is left"
    assert site.one(DraftRejection).code == "WRONG_SIDE"
    assert detail_of(site, "report:rejected")["code"] == "WRONG_SIDE"


# --- against nodding through ---------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-BIAS-4")
def test_seconds_on_the_images_are_believed_no_further_than_the_clock(site: Site, browser: Browser) -> None:
    study_id = reviewed(site, browser)
    path = f"/studies/{study_id}/viewed"
    assert browser.submit(path, seconds="3600").text == "0"  # the page was not opened
    browser.get(f"/studies/{study_id}")
    for claim in ("3600", "inf", "nan", "-50", "x", ""):
        assert browser.submit(path, seconds=claim).status_code == 200
    view = site.one(ImageView)
    assert 0 <= view.seconds <= (view.counted_at - view.opened_at).total_seconds()
    time.sleep(0.3)
    browser.submit(path, seconds="0.2")
    assert site.one(ImageView).seconds - view.seconds == pytest.approx(0.2)
    assert sign(site, browser, study_id).status_code == 303
    assert site.one(SafetyCheck).view_s == pytest.approx(site.one(ImageView).seconds)
    assert "Time on the images" in site.client("auditor").get(f"/studies/{study_id}/report").text
    assert browser.submit(f"/studies/{uuid4()}/viewed", seconds="1").status_code == 404


@pytest.mark.requirement("REQ-BIAS-4")
def test_options_against_automation_bias(tmp_path: Path, sqlite_url: str) -> None:
    review = {"hold_s": 0, "hide_impression": True, "min_view_s": 600, "resolve_absent": True}
    site = make_site(tmp_path, sqlite_url, review=review)
    browser = site.client("radiologist")
    study_id = reviewed(site, browser)
    for path in ("", "/sign/FINAL", "/report"):
        page = browser.get(f"/studies/{study_id}{path}").text
        assert "Lung tumor on the right." not in page, path
        assert "There is a lung tumor of 12.4 ml" in html.unescape(page).replace("</a>", "").replace("</span>", "")
    assert browser.get(f"/studies/{study_id}/report.pdf").status_code == 409
    assert "impression is hidden" in _sign_page(browser, study_id)
    assert "pleural effusion" in _sign_page(browser, study_id)  # called absent, and not decided
    write(site, browser, study_id, findings="Lung tumor of 12.4 ml in the right lung.")
    assert site.report(study_id).sections["impression"] == "Lung tumor on the right."  # hidden, not lost
    browser.submit(f"/studies/{study_id}/viewed", seconds="0")
    assert "Lung tumor on the right." in browser.get(f"/studies/{study_id}").text
    assert browser.get(f"/studies/{study_id}/report.pdf").status_code == 200
    page = _sign_page(browser, study_id)
    assert "impression is hidden" not in page
    assert "this site asks for 600 s" in page
    assert sign(site, browser, study_id).status_code == 409


@pytest.mark.requirement("REQ-BIAS-4")
def test_a_hidden_impression_is_in_no_answer_to_a_session_and_a_token_is_not_asked(
    tmp_path: Path, sqlite_url: str
) -> None:
    site = make_site(tmp_path, sqlite_url, review={"hold_s": 0, "hide_impression": True})
    machine = {"Authorization": f"Bearer {make_token(site.sessions)}"}
    resident, reader, images = site.client("resident"), site.client("radiologist"), ct_study(3)
    draft = ct_study(1, SeriesInstanceUID="1.2.903", Modality="SR", SOPClassUID=EnhancedSRStorage)[0]
    draft.StudyInstanceUID, draft.file_meta.MediaStorageSOPClassUID = images[0].StudyInstanceUID, EnhancedSRStorage
    del draft.PixelData
    write_durably(site.settings.results_dir / "draft.dcm", encoded(draft))
    objects = [NewObject("DRAFT_SR", draft.SOPInstanceUID, draft.SOPClassUID, "0" * 64, "draft.dcm")]
    study_id = site.drafted(images, objects=objects)
    study = f"/dicomweb/studies/{images[0].StudyInstanceUID}"
    addresses = (f"{study}/series?Modality=SR", f"{study}/series/1.2.903", f"{study}/series/1.2.903/metadata")

    def answers(browser: Browser, **asked: Any) -> list[int]:
        return [browser.get(one, **asked).status_code for one in addresses]

    assert answers(reader) == [204, 404, 404]
    assert reader.get(study).data.count(b"Content-Location") == 3  # the images are what one is to look at
    assert answers(site.client(), headers=machine) == [200, 200, 200]
    reader.get(f"/studies/{study_id}")
    reader.submit(f"/studies/{study_id}/viewed", seconds="0")
    assert answers(reader) == [200, 200, 200]

    resident.submit(f"/studies/{study_id}/review")
    resident.get(f"/studies/{study_id}")
    resident.submit(f"/studies/{study_id}/viewed", seconds="0")
    finding = f"/studies/{study_id}/findings/{site.findings(study_id)[0].id}"
    resident.submit(finding, version=site.report(study_id).version, decision="accepted")
    assert sign(site, resident, study_id, "PRELIMINARY").status_code == 303
    resident.submit(f"/studies/{study_id}/review")  # the impression is again only the AI's
    report, lead = f"/fhir/DiagnosticReport/{site.report(study_id).id}", site.client("lead")
    assert (lead.get(report).status_code, reader.get(report).status_code) == (404, 200)
    assert "Lung tumor on the right" not in lead.get("/fhir/DiagnosticReport").text
    assert site.client().get(report, headers=machine).status_code == 200
