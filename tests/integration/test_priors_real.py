"""Priors among real studies: compressed as the archive keeps them, real patients' radiographs, reports signed here."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from sqlalchemy.orm import Session, sessionmaker

from db.models import Instance
from db.prior_models import PriorState
from db.queries.priors import compared_prior
from dicom_node.send import send_folder
from tests.db_support import Journey, decide_all, open_review, person, receiving, sign
from tests.node_support import ct_slice
from tests.orthanc import Orthanc, running_orthanc
from tests.priors_support import TODAY, running_site, source, study

Sessions = sessionmaker[Session]


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "pacs") as orthanc:
        yield orthanc


@pytest.mark.parametrize("method", ["c-get", "c-move"])
def test_compressed_images_come_as_the_archive_keeps_them(
    tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions, method: str
) -> None:
    native, rle = study("20220102", images=2, PixelData=bytes(512))
    rle.file_meta = FileMetaDataset()
    rle.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    rle.compress(RLELossless, generate_instance_uid=False)
    pacs.upload(native, rle)
    with running_site(tmp_path / "site", [source(pacs, method)], sqlite_sessions) as site:
        pacs.register("us", "FIRSTREAD", site.node.port)
        site.receive(ct_slice(**TODAY))
        assert site.fetch() == 1
        (kept,) = site.rows(Instance, sop_instance_uid=rle.SOPInstanceUID)
        assert kept.transfer_syntax_uid == RLELossless
        archived = pacs.file(rle.SOPInstanceUID)
        offset = 144 + int.from_bytes(archived[140:144], "little")
        assert kept.sha256 == hashlib.sha256(archived[offset:]).hexdigest()


@pytest.mark.parametrize(("birth_date", "state"), [("19490817", PriorState.HERE), ("", PriorState.REFUSED)])
def test_a_real_radiograph_has_its_real_prior(
    tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions, real_data: Path, birth_date: str, state: PriorState
) -> None:
    """The published files name no birth date and no issuer: as they are, nothing proves that it is one patient."""
    earlier, today = (pydicom.dcmread(real_data / name / "image.dcm") for name in ("cxr_12_prior", "cxr_12_current"))
    earlier.PatientBirthDate = today.PatientBirthDate = birth_date
    pacs.upload(earlier, real_data / "cxr_01" / "image.dcm", real_data / "cxr_02" / "image.dcm")
    (tmp_path / "sent").mkdir()
    today.save_as(tmp_path / "sent" / "today.dcm")
    with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions) as site:
        assert send_folder(tmp_path / "sent", "127.0.0.1", site.node.port, "FIRSTREAD").counts == {"stored": 1}
        assert site.fetch() == (state is PriorState.HERE)
        (prior,) = site.priors()
        assert (prior.state, prior.study_instance_uid) == (state, earlier.StudyInstanceUID)
        assert site.held(earlier.StudyInstanceUID) == [earlier.SOPInstanceUID]
        assert ("proves that it is the same patient" in prior.reason) is (state is PriorState.REFUSED)


def test_a_report_signed_here_is_the_prior_s_report(tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions) -> None:
    earlier = study("20220102")
    pacs.upload(*earlier)
    with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions) as site:
        site.receive(*earlier)
        key = site.study(earlier[0].StudyInstanceUID).id
        journey = Journey(sqlite_sessions, key, receiving(sqlite_sessions, key)).queued().running().drafted()
        reader = person(sqlite_sessions)
        signature = sign(journey, reader, decide_all(journey, reader, open_review(journey, reader)))
        today = ct_slice(**TODAY)
        site.receive(today)
        assert site.fetch() == 1
        (prior,) = [one for one in site.priors() if one.study_instance_uid == earlier[0].StudyInstanceUID]
        assert prior.note == "it is here as a study to read and was not fetched"
        with site.sessions() as session:
            compared = compared_prior(session, site.study(today.StudyInstanceUID).id)
        assert compared is not None
        assert compared.report is not None
        assert compared.report["sections"] == [["Findings", "A nodule."], ["Impression", "Nodule."]]
        assert (compared.report["author"], compared.report["is_verified"]) == ("Dr reader", True)
        assert compared.report["date"] == signature.signed_at.date().isoformat()
