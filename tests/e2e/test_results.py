"""What leaves the house, to whom, in which form: archive, RIS, EHR and a STOW-RS archive that are not ours."""

import base64
import html

import hl7
import pydicom
import pytest
from hl7.client import MLLPClient

from dicom_node.send import send_folder
from phantoms.hospital import play_hospital
from tests.e2e.dashboard_client import Form, Page, Person
from tests.e2e.test_journey import (
    accept_all,
    archived,
    assert_clean,
    eventually,
    pages,
    radiologist,
    study_page,
)
from tests.judges import complaints

__all__ = ["pages", "radiologist"]
pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]

INDICATION = "Weight loss & pain; mass?"
SIGNED = "ct-hepatic-tumor"
REJECTED = "cxr-effusion-cardiomegaly"
SEED = 4  # patients of this file alone: the installation may be shared with the journey, which signs its own


def header_of(study) -> pydicom.Dataset:
    return pydicom.dcmread(study.files[0], stop_before_pixels=True)


def form_with(page: Page, name: str) -> Form:
    """The form that has a field of this name; one without an action posts to its own page."""
    (form,) = [one for one in page.forms if name in one.fields]
    form.action = form.action or page.url
    return form


def order_for(study) -> str:
    """An order as a RIS announces it, before the images come."""
    ds = header_of(study)
    return "\r".join(
        (
            "MSH|^~\\&|RIS|HOSP|FIRSTREAD||20261122080000||ORM^O01^ORM_O01|ORD1|P|2.5.1|||||||UNICODE UTF-8",
            f"PID|1||{ds.PatientID}^^^{ds.IssuerOfPatientID}^MR||{ds.PatientName}||{ds.PatientBirthDate}|{ds.PatientSex}",
            "PV1|1|O|CLINIC^^^HOSP",
            f"ORC|NW|PL-1^RIS|{ds.AccessionNumber}^RIS||SC",
            f"OBR|1|PL-1^RIS|{ds.AccessionNumber}^RIS|CTABD^CT abdomen^L||||||||||||4711^House^Greg"
            f"||{ds.AccessionNumber}|||||||||||||{INDICATION.replace('&', chr(92) + 'T' + chr(92))}",
            "TQ1|1||||||||S",
        )
    )


@pytest.fixture(scope="module")
def sent(installation, tmp_path_factory):
    """An order over MLLP, then the images it asked for and others over C-STORE."""
    studies = play_hospital(tmp_path_factory.mktemp("hospital"), seed=SEED, only=frozenset({SIGNED, REJECTED}))
    by_name = {study.name: study for study in studies}
    with MLLPClient("127.0.0.1", installation.settings.hl7.port) as client:
        answer = hl7.parse(client.send_message(order_for(by_name[SIGNED])).strip(b"\x0b\x1c\r"), encoding="utf-8")
    assert str(answer.segment("MSA")[1]) == "AA"
    assert str(answer.segment("MSA")[2]) == "ORD1"
    dicom = installation.settings.dicom
    for study in studies:
        sent = send_folder(study.folder, "127.0.0.1", dicom.port, dicom.ae_title, "CT_1")
        assert sent.counts == {"stored": len(study.files)}
    return by_name


@pytest.fixture(scope="module")
def signed(installation, sent, pages, radiologist):
    """The accession number of a study whose report was signed as final, with every finding accepted."""
    study = sent[SIGNED]
    radiologist.submit(study_page(radiologist, installation, study).form("/review"))
    base = accept_all(radiologist, installation, study).url.split("?")[0].rstrip("/")
    form = radiologist.get(f"{base}/sign/FINAL").answered("/sign/FINAL")
    done = radiologist.submit(form, password=installation.passwords["radiologist"], checked="1")
    assert done.status == 200
    assert "FINAL" in done.text.upper()
    return str(header_of(study).AccessionNumber)


def test_the_order_gives_the_draft_its_indication(pages):
    _, page = pages
    assert html.escape(INDICATION) in page[SIGNED].body.decode()


def status_of(message: hl7.Message) -> str:
    return str(message.segment("OBR")[25])


def test_the_ris_gets_one_final_result_with_its_pdf_and_nothing_before(installation, signed):
    ris = installation.receivers.ris
    (message,) = eventually(lambda: ris.of(signed), 60, "the RIS has the report")
    assert status_of(message) == "F"
    assert str(message.segment("OBR")[2]).startswith("PL-1")
    encoded = [row for row in message.segments("OBX") if str(row[2]) == "ED"]
    assert base64.b64decode(str(encoded[0][5]).split("^")[-1]).startswith(b"%PDF-")


def test_the_ehr_gets_one_valid_final_report(installation, signed):
    ehr = installation.receivers.ehr
    reports = eventually(lambda: ehr.reports(signed), 60, "the EHR has the report")
    assert ehr.refusals == []
    assert [one["status"] for one in reports] == ["final"]


def vna_classes(installation, study) -> set[str]:
    vna = installation.receivers.vna
    ours = [vna.dataset(uid) for uid in vna.instances()]
    return {str(ds.SOPClassUID.name) for ds in ours if ds.StudyInstanceUID == study.study_uid}


def test_the_stow_archive_gets_each_result_in_its_own_form_once_it_is_signed(installation, sent, signed):
    assert signed
    wanted = {
        "Segmentation Storage",
        "Comprehensive 3D SR Storage",
        "Key Object Selection Document Storage",
        "Grayscale Softcopy Presentation State Storage",
        "Secondary Capture Image Storage",
        "Basic Text SR Storage",
        "Encapsulated PDF Storage",
    }
    eventually(lambda: vna_classes(installation, sent[SIGNED]) == wanted, 90, f"the archive holds {wanted}")
    assert vna_classes(installation, sent[REJECTED]) == set()


def test_the_archive_with_drafts_holds_every_object_and_each_is_clean(installation, sent, signed):
    assert signed

    def verified():
        return [ds for ds in archived(installation, sent[SIGNED]) if ds.get("VerificationFlag") == "VERIFIED"]

    eventually(lambda: len(verified()) == 2, 60, "signed report and signed findings are archived")
    held = archived(installation, sent[SIGNED])
    assert {str(ds.SOPClassUID.name) for ds in held} == {
        "Segmentation Storage",
        "Comprehensive 3D SR Storage",
        "Enhanced SR Storage",
        "Key Object Selection Document Storage",
    }
    for ds in held:
        assert_clean(ds.filename)


def test_an_addendum_reaches_everybody_as_one(installation, sent, radiologist, signed):
    page = study_page(radiologist, installation, sent[SIGNED])
    base = page.url.split("?")[0].rstrip("/")
    form = form_with(radiologist.get(f"{base}/addendum"), "text")
    done = radiologist.submit(
        form, text="Seen again with the surgeon: resectable.", password=installation.passwords["radiologist"]
    )
    assert done.status == 200
    assert "resectable" in done.text
    ris, ehr = installation.receivers.ris, installation.receivers.ehr
    eventually(lambda: [status_of(one) for one in ris.of(signed)] == ["F", "C"], 60, "the RIS has the addendum")
    eventually(lambda: [one["status"] for one in ehr.reports(signed)] == ["final", "appended"], 60, "the EHR has it")
    assert ehr.refusals == []

    def addended():
        for ds in archived(installation, sent[SIGNED]):
            for study in ds.get("PredecessorDocumentsSequence", []):
                for series in study.ReferencedSeriesSequence:
                    for item in series.ReferencedSOPSequence:
                        codes = [c.CodeValue for c in item.get("PurposeOfReferenceCodeSequence", [])]
                        if "121361" in codes and "resectable" in ds.to_json():
                            return ds
        return None

    assert_clean(eventually(addended, 60, "the archive has the addendum").filename)


def test_a_rejected_draft_is_followed_by_a_rejection_note_where_it_was_sent(installation, sent, pages, radiologist):
    assert pages
    study = sent[REJECTED]
    page = radiologist.submit(study_page(radiologist, installation, study).form("/review"))
    base = page.url.split("?")[0].rstrip("/")
    form = form_with(radiologist.get(f"{base}/reject"), "note")
    assert radiologist.submit(form, kind="Findings wrong", note="").status == 200
    before = {str(ds.SOPInstanceUID) for ds in archived(installation, study)}

    def note():
        held = archived(installation, study)
        titles = [(ds, ds.ConceptNameCodeSequence[0].CodeValue) for ds in held if ds.Modality == "KO"]
        return next((ds for ds, title in titles if title == "113001"), None)

    found = eventually(note, 60, "the rejection note is archived")
    named = {
        str(item.ReferencedSOPInstanceUID)
        for evidence in found.CurrentRequestedProcedureEvidenceSequence
        for series in evidence.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert named == before - {str(found.SOPInstanceUID)}
    assert_clean(found.filename)
    assert vna_classes(installation, study) == set()


def test_the_report_is_served_as_pdf_and_the_destinations_page_knows_everybody(installation, sent, radiologist, signed):
    assert signed
    base = study_page(radiologist, installation, sent[SIGNED]).url.split("?")[0].rstrip("/")
    pdf = radiologist.get(f"{base}/report.pdf")
    assert pdf.body.startswith(b"%PDF-")
    admin = Person(installation.dashboard)
    admin.log_in("admin", installation.passwords["admin"])
    shown = admin.get("/destinations").text
    assert all(one.name in shown for one in installation.settings.destinations)


@pytest.mark.requirement("REQ-DELIV-7")
def test_everything_that_was_made_passes_every_judge(installation, signed, tmp_path):
    assert signed
    made = sorted(installation.settings.results_dir.rglob("*.dcm"))
    assert len(made) > 10
    assert {path.name: complaints(path.read_bytes(), tmp_path) for path in made} == {path.name: [] for path in made}
