"""A signature is one person's, fresh, over the text that was seen; the object leaves with it or not at all."""

import hashlib
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from config.settings import Destination
from db.models import Delivery, ResultObject
from db.report_models import Signature
from db.types import DeliveryState, ReportState, Role
from tests.dashboard_support import Browser, Site, ct_study, make_site
from tests.signing_support import sign

PACS = Destination(name="PACS", ae_title="PACS", host="127.0.0.1", port=11119)


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url, destinations=(PACS,))


def reviewed(site: Site, browser: Browser, *, decide: bool = True, **changes: Any) -> UUID:
    """A study in review by ``browser``, its one asserted finding accepted."""
    study_id = site.drafted(ct_study(3), **changes)
    assert browser.submit(f"/studies/{study_id}/review").status_code == 303
    if decide:
        path = f"/studies/{study_id}/findings/{site.findings(study_id)[0].id}"
        answer = browser.submit(path, version=site.report(study_id).version, decision="accepted")
        assert answer.status_code == 303
    return study_id


def signed_files(site: Site) -> list[Path]:
    return sorted(site.settings.results_dir.rglob("signed/*.dcm"))


def text_of(ds: Dataset) -> str:
    own = str(ds.get("TextValue") or "")
    return " ".join([own, *(text_of(item) for item in ds.get("ContentSequence") or [])])


@pytest.mark.requirement("REQ-SIGN-6")
def test_a_signed_report_is_final_verified_bound_and_owed_to_the_pacs(site: Site) -> None:
    browser = site.client("radiologist")
    study_id = reviewed(site, browser)
    assert sign(site, browser, study_id).status_code == 303
    report, signature = site.report(study_id), site.one(Signature)
    assert report.state is ReportState.FINAL
    assert (signature.printed_name, signature.report_id) == ("Maria Lund", report.id)
    assert "personally reviewed" in signature.meaning
    made = site.one(ResultObject, signature_id=signature.id)
    path = site.settings.results_dir / made.path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == made.sha256
    document = dcmread(path)
    assert (document.CompletionFlag, document.VerificationFlag, document.PreliminaryFlag) == (
        "COMPLETE",
        "VERIFIED",
        "FINAL",
    )
    assert str(document.VerifyingObserverSequence[0].VerifyingObserverName) == "Lund^Maria"
    assert (document.PatientID, document.AccessionNumber) == ("P-1001", "ACC-1001")
    assert "lung tumor of 12.4 ml" in text_of(document)
    assert "not verified" not in text_of(document)
    assert {item.get("ManufacturerModelName") for item in document.ContributingEquipmentSequence} >= {"VISTA3D"}
    owed = site.one(Delivery, result_object_id=made.id)
    assert (owed.destination, owed.state) == ("PACS", DeliveryState.PENDING)
    assert site.tags(tag="report:signed_final", study_id=study_id) == ["report:signed_final"]
    page = browser.get(f"/studies/{study_id}").text
    assert "AI-generated draft, not verified" not in page
    assert "<textarea" not in page
    for words in ("Maria Lund", "personally reviewed", signature.text_sha256):
        assert words in page
        assert words in browser.get(f"/studies/{study_id}/report").text


@pytest.mark.requirement("REQ-SIGN-2")
def test_a_wrong_password_signs_nothing_and_writes_nothing(site: Site) -> None:
    browser = site.client("radiologist")
    study_id = reviewed(site, browser)
    answer = sign(site, browser, study_id, password="wrong")
    assert answer.status_code == 403
    assert "the password is wrong" in answer.text
    assert site.report(study_id).state is ReportState.IN_REVIEW
    assert signed_files(site) == []
    assert "user:reauthentication_failed" in site.tags()


@pytest.mark.requirement("REQ-SIGN-7")
def test_too_many_wrong_passwords_end_the_session(site: Site) -> None:
    browser = site.client("radiologist")
    study_id = reviewed(site, browser)
    answers = [sign(site, browser, study_id, password="wrong") for _ in range(site.settings.web.lockout_failures)]
    assert answers[-1].headers["Location"] == "/login"
    assert browser.get("/worklist").status_code == 303
    assert site.report(study_id).state is ReportState.IN_REVIEW


@pytest.mark.requirement("REQ-BIAS-3")
def test_an_undecided_finding_stops_the_signature(site: Site) -> None:
    browser = site.client("radiologist")
    study_id = reviewed(site, browser, decide=False)
    page = browser.get(f"/studies/{study_id}/sign/FINAL").text
    assert "1 finding(s) undecided: lung tumor" in page
    assert sign(site, browser, study_id).status_code == 409
    assert site.report(study_id).state is ReportState.IN_REVIEW
    assert signed_files(site) == []


@pytest.mark.requirement("REQ-TEXT-6")
def test_doubts_of_the_checks_must_be_confirmed(site: Site) -> None:
    browser = site.client("radiologist")
    study_id = reviewed(site, browser)
    assert "VISTA3D found hepatic tumor" in browser.get(f"/studies/{study_id}/sign/FINAL").text
    assert sign(site, browser, study_id, checked="").status_code == 400
    assert site.report(study_id).state is ReportState.IN_REVIEW


def test_a_rejected_finding_that_the_text_still_asserts_is_a_doubt(site: Site) -> None:
    browser = site.client("radiologist")
    study_id = reviewed(site, browser, marks=[])
    assert "Check before signing" not in browser.get(f"/studies/{study_id}/sign/FINAL").text
    path = f"/studies/{study_id}/findings/{site.findings(study_id)[0].id}"
    browser.submit(path, version=site.report(study_id).version, decision="rejected", reason="Artefact")
    assert "the text still says" in browser.get(f"/studies/{study_id}/sign/FINAL").text
    browser.submit(
        f"/studies/{study_id}/sections",
        version=site.report(study_id).version,
        findings="No lung tumor.",
        impression="Normal.",
    )
    assert "Check before signing" not in browser.get(f"/studies/{study_id}/sign/FINAL").text


@pytest.mark.requirement("REQ-SIGN-3")
def test_a_report_that_moved_on_is_not_signed_and_leaves_no_file(site: Site) -> None:
    browser = site.client("radiologist")
    study_id = reviewed(site, browser)
    seen = site.report(study_id).version
    browser.submit(f"/studies/{study_id}/sections", version=seen, impression="Changed meanwhile.")
    assert sign(site, browser, study_id, version=seen).status_code == 409
    assert signed_files(site) == []


@pytest.mark.requirement("REQ-BIND-3")
def test_images_that_came_after_the_review_began_stop_the_signature(site: Site) -> None:
    browser = site.client("radiologist")
    datasets = ct_study(4)
    study_id = site.drafted(datasets[:3])
    browser.submit(f"/studies/{study_id}/review")
    path = f"/studies/{study_id}/findings/{site.findings(study_id)[0].id}"
    browser.submit(path, version=site.report(study_id).version, decision="accepted")
    seen = site.report(study_id).version
    site.receive(datasets[3:])
    assert sign(site, browser, study_id, version=seen).status_code == 409
    assert site.report(study_id).state is not ReportState.FINAL
    assert signed_files(site) == []


def test_nobody_signs_what_another_reader_holds(site: Site) -> None:
    browser = site.client("radiologist")
    study_id = reviewed(site, browser)
    site.user("second", Role.RADIOLOGIST, "Per Holm")
    second = site.client("second")
    assert "open it for review first" in second.get(f"/studies/{study_id}/sign/FINAL").text
    assert sign(site, second, study_id).status_code == 409
    assert site.report(study_id).state is ReportState.IN_REVIEW


@pytest.mark.requirement("REQ-SIGN-10")
def test_a_preliminary_report_is_made_final_by_another_reader_who_attests(site: Site) -> None:
    resident = site.client("radiologist")
    study_id = reviewed(site, resident)
    assert sign(site, resident, study_id, "PRELIMINARY").status_code == 303
    assert site.report(study_id).state is ReportState.PRELIMINARY
    first = dcmread(signed_files(site)[0])
    assert (first.VerificationFlag, first.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    site.user("attending", Role.RADIOLOGIST, "Per Holm")
    assert sign(site, site.client("attending"), study_id).status_code == 303
    assert site.report(study_id).state is ReportState.FINAL
    final = next(ds for path in signed_files(site) if (ds := dcmread(path)).PreliminaryFlag == "FINAL")
    assert [str(a.PersonName) for a in final.AuthorObserverSequence] == ["Lund^Maria", "Holm^Per"]
    named = final.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == first.SOPInstanceUID


def test_a_signed_report_cannot_be_signed_opened_or_rejected_again(site: Site) -> None:
    browser = site.client("radiologist")
    study_id = reviewed(site, browser)
    sign(site, browser, study_id)
    now = site.report(study_id).version
    assert sign(site, browser, study_id).status_code == 409
    assert browser.submit(f"/studies/{study_id}/review").status_code == 409
    assert browser.submit(f"/studies/{study_id}/reject", version=now, kind="Other").status_code == 409
    assert browser.submit(f"/studies/{study_id}/sections", version=now, findings="x").status_code == 409
    assert site.report(study_id).version == now


@pytest.mark.requirement("REQ-BIAS-5")
def test_a_draft_is_rejected_for_a_reason_and_read_from_scratch(site: Site) -> None:
    browser = site.client("radiologist")
    study_id = reviewed(site, browser, decide=False)
    now = site.report(study_id).version
    assert browser.submit(f"/studies/{study_id}/reject", version=now, kind="").status_code == 400
    answer = browser.submit(f"/studies/{study_id}/reject", version=now, kind="Findings wrong", note="no tumor")
    assert answer.status_code == 303
    assert site.report(study_id).state is ReportState.REJECTED
    assert site.report(study_id).reason == "Findings wrong: no tumor"
    browser.submit(f"/studies/{study_id}/review")
    assert browser.get(f"/studies/{study_id}").text.count('class="section ai"') == 0
    text = {"findings": "Normal lungs.", "impression": "No acute finding."}
    browser.submit(f"/studies/{study_id}/sections", version=site.report(study_id).version, **text)
    assert sign(site, browser, study_id).status_code == 303
    assert "Normal lungs." in text_of(dcmread(signed_files(site)[0]))


def test_only_preliminary_and_final_can_be_signed(site: Site) -> None:
    browser = site.client("radiologist")
    study_id = reviewed(site, browser)
    for state in ("DRAFTED", "ADDENDED", "final", "X"):
        assert browser.get(f"/studies/{study_id}/sign/{state}").status_code == 404
