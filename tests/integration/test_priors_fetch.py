"""A patient's history at a real PACS: found, fetched each way, checked, and never drafted."""

import hashlib
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from config.routing import load_rule_book
from db.lifecycle import priors as lifecycle
from db.models import Instance
from db.prior_models import PriorSearch, PriorState, SearchState
from db.queries.priors import compared_prior
from db.types import ReadingState, utcnow
from db.uow import Actor, unit_of_work
from dicom_node.completion import Completion
from dicom_node.priors import search_due
from dicom_node.retrieve import Retrieval, move
from dicom_node.scp import start_node
from dicom_node.scu import Address
from tests.node_support import ct_slice, encoded, node_settings, store
from tests.orthanc import Orthanc, running_orthanc
from tests.priors_support import TODAY, Site, pdf, report, running_site, source, study

Sessions = sessionmaker[Session]
TEXT = {"Findings": "A nodule of 6 mm in the right upper lobe.", "Impression": "Nodule, follow up."}


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "pacs") as orthanc:
        yield orthanc


@pytest.mark.parametrize("method", ["c-get", "c-move"])
def test_a_prior_is_fetched_with_its_report_and_its_bytes(
    tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions, method: str
) -> None:
    earlier = study("20220102", images=3)
    words = report(earlier[0], TEXT)
    paper = pdf(earlier[0])
    pacs.upload(*earlier, words, paper)
    with running_site(tmp_path / "site", [source(pacs, method)], sqlite_sessions) as site:
        pacs.register("us", "FIRSTREAD", site.node.port)
        today = ct_slice(**TODAY)
        site.receive(today)
        assert site.fetch() == 1
        (prior,) = site.priors()
        assert (prior.state, prior.reason, prior.note) == (PriorState.HERE, "", "")
        assert (prior.study_date, prior.description, prior.modalities) == ("20220102", "CT chest", "CT,DOC,SR")
        uid = earlier[0].StudyInstanceUID
        assert site.held(uid) == sorted(str(one.SOPInstanceUID) for one in (*earlier, words, paper))
        assert site.study(uid).is_prior
        assert not site.study(today.StudyInstanceUID).is_prior
        (image,) = site.rows(Instance, sop_instance_uid=earlier[0].SOPInstanceUID)
        assert image.sha256 == hashlib.sha256(encoded(earlier[0])).hexdigest()
        text, document = prior.documents
        assert text["sections"] == [[heading, said] for heading, said in TEXT.items()]
        assert (text["is_verified"], text["author"], text["date"]) == (True, "Reader Rita", "2022-01-02")
        assert (document["kind"], document["title"]) == ("pdf", "Radiology report")
        assert [event.outcome for event in site.events("prior:retrieved")] == ["success"]
        (searched,) = site.events("prior:searched")
        assert searched.detail["chosen"] == [uid]
        assert searched.detail["sources"] == ["pacs"]


def sweep(site: Site, *, after_s: float = 3600.0) -> None:
    """Let time pass, and end reception of whatever is quiet."""
    rules = load_rule_book(site.settings)
    Completion(site.sessions, rules, priors_wait_s=0.0).sweep(utcnow() + timedelta(seconds=after_s))


def test_what_is_fetched_is_never_drafted(tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions) -> None:
    earlier = study("20220102")
    pacs.upload(*earlier)
    with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions) as site:
        today = ct_slice(**TODAY)
        site.receive(today)
        assert site.fetch() == 1
        sweep(site)
        (reading,) = site.readings(earlier[0].StudyInstanceUID)
        assert reading.state is ReadingState.IGNORED
        (other,) = site.readings(today.StudyInstanceUID)
        assert other.state is not ReadingState.RECEIVING
        assert site.fetch() == 0  # and no prior of the prior is looked for
        assert len(site.rows(PriorSearch)) == 1


def test_a_fetched_study_that_others_send_is_one_to_read(
    tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions
) -> None:
    earlier = study("20220102")
    pacs.upload(*earlier)
    with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions) as site:
        site.receive(ct_slice(**TODAY))
        assert site.fetch() == 1
        sweep(site)
        uid = earlier[0].StudyInstanceUID
        site.receive(earlier[0])  # the very same bytes: nothing new, and yet somebody wants it read
        assert not site.study(uid).is_prior
        states = sorted(one.state for one in site.readings(uid))
        assert states == [ReadingState.IGNORED, ReadingState.RECEIVING]


def test_a_study_that_is_still_being_acquired_is_not_hidden_by_a_retrieval(
    tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions
) -> None:
    arriving = study("20240509", images=3)
    pacs.upload(*arriving)
    with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions) as site:
        site.receive(ct_slice(**TODAY))
        with unit_of_work(site.sessions, Actor("node", "process")) as uow:
            lifecycle.begin_searches(uow, utcnow())
        search_due(site.sessions, site.settings, utcnow())
        site.receive(arriving[0])  # between the search and the retrieval
        assert site.fetch() == 1
        uid = arriving[0].StudyInstanceUID
        assert not site.study(uid).is_prior
        assert [one.state for one in site.readings(uid)] == [ReadingState.RECEIVING]
        assert site.held(uid) == [arriving[0].SOPInstanceUID]
        (prior,) = [one for one in site.priors() if one.study_instance_uid == uid]
        assert prior.note == "it is here as a study to read and was not fetched"


def test_instances_that_claim_another_retrieval_are_routed_ones(
    tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions
) -> None:
    earlier = study("20220102")
    pacs.upload(*earlier)
    with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions) as site:
        pacs.register("us", "FIRSTREAD", site.node.port)
        site.receive(ct_slice(**TODAY))
        # a workstation moves the study to us with C-MOVE of its own
        peer = Address("127.0.0.1", pacs.dicom_port, "PACS", "FIRSTREAD")
        assert move(peer, Retrieval(earlier[0].StudyInstanceUID, 77)).completed == 2
        assert not site.study(earlier[0].StudyInstanceUID).is_prior


@pytest.mark.requirement("REQ-BIND-8")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"PatientSex": "M"}, "the sex differs"),
        ({"PatientBirthDate": "19600204"}, "the birth date differs"),
        ({"PatientName": "Roe^Jane"}, "the name differs"),
    ],
)
def test_a_prior_of_somebody_else_is_refused_and_its_text_not_used(
    tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions, changes: dict[str, str], why: str
) -> None:
    earlier = study("20220102", **changes)
    pacs.upload(*earlier, report(earlier[0], TEXT))
    with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions) as site:
        today = ct_slice(**TODAY)
        site.receive(today)
        assert site.fetch() == 0
        (prior,) = site.priors()
        assert (prior.state, prior.reason, prior.documents) == (PriorState.REFUSED, why, [])
        (event,) = site.events("prior:refused")
        assert (event.outcome, event.detail["reason"]) == ("failure", why)
        assert site.study(earlier[0].StudyInstanceUID).is_prior
        with site.sessions() as session:
            assert compared_prior(session, site.study(today.StudyInstanceUID).id) is None


@pytest.mark.requirement("REQ-BIND-8")
def test_a_report_of_somebody_else_inside_the_prior_refuses_it(
    tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions
) -> None:
    earlier = study("20220102")
    pacs.upload(*earlier, report(earlier[0], TEXT, PatientBirthDate="19770707"))
    with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions) as site:
        site.receive(ct_slice(**TODAY))
        assert site.fetch() == 0
        (prior,) = site.priors()
        assert prior.state is PriorState.REFUSED
        assert prior.reason.endswith("the birth date differs")  # of the report, or of the study it came first of


def test_the_same_id_of_another_issuer_is_not_fetched(tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions) -> None:
    pacs.upload(*study("20220102", IssuerOfPatientID="CLINIC"))
    with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions) as site:
        site.receive(ct_slice(**TODAY))
        assert site.fetch() == 0
        assert site.priors() == []


def test_the_best_are_fetched_and_no_more(tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions) -> None:
    knee = study("20240101", "MR knee", Modality="MR", BodyPartExamined="KNEE")
    old, new = study("20210101"), study("20230101")
    pacs.upload(*knee, *old, *new, *study("20100101"), *study("20240511"))
    with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions, priors={"at_most": 2}) as site:
        site.receive(ct_slice(**TODAY))
        assert site.fetch() == 2
        assert [one.study_instance_uid for one in site.priors()] == [one[0].StudyInstanceUID for one in (new, old)]
        assert site.search().candidates == 3


def test_body_parts_decide_where_descriptions_say_nothing(
    tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions
) -> None:
    chest, knee = study("20210101", "1234"), study("20230101", "1235", BodyPartExamined="KNEE")
    pacs.upload(*chest, *knee)
    with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions, priors={"at_most": 1}) as site:
        site.receive(ct_slice(**TODAY))
        assert site.fetch() == 1
        assert [one.study_instance_uid for one in site.priors()] == [chest[0].StudyInstanceUID]


def test_without_a_patient_id_nobody_is_asked(tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions) -> None:
    with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions) as site:
        today = ct_slice(**TODAY | {"PatientID": ""})
        site.receive(today)
        assert site.fetch() == 0
        assert (site.search().state, site.search().reason) == (SearchState.SKIPPED, "the study has no Patient ID")
        with site.sessions() as session:
            assert not lifecycle.search_pending(session, site.study(today.StudyInstanceUID).id, utcnow())


def test_a_patient_id_with_a_wildcard_is_not_asked_for(
    tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions
) -> None:
    pacs.upload(*study("20220102"))
    with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions) as site:
        site.receive(ct_slice(**TODAY | {"PatientID": "*"}))
        assert site.fetch() == 0
        assert site.search().state is SearchState.SKIPPED


@pytest.mark.parametrize(
    ("ours", "theirs", "note"),
    [
        ("HOSP", "", "the archive names no issuer of the Patient ID, our study does"),
        ("", "HOSP", "our study names no issuer of the Patient ID, the archive does"),
        ("", "", ""),
    ],
)
def test_a_missing_issuer_is_noted_and_the_birth_date_has_to_prove_it(
    tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions, ours: str, theirs: str, note: str
) -> None:
    proved = study("20220102", IssuerOfPatientID=theirs)
    unproved = study("20220101", IssuerOfPatientID=theirs, PatientBirthDate="")
    pacs.upload(*proved, *unproved)
    with running_site(tmp_path / "site", [source(pacs)], sqlite_sessions) as site:
        site.receive(ct_slice(**TODAY | {"IssuerOfPatientID": ours}))
        assert site.fetch() == 1
        first, second = site.priors()
        assert (first.state, first.note) == (PriorState.HERE, note)
        assert (second.state, second.note) == (PriorState.REFUSED, note)
        assert second.reason.startswith("neither a birth date nor an issuer")


def test_the_running_node_fetches_by_itself(tmp_path: Path, pacs: Orthanc, sqlite_sessions: Sessions) -> None:
    earlier = study("20220102")
    pacs.upload(*earlier)
    settings = node_settings(tmp_path / "site", priors={"sources": [source(pacs)]})
    node = start_node(settings, sqlite_sessions)
    try:
        assert store(node.port, ct_slice(**TODAY))[0] == 0
        site = Site(settings, sqlite_sessions, node)
        deadline = time.monotonic() + 30
        while [one.state for one in site.priors()] != [PriorState.HERE]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        node.stop()
