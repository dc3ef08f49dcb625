"""C-FIND against a real archive and against archives that misbehave."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRootFind

from config.errors import PeerUnavailableError
from dicom_node.query import find
from dicom_node.scu import Address, associate
from tests.node_support import ct_slice
from tests.orthanc import Orthanc, running_orthanc


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("pacs")) as orthanc:
        for number in range(12):
            orthanc.upload(
                ct_slice(PatientID="MANY", StudyDate=f"201001{number + 1:02d}", StudyDescription=f"Study {number}")
            )
        orthanc.upload(
            ct_slice(
                PatientID="JP",
                SpecificCharacterSet="ISO_IR 192",
                PatientName="Yamada^Tarou=山田^太郎",
                StudyDate="20200101",
            )
        )
        yield orthanc


def address(pacs: Orthanc, **changes: object) -> Address:
    values = {"host": "127.0.0.1", "port": pacs.dicom_port, "called_ae": pacs.ae_title, "calling_ae": "FIRSTREAD"}
    return Address(**(values | changes))  # type: ignore[arg-type]


def studies_of(patient_id: str) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = "STUDY"
    ds.PatientID = patient_id
    ds.PatientName = ds.StudyInstanceUID = ds.StudyDescription = ds.NumberOfStudyRelatedInstances = ""
    return ds


def test_an_archive_answers_with_every_match_and_its_count(pacs: Orthanc) -> None:
    found = find(address(pacs), studies_of("MANY"))
    assert sorted(str(one.StudyDescription) for one in found) == sorted(f"Study {n}" for n in range(12))
    assert {int(one.NumberOfStudyRelatedInstances) for one in found} == {1}


def test_no_match_is_an_empty_list(pacs: Orthanc) -> None:
    assert find(address(pacs), studies_of("NOBODY")) == []


def test_text_comes_in_the_answers_own_character_set(pacs: Orthanc) -> None:
    (one,) = find(address(pacs), studies_of("JP"))
    assert one.PatientName.ideographic == "山田^太郎"


def test_text_beyond_ascii_is_asked_for_in_utf_8(pacs: Orthanc) -> None:
    asked = studies_of("")
    asked.PatientName = "*=山田*"
    assert [str(one.PatientID) for one in find(address(pacs), asked)] == ["JP"]


def test_a_wrong_called_title_is_told_in_words(pacs: Orthanc) -> None:
    with pytest.raises(PeerUnavailableError, match="called AE title not recognised"):
        find(address(pacs, called_ae="OTHER"), studies_of("MANY"))


def test_a_rejection_is_told_also_when_the_connection_is_closed_before_anybody_looks(pacs: Orthanc) -> None:
    def wait(_event: object) -> None:
        time.sleep(0.5)

    with pytest.raises(PeerUnavailableError, match="called AE title not recognised"):
        associate(
            address(pacs, called_ae="OTHER"), [build_context(StudyRootFind)], handlers=[(evt.EVT_REQUESTED, wait)]
        )


def test_nobody_there_is_told(unused_port: int) -> None:
    with pytest.raises(PeerUnavailableError, match="no connection"):
        find(Address("127.0.0.1", unused_port, "PACS", "FIRSTREAD"), studies_of("MANY"))


@pytest.fixture
def unused_port() -> int:
    ae = AE()
    ae.add_supported_context(StudyRootFind)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    port: int = server.server_address[1]
    server.shutdown()
    return port


@contextmanager
def archive(answer, **changes) -> Iterator[Address]:
    """An archive that answers C-FIND with what ``answer`` yields."""
    ae = AE("ODD")
    ae.add_supported_context(StudyRootFind, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, answer)])
    try:
        yield Address("127.0.0.1", server.server_address[1], "ODD", "FIRSTREAD")
    finally:
        server.shutdown()


def match(number: int) -> Dataset:
    ds = studies_of(f"P-{number}")
    ds.StudyInstanceUID = f"1.2.3.{number}"
    return ds


def test_a_query_that_matches_too_much_is_cancelled_at_the_limit() -> None:
    cancelled = threading.Event()

    def endless(event):
        for number in range(100_000):
            if event.is_cancelled:
                cancelled.set()
                yield 0xFE00, None
                return
            yield 0xFF00, match(number)

    with archive(endless) as peer:
        assert [str(one.PatientID) for one in find(peer, studies_of(""), limit=5)] == [f"P-{n}" for n in range(5)]
    assert cancelled.wait(5)


def test_an_archive_that_does_not_know_how_to_cancel_ends_at_the_limit_too() -> None:
    with archive(lambda _event: ((0xFF00, match(n)) for n in range(30))) as peer:
        assert len(find(peer, studies_of(""), limit=10)) == 10


def test_matches_with_a_warning_count() -> None:
    with archive(lambda _event: iter([(0xFF01, match(1)), (0xFF00, match(2))])) as peer:
        assert len(find(peer, studies_of(""))) == 2


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0xA700, "0xA700: it is out of resources"),
        (0xA900, "0xA900: the query does not suit"),
        (0xC001, "cannot process"),
    ],
)
def test_a_refusal_is_never_an_empty_list(status: int, words: str) -> None:
    answers = [(0xFF00, match(1)), (status, None)]
    with archive(lambda _event: iter(answers)) as peer, pytest.raises(PeerUnavailableError, match=words):
        find(peer, studies_of(""))


def test_an_association_lost_half_way_is_never_half_a_list() -> None:
    def lost(event):
        yield 0xFF00, match(1)
        event.assoc.abort()
        yield 0xFF00, match(2)

    with archive(lost) as peer, pytest.raises(PeerUnavailableError, match="lost"):
        find(peer, studies_of(""))
