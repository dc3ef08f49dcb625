"""A patient's history at a real PACS: found, fetched each way, checked, and never drafted."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.lifecycle import priors as lifecycle
from db.models import Instance
from db.prior_models import PriorState, SearchState
from db.types import utcnow
from tests.node_support import ct_slice, encoded
from tests.orthanc import Orthanc, running_orthanc
from tests.priors_support import PATIENT, TODAY, pdf, report, running_site, source, study

TEXT = {"Findings": "A nodule of 6 mm in the right upper lobe.", "Impression": "Nodule, follow up."}


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "pacs") as orthanc:
        yield orthanc


@pytest.mark.parametrize("method", ["c-get", "c-move"])
def test_a_prior_is_fetched_with_its_report_and_its_bytes(tmp_path: Path, pacs: Orthanc, method: str) -> None:
    earlier = study("20220102", images=3)
    words = report(earlier[0], TEXT)
    paper = pdf(earlier[0])
    pacs.upload(*earlier, words, paper)
    with running_site(tmp_path / "site", [source(pacs, method)]) as site:
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
