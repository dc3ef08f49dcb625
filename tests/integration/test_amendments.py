"""After a final signature: an addendum adds, a correction replaces, each signed anew; what was signed stays."""

from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import hl7
import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select
from werkzeug.test import TestResponse

from config.destination import Destination
from db import lifecycle
from db.models import ResultObject
from db.queries import report_detail
from db.report_models import Amendment, ReportRevision, Signature
from db.types import ReportState, Role
from publishing.documents import report_document
from tests.dashboard_support import PASSWORD, SECTIONS, Browser, Site, ct_study, make_site
from tests.integration.test_dashboard_signing import reviewed, text_of
from tests.signing_support import overrides, sign

PACS = Destination(name="PACS", ae_title="PACS", host="127.0.0.1", port=11119)
VIEWER = Destination(name="VIEWER", ae_title="VIEWER", host="127.0.0.1", port=11120, report="basic-text")
RIS = Destination(name="RIS", protocol="mllp", host="127.0.0.1", port=2575)
EHR = Destination(name="EHR", protocol="fhir", url="http://127.0.0.1:8080/fhir")


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url, destinations=(PACS, VIEWER, RIS, EHR))


@pytest.fixture
def browser(site: Site) -> Browser:
    return site.client("radiologist")


@pytest.fixture
def study_id(site: Site, browser: Browser) -> UUID:
    """A study whose report is final."""
    study_id = reviewed(site, browser)
    assert sign(site, browser, study_id).status_code == 303
    return study_id


def hidden(page: str, name: str) -> str:
    """The value of a hidden field of a form."""
    return page.split(f'name="{name}" value="')[1].split('"', maxsplit=1)[0]


def amend(browser: Browser, study_id: UUID, what: str = "addendum", **fields: Any) -> TestResponse:
    """Fill in the form as it is shown now and send it."""
    path = f"/studies/{study_id}/{what}"
    page = browser.get(path).text
    given: dict[str, Any] = {name: hidden(page, name) for name in ("version", "images")} | {"password": PASSWORD}
    if what == "correction":
        given |= SECTIONS | {"reason": "Wrong side.", "impression": "Lung tumor on the left."}
    else:
        given |= {"text": "Compared with the CT of 2024: new."}
    answer = browser.submit(path, **(given | fields))
    reasons = overrides(answer.text)  # checks are shown once there is something to check
    return browser.submit(path, **(reasons | given | fields)) if reasons else answer


def made_by(site: Site, signature: Signature) -> dict[str, ResultObject]:
    with site.sessions() as db:
        rows = db.scalars(select(ResultObject).where(ResultObject.signature_id == signature.id))
        return {one.kind: one for one in rows}


def signatures(site: Site, study_id: UUID) -> list[Signature]:
    with site.sessions() as db:
        query = select(Signature).where(Signature.report_id == site.report(study_id).id).order_by(Signature.signed_at)
        return list(db.scalars(query))


def written(site: Site, made: ResultObject) -> Dataset:
    return dcmread(BytesIO((site.settings.results_dir / made.path).read_bytes()))


def message(site: Site, made: ResultObject) -> Any:
    return hl7.parse((site.settings.results_dir / made.path).read_bytes().decode())


def followed(ds: Dataset) -> list[tuple[str, str]]:
    """(purpose, SOP Instance UID) of each predecessor."""
    return [
        (item.PurposeOfReferenceCodeSequence[0].CodeValue, item.ReferencedSOPInstanceUID)
        for study in ds.PredecessorDocumentsSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]


# --- through the dashboard -----------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-SIGN-11")
def test_an_addendum_is_signed_sent_and_shown_above_a_text_that_stays(site, browser, study_id) -> None:
    before = site.report(study_id)
    (first,) = signatures(site, study_id)
    assert "Add addendum" in browser.get(f"/studies/{study_id}").text
    assert amend(browser, study_id).status_code == 303
    report = site.report(study_id)
    assert (report.state, report.sections) == (ReportState.ADDENDED, before.sections)
    _, signature = signatures(site, study_id)
    assert (signature.state, signature.printed_name) == (ReportState.ADDENDED, "Maria Lund")
    assert "author of this addendum" in signature.meaning
    amendment = site.one(Amendment, signature_id=signature.id)
    assert (amendment.number, amendment.text) == (1, "Compared with the CT of 2024: new.")
    made = made_by(site, signature)
    assert set(made) == {"SIGNED_SR", "REPORT_TEXT_SR", "REPORT_ORU", "REPORT_FHIR"}
    document = written(site, made["SIGNED_SR"])
    assert (document.CompletionFlag, document.VerificationFlag, document.PreliminaryFlag) == (
        "COMPLETE",
        "VERIFIED",
        "FINAL",
    )
    old = made_by(site, first)
    assert followed(document) == [("121361", old["SIGNED_SR"].sop_instance_uid)]
    assert followed(written(site, made["REPORT_TEXT_SR"])) == [("121361", old["REPORT_TEXT_SR"].sop_instance_uid)]
    words = text_of(document)
    assert "lung tumor of 12.4 ml" in words
    assert "Compared with the CT of 2024: new." in words
    assert message(site, made["REPORT_ORU"])["OBR"][0][25][0] == "C"
    page = browser.get(f"/studies/{study_id}").text.split('id="text"')[1]
    assert page.index("Addendum 1") < page.index("There is a lung tumor")
    assert "Compared with the CT of 2024: new." in browser.get(f"/studies/{study_id}/report").text
    assert site.tags(tag="report:addended", study_id=study_id) == ["report:addended"]


def test_a_second_addendum_stands_above_the_first_and_each_names_its_signer(site, browser, study_id) -> None:
    site.user("second", Role.RADIOLOGIST, "Second Reader")
    assert amend(browser, study_id).status_code == 303
    assert amend(site.client("second"), study_id, text="Ward informed.").status_code == 303
    with site.sessions() as db:
        rows = db.scalars(select(Amendment).order_by(Amendment.number))
        assert [(one.number, one.text) for one in rows] == [
            (1, "Compared with the CT of 2024: new."),
            (2, "Ward informed."),
        ]
    page = browser.get(f"/studies/{study_id}").text
    assert page.index("Ward informed.") < page.index("Compared with the CT of 2024: new.")
    *_, one, two = signatures(site, study_id)
    document = written(site, made_by(site, two)["SIGNED_SR"])
    assert followed(document) == [("121361", made_by(site, one)["SIGNED_SR"].sop_instance_uid)]
    assert [str(item.PersonName) for item in document.AuthorObserverSequence] == ["Lund^Maria", "Reader^Second"]
    assert [str(item.VerifyingObserverName) for item in document.VerifyingObserverSequence] == ["Reader^Second"]
    assert two.text_sha256 == lifecycle.text_sha256(
        lifecycle.with_addenda(SECTIONS, ["Compared with the CT of 2024: new.", "Ward informed."])
    )


@pytest.mark.requirement("REQ-SIGN-11")
def test_a_correction_replaces_the_text_for_a_reason_and_the_old_text_is_kept(site, browser, study_id) -> None:
    (first,) = signatures(site, study_id)
    assert amend(browser, study_id, "correction").status_code == 303
    report = site.report(study_id)
    assert (report.state, report.sections["impression"]) == (ReportState.CORRECTED, "Lung tumor on the left.")
    _, signature = signatures(site, study_id)
    made = made_by(site, signature)
    document = written(site, made["SIGNED_SR"])
    assert followed(document) == [("121360", made_by(site, first)["SIGNED_SR"].sop_instance_uid)]
    words = text_of(document)
    assert "Lung tumor on the left." in words
    assert "Lung tumor on the right." not in words
    assert "Corrected report: Wrong side." in words
    assert message(site, made["REPORT_ORU"])["OBR"][0][25][0] == "C"
    with site.sessions() as db:
        said = db.scalars(select(ReportRevision.sections).order_by(ReportRevision.number)).all()
    assert [one["impression"] for one in said][-2:] == ["Lung tumor on the right.", "Lung tumor on the left."]
    page = browser.get(f"/studies/{study_id}").text
    assert "Corrected by Maria Lund" in page
    assert "Wrong side." in page


def test_addenda_stay_when_the_text_is_corrected(site, browser, study_id) -> None:
    assert amend(browser, study_id).status_code == 303
    assert amend(browser, study_id, "correction").status_code == 303
    assert amend(browser, study_id, text="And one more.").status_code == 303
    last = signatures(site, study_id)[-1]
    words = text_of(written(site, made_by(site, last)["SIGNED_SR"]))
    for said in ("Compared with the CT of 2024: new.", "And one more.", "Lung tumor on the left."):
        assert said in words
    assert "Corrected report" not in words
    assert site.report(study_id).state is ReportState.ADDENDED


@pytest.mark.requirement("REQ-SIGN-2")
@pytest.mark.parametrize("what", ["addendum", "correction"])
def test_a_wrong_password_signs_nothing_and_keeps_what_was_typed(site, browser, study_id, what) -> None:
    answer = amend(browser, study_id, what, password="wrong", text="Typed at length.", findings="Typed at length.")
    assert answer.status_code == 403
    assert "the password is wrong" in answer.text
    assert "Typed at length.</textarea>" in answer.text
    assert site.report(study_id).state is ReportState.FINAL
    assert len(signatures(site, study_id)) == 1


@pytest.mark.parametrize(
    ("what", "fields", "words"),
    [
        ("addendum", {"text": " \r\n"}, "Write the addendum."),
        ("correction", {"reason": " "}, "Say why the report is corrected."),
        ("correction", {"findings": "", "impression": ""}, "Findings and impression are empty."),
        ("correction", {"impression": SECTIONS["impression"]}, "Nothing is changed."),
    ],
)
def test_a_form_that_says_nothing_is_shown_again(site, browser, study_id, what, fields, words) -> None:
    answer = amend(browser, study_id, what, **fields)
    assert answer.status_code == 400
    assert words in answer.text
    assert site.report(study_id).state is ReportState.FINAL


def test_a_report_that_moved_on_is_shown_anew_with_what_was_typed_and_no_file_is_left(site, browser, study_id) -> None:
    page = browser.get(f"/studies/{study_id}/addendum").text
    seen = {name: hidden(page, name) for name in ("version", "images")}
    assert amend(browser, study_id, text="First.").status_code == 303
    files = sorted(site.settings.results_dir.rglob("signed/*"))
    answer = amend(browser, study_id, text="Second.", **seen)
    assert answer.status_code == 409
    assert "changed since it was shown" in answer.text
    assert "Second.</textarea>" in answer.text
    assert sorted(site.settings.results_dir.rglob("signed/*")) == files


def test_late_images_lead_to_an_addendum_that_has_seen_them(site, browser) -> None:
    datasets = ct_study(4)
    study_id = site.drafted(datasets[:3])
    browser.submit(f"/studies/{study_id}/review")
    path = f"/studies/{study_id}/findings/{site.findings(study_id)[0].id}"
    browser.submit(path, version=site.report(study_id).version, decision="accepted")
    assert sign(site, browser, study_id).status_code == 303
    before = browser.get(f"/studies/{study_id}/addendum").text
    site.receive(datasets[3:])
    page = browser.get(f"/studies/{study_id}").text
    assert f"/studies/{study_id}/addendum" in page.split("Images arrived after")[1].split("</div>")[0]
    unseen = amend(browser, study_id, images=hidden(before, "images"))
    assert unseen.status_code == 409
    assert amend(browser, study_id).status_code == 303
    assert site.report(study_id).late_images is False
    last = signatures(site, study_id)[-1]
    document = written(site, made_by(site, last)["SIGNED_SR"])
    named = {
        str(item.ReferencedSOPInstanceUID)
        for series in document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert str(datasets[3].SOPInstanceUID) in named


def test_only_a_final_report_is_amended_and_only_by_a_radiologist(site, browser) -> None:
    study_id = reviewed(site, browser)
    assert "only a report that was signed as final" in browser.get(f"/studies/{study_id}/addendum").text.lower()
    assert amend(browser, study_id).status_code == 409
    assert site.client("admin").get(f"/studies/{study_id}/addendum").status_code == 403
    assert "Add addendum" not in browser.get(f"/studies/{study_id}").text


def test_an_amended_report_tells_its_state_addenda_and_reason(site, browser, study_id) -> None:
    def told() -> Any:
        with site.sessions() as db:
            detail = report_detail(db, site.report(study_id).id)
            assert detail is not None
            return report_document(db, detail, site.settings)

    final = told()
    amend(browser, study_id)
    added = told()
    amend(browser, study_id, "correction")
    corrected = told()
    assert [one.state for one in (final, added, corrected)] == ["final", "addended", "corrected"]
    assert len({one.uid for one in (final, added, corrected)}) == 3
    assert len({one.report_uid for one in (final, added, corrected)}) == 1
    assert final.sections == added.sections != corrected.sections
    assert [(one.number, one.text, one.signer.printed_name) for one in corrected.addenda] == [
        (1, "Compared with the CT of 2024: new.", "Maria Lund")
    ]
    assert (added.correction, corrected.correction) == ("", "Wrong side.")
    assert [one.state for one in corrected.signatures] == ["final", "addended", "corrected"]
    assert corrected.signatures[-1].signer.staff_id == "radiologist"


def test_an_addendum_is_possible_after_retention_took_the_images(site, browser, study_id) -> None:
    for path in site.settings.instances_dir.rglob("*.dcm"):
        path.unlink()
    assert amend(browser, study_id).status_code == 303
    last = signatures(site, study_id)[-1]
    document = written(site, made_by(site, last)["SIGNED_SR"])
    assert (document.PatientID, document.AccessionNumber) == ("P-1001", "ACC-1001")
    assert "Compared with the CT of 2024: new." in text_of(document)
