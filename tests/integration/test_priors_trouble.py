"""Archives that are away, refuse, lose the association or send half: retried, told in words, and never in the way."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRootFind
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as StudyRootGet
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as StudyRootMove
from sqlalchemy.orm import Session, sessionmaker

from config.errors import PeerUnavailableError
from db.lifecycle import priors as lifecycle
from db.prior_models import PriorState, SearchState
from db.types import utcnow
from db.uow import Actor, unit_of_work
from dicom_node.priors import search_due
from dicom_node.retrieve import Retrieval, get_contexts, move
from dicom_node.scu import Address
from tests.node_support import ct_slice, write_file
from tests.orthanc import running_orthanc
from tests.priors_support import TODAY, Site, running_site, source, study

Sessions = sessionmaker[Session]
Handler = Callable[[Any], Iterator[Any]]


@contextmanager
def archive(
    images: list[Dataset],
    *,
    studies: list[Dataset] | None = None,
    get: Handler | None = None,
    move: Handler | None = None,
) -> Iterator[dict[str, Any]]:
    """An archive of our own making that holds one Study and misbehaves in retrieval; yields it as a source."""

    def found(event: Any) -> Iterator[Any]:
        level = event.identifier.QueryRetrieveLevel
        first = (studies or images[:1]) if level == "STUDY" else images[:1]
        for image in images if level == "IMAGE" else first:
            match = Dataset()
            for element in event.identifier:
                match.add(image.get(element.tag, element))
            match.QueryRetrieveLevel = level
            if level == "STUDY":
                match.ModalitiesInStudy, match.NumberOfStudyRelatedInstances = "CT", len(images)
            yield 0xFF00, match

    ae = AE("ODD")
    for model in (StudyRootFind, StudyRootGet, StudyRootMove):
        ae.add_supported_context(model, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    ae.add_supported_context(CTImageStorage, ExplicitVRLittleEndian, scu_role=True, scp_role=True)
    handlers: list[Any] = [(evt.EVT_C_FIND, found)]
    handlers += [(evt.EVT_C_GET, get)] if get else []
    handlers += [(evt.EVT_C_MOVE, move)] if move else []
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        method = "c-move" if move else "c-get"
        yield {
            "name": "odd", "method": method, "ae_title": "ODD", "host": "127.0.0.1", "port": server.server_address[1],
        }  # fmt: skip
    finally:
        server.shutdown()


def as_part10(image: Dataset) -> Dataset:
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return image


def test_an_archive_that_is_away_is_asked_again_and_the_study_goes_on(
    tmp_path: Path, sqlite_sessions: Sessions
) -> None:
    with running_orthanc(tmp_path / "pacs") as pacs:
        away = source(pacs)
    with running_site(tmp_path / "site", [away], sqlite_sessions) as site:
        site.receive(ct_slice(**TODAY))
        assert site.fetch() == 0
        search = site.search()
        assert search.state is SearchState.WAITING
        assert search.reason == "pacs: no connection, or no answer to the association request"
        assert utcnow() + timedelta(seconds=5) < search.next_attempt_at < utcnow() + timedelta(seconds=60)
        assert site.fetch() == 0
        assert site.search().attempts == 1  # not before its time
        for _ in range(7):
            assert site.fetch(after_s=7200) == 0
        search = site.search()
        assert (search.state, search.attempts) == (SearchState.FAILED, 8)
        with site.sessions() as session:
            assert not lifecycle.search_pending(session, search.study_id, utcnow())
        assert {event.outcome for event in site.events("prior:searched")} == {"failure"}


def test_one_archive_that_is_away_does_not_hide_the_other(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    earlier = study("20220102")
    with running_orthanc(tmp_path / "away") as gone:
        away = source(gone, name="away")
    with running_orthanc(tmp_path / "pacs") as pacs:
        pacs.upload(*earlier)
        with running_site(tmp_path / "site", [away, source(pacs)], sqlite_sessions) as site:
            site.receive(ct_slice(**TODAY))
            assert site.fetch() == 1
            assert site.search().reason == "away: no connection, or no answer to the association request"


def test_a_lost_association_is_retried_and_what_came_stays(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    images = [as_part10(one) for one in study("20220102", images=3)]
    attempts: list[int] = []

    def get(event: Any) -> Iterator[Any]:
        attempts.append(event.request.MessageID)
        yield len(images)
        yield 0xFF00, images[0]
        if len(attempts) == 1:
            event.assoc.abort()
            return
        yield 0xFF00, images[1]
        yield 0xFF00, images[2]

    with archive(images, get=get) as odd, running_site(tmp_path / "site", [odd], sqlite_sessions) as site:
        site.receive(ct_slice(**TODAY))
        assert site.fetch() == 0
        (prior,) = site.priors()
        assert prior.state is PriorState.FOUND
        assert prior.reason == "the association was lost before the study was there"
        assert site.held(images[0].StudyInstanceUID) == [images[0].SOPInstanceUID]
        assert [event.outcome for event in site.events("prior:failed")] == ["failure"]
        assert site.fetch(after_s=60) == 1
        assert len(site.held(images[0].StudyInstanceUID)) == 3
        assert site.study(images[0].StudyInstanceUID).is_prior
        assert len(set(attempts)) == 1  # the late arrivals of an attempt belong to the next


def test_instances_an_archive_cannot_send_are_counted_and_asked_for_again(
    tmp_path: Path, sqlite_sessions: Sessions
) -> None:
    images = [as_part10(one) for one in study("20220102", images=2)]
    broken = Dataset()  # cannot be encoded as any Instance: the sub-operation fails
    broken.SOPClassUID, broken.SOPInstanceUID = CTImageStorage, images[1].SOPInstanceUID
    attempts: list[int] = []

    def get(event: Any) -> Iterator[Any]:
        attempts.append(1)
        yield 2
        yield 0xFF00, images[0]
        yield 0xFF00, broken if len(attempts) == 1 else images[1]

    with archive(images, get=get) as odd, running_site(tmp_path / "site", [odd], sqlite_sessions) as site:
        site.receive(ct_slice(**TODAY))
        assert site.fetch() == 0
        (prior,) = site.priors()
        assert prior.reason == "odd: 1 of its instances could not be sent, 1 are here"
        assert site.fetch(after_s=60) == 1


def test_what_an_archive_can_never_send_does_not_keep_the_rest_away(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    images = [as_part10(one) for one in study("20220102", images=2)]
    broken = Dataset()
    broken.SOPClassUID, broken.SOPInstanceUID = CTImageStorage, images[1].SOPInstanceUID

    def get(_event: Any) -> Iterator[Any]:
        yield 2
        yield 0xFF00, images[0]
        yield 0xFF00, broken

    with archive(images, get=get) as odd, running_site(tmp_path / "site", [odd], sqlite_sessions) as site:
        site.receive(ct_slice(**TODAY))
        assert site.fetch() == 0
        assert site.fetch(after_s=7200) == 1  # every later attempt is due by then
        (prior,) = site.priors()
        assert prior.attempts == 8
        assert (prior.state, prior.note) == (PriorState.HERE, "1 of its instances could not be sent, 1 are here")


def test_a_move_destination_nobody_knows_is_told_to_the_administrator(
    tmp_path: Path, sqlite_sessions: Sessions
) -> None:
    with running_orthanc(tmp_path / "pacs") as pacs:
        pacs.upload(*study("20220102"))
        peer = Address("127.0.0.1", pacs.dicom_port, pacs.ae_title, "FIRSTREAD")
        with pytest.raises(PeerUnavailableError):
            move(peer, Retrieval("1.2.3", 5))  # Orthanc's own status for it

    def move_unknown(event: Any) -> Iterator[Any]:
        yield None, None  # pynetdicom answers 0xA801

    with (
        archive(study("20220102"), move=move_unknown) as odd,
        running_site(tmp_path / "site", [odd], sqlite_sessions) as site,
    ):
        site.receive(ct_slice(**TODAY))
        assert site.fetch() == 0
        (prior,) = site.priors()
        assert prior.reason == (
            "the retrieval was answered 0xA801: it does not know our AE title FIRSTREAD: "
            "add FIRSTREAD with our address and port to its destinations"
        )


def test_an_archive_that_does_not_say_who_moved_is_told_to_the_reader(
    tmp_path: Path, sqlite_sessions: Sessions
) -> None:
    images = study("20220102", images=2)
    sent: list[Site] = []

    def move_silently(event: Any) -> Iterator[Any]:
        sent[0].receive(*images)  # on an association without Move Originator
        yield "127.0.0.1", 1
        yield 0

    with archive(images, move=move_silently) as odd, running_site(tmp_path / "site", [odd], sqlite_sessions) as site:
        sent.append(site)
        site.receive(ct_slice(**TODAY))
        site.fetch()
        (prior,) = [one for one in site.priors() if one.study_instance_uid == images[0].StudyInstanceUID]
        assert not site.study(images[0].StudyInstanceUID).is_prior
        assert "does not name us as Move Originator" in prior.note + prior.reason


def test_two_nodes_fetch_a_prior_once(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    earlier = study("20220102", images=3)
    with running_orthanc(tmp_path / "pacs") as pacs:
        pacs.upload(*earlier)
        with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions) as site:
            site.receive(ct_slice(**TODAY))
            came: list[int] = []
            nodes = [threading.Thread(target=lambda: came.append(site.fetch())) for _ in range(2)]
            for node in nodes:
                node.start()
            for node in nodes:
                node.join()
            while sum(came) == 0:
                came.append(site.fetch())
            assert sum(came) == 1
            assert len(site.priors()) == 1
            assert len(site.events("prior:retrieved")) == 1


def test_two_studies_of_a_patient_share_a_prior(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    earlier = study("20220102")
    with running_orthanc(tmp_path / "pacs") as pacs:
        pacs.upload(*earlier)
        with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions) as site:
            site.receive(ct_slice(**TODAY), ct_slice(**TODAY | {"PatientSex": "M"}))
            assert site.fetch() == 1
            assert sorted(one.state for one in site.priors()) == [PriorState.HERE, PriorState.REFUSED]


def test_a_negotiation_never_has_more_than_128_contexts() -> None:
    classes = [f"1.2.840.10008.5.1.4.1.1.{number}" for number in range(1, 200)]
    for some in (classes[:1], classes[:3], classes[:60], classes[:127], classes):
        contexts = get_contexts(some)
        assert len(contexts) <= 128
        named = {str(one.abstract_syntax) for one in contexts}
        assert named == {str(StudyRootGet), *some[:127]}
    compressed = [one.transfer_syntax for one in get_contexts(classes[:3])[4:]]
    assert all(len(one) == 1 for one in compressed)


@pytest.mark.parametrize(
    "changes",
    [
        {"StudyInstanceUID": "1.2.x"},
        {"StudyInstanceUID": "1." + "2" * 80},
        {"StudyInstanceUID": None},
        {"StudyDate": "20220230x"},
        {"PatientID": "P-1\\P-2"},
        {"PatientID": "P-10"},
    ],
)
def test_a_match_that_makes_no_sense_is_left_out_and_the_others_stay(
    tmp_path: Path, sqlite_sessions: Sessions, changes: dict[str, str | None]
) -> None:
    good, odd = study("20220102", images=1)[0], study("20220103", images=1)[0]
    for keyword, value in changes.items():
        odd[keyword].value = value
    with (
        archive([good], studies=[odd, good]) as source_,
        running_site(tmp_path / "site", [source_], sqlite_sessions, priors={"at_most": 5}) as site,
    ):
        site.receive(ct_slice(**TODAY))
        site.fetch()
        assert [one.study_instance_uid for one in site.priors()] == [good.StudyInstanceUID]


def test_a_prior_that_stops_the_node_every_time_is_given_up(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    images = study("20220102")
    with archive(images) as odd, running_site(tmp_path / "site", [odd], sqlite_sessions) as site:
        site.receive(ct_slice(**TODAY))
        search_due(site.sessions, site.settings, utcnow())
        for hours in range(8):  # taken, and never heard of again
            with unit_of_work(site.sessions, Actor("node", "process")) as uow:
                moment = utcnow() + timedelta(hours=hours)
                assert lifecycle.claim_prior(uow, moment, lease_s=60, max_attempts=8) is not None
        assert site.fetch(after_s=8 * 3600) == 0
        (prior,) = site.priors()
        assert (prior.state, prior.reason) == (PriorState.FAILED, "the node stopped every time it tried")


def test_what_a_killed_retrieval_left_on_the_disk_stays_a_prior(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    images = study("20220102", images=2)
    with archive(images) as odd:
        with running_site(tmp_path / "site", [odd], sqlite_sessions) as site:
            site.receive(ct_slice(**TODAY))
            search_due(site.sessions, site.settings, utcnow())
            with unit_of_work(site.sessions, Actor("node", "process")) as uow:
                assert lifecycle.claim_prior(uow, utcnow(), lease_s=60, max_attempts=8) is not None
            # renamed, and killed before the commit
            one = images[0]
            path = f"{one.StudyInstanceUID}/{one.SeriesInstanceUID}/{one.SOPInstanceUID}.dcm"
            write_file(site.settings.instances_dir / path, one)
        with running_site(tmp_path / "site", [odd], sqlite_sessions) as site:
            assert site.held(images[0].StudyInstanceUID) == [images[0].SOPInstanceUID]
            assert site.study(images[0].StudyInstanceUID).is_prior
