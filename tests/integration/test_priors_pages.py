"""Earlier studies on the reading page: what is shown of them, and what must not be."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, generate_uid
from sqlalchemy import select, update

from db.lifecycle import priors as lifecycle
from db.lifecycle.prior_values import FetchedPrior, FoundPrior
from db.models import Instance, Study
from db.types import utcnow
from db.uow import unit_of_work
from instances.part10 import dataset_digest
from tests.dashboard_support import NODE, Site, ct_study, make_site

REPORT: dict[str, Any] = {
    "kind": "sr", "sop_instance_uid": "1.2.3", "sha256": "0" * 64, "title": "Diagnostic Imaging Report",
    "date": "2022-01-02", "author": "Rita Reader", "is_verified": True, "is_shortened": False,
    "sections": [["Impression", "Nodule <script>alert(1)</script>, follow up."]],
}  # fmt: skip
PDF = b"%PDF-1.4 of a report\n"


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def paper_of(image: Dataset) -> Dataset:
    ds = deepcopy(image)
    del ds.PixelData
    ds.SOPClassUID, ds.SOPInstanceUID = EncapsulatedPDFStorage, generate_uid()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.SeriesInstanceUID, ds.SeriesNumber, ds.Modality = generate_uid(), 9, "DOC"
    ds.EncapsulatedDocument, ds.EncapsulatedDocumentLength = PDF + b"\0" * (len(PDF) % 2), len(PDF)
    return ds


def searched(site: Site, study_id: UUID, uid: str, *, reason: str = "") -> None:
    """One earlier study was found."""
    found = FoundPrior(uid, "archive", "c-get", "20220102", "CT,SR", "CT chest", 3, note="")
    now = utcnow()
    with unit_of_work(site.sessions, NODE) as uow:
        lifecycle.begin_searches(uow, now)
        job = lifecycle.claim_search(uow, now, lease_s=60, max_attempts=3)
        assert job is not None
        assert job.study_id == study_id
        lifecycle.searched(uow, job.search_id, [found], now, candidates=4, sources=["archive"], reason=reason)


def fetched(site: Site, outcome: FetchedPrior) -> UUID:
    with unit_of_work(site.sessions, NODE) as uow:
        job = lifecycle.claim_prior(uow, utcnow(), lease_s=60, max_attempts=3)
        assert job is not None
        lifecycle.prior_fetched(uow, job.prior_id, outcome)
        return job.prior_id


def a_prior(site: Site, outcome: FetchedPrior | None) -> tuple[UUID, UUID]:
    """A study to read whose only prior came to ``outcome``, or has not come; return both studies' ids."""
    images = ct_study(2, StudyDate="20220102")
    earlier = site.receive([*images, paper_of(images[0])])
    site.routed(earlier)
    with unit_of_work(site.sessions, NODE) as uow:
        uow.session.execute(update(Study).where(Study.id == earlier).values(is_prior=True))
    today = site.receive(ct_study(2))
    searched(site, today, images[0].StudyInstanceUID)
    if outcome is not None:
        fetched(site, outcome)
    return today, earlier


def section(site: Site, study_id: UUID) -> str:
    page = site.client("radiologist").get(f"/studies/{study_id}").text
    found = re.search(r'<section id="priors".*?</section>', page, re.DOTALL)
    assert found
    return found.group()


def test_a_prior_is_shown_with_its_report_and_can_be_opened(site: Site) -> None:
    today, earlier = a_prior(site, FetchedPrior(documents=[REPORT], note="the archive names no issuer"))
    shown = section(site, today)
    assert "2022-01-02" in shown
    assert "CT, SR" in shown
    assert "Here" in shown
    assert "verified by Rita Reader" in shown
    assert "the archive names no issuer" in shown
    assert "1 chosen of 4 in the archives." in shown
    assert "Nodule &lt;script&gt;" in shown
    assert "<script>" not in shown
    assert f'href="/studies/{earlier}"' in shown
    prior_page = site.client("radiologist").get(f"/studies/{earlier}")
    assert prior_page.status_code == 200
    assert "This study was fetched for comparison." in prior_page.text


def test_a_refused_prior_says_why_and_cannot_be_opened(site: Site) -> None:
    today, earlier = a_prior(site, FetchedPrior(documents=[REPORT], refused="the birth date differs"))
    shown = section(site, today)
    assert "Identity differs: not used" in shown
    assert "the birth date differs" in shown
    assert "Nodule" not in shown
    assert str(earlier) not in shown


def test_a_prior_that_is_not_here_says_how_far_it_is(site: Site) -> None:
    today, _ = a_prior(site, None)
    assert "Found, not here yet" in section(site, today)
    with unit_of_work(site.sessions, NODE) as uow:
        job = lifecycle.claim_prior(uow, utcnow(), lease_s=60, max_attempts=3)
        assert job is not None
        lifecycle.prior_failed(uow, job.prior_id, "archive: no connection", base_s=9, max_attempts=1)
    shown = section(site, today)
    assert "Could not be fetched" in shown
    assert "archive: no connection" in shown


def test_a_study_that_was_not_searched_for_says_so(site: Site) -> None:
    assert "Earlier studies were not searched for." in section(site, site.receive(ct_study(1)))


def test_a_pdf_report_can_be_saved_and_the_look_is_recorded(site: Site) -> None:
    images_and_paper = a_prior(site, None)
    today, earlier = images_and_paper
    with site.sessions() as db:
        kept = db.scalars(
            select(Instance).where(Instance.study_id == earlier, Instance.sop_class_uid == EncapsulatedPDFStorage)
        ).one()
    path = site.settings.instances_dir / kept.path
    with unit_of_work(site.sessions, NODE) as uow:  # as the node would have received it
        uow.session.execute(update(Instance).where(Instance.id == kept.id).values(sha256=dataset_digest(path)))
    paper = {"kind": "pdf", "sop_instance_uid": kept.sop_instance_uid, "date": "2022-01-03", "title": "Report"}
    fetched(site, FetchedPrior(documents=[paper | {"sha256": kept.sha256}]))
    shown = section(site, today)
    assert "A PDF report of 2022-01-03 (Report) is in the archive." in shown
    (address,) = re.findall(r'href="([^"]*\.pdf)"', shown)
    assert kept.sop_instance_uid not in address
    reader = site.client("radiologist")
    answer = reader.get(address)
    assert answer.status_code == 200
    assert answer.data == PDF
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert site.tags(tag="report:viewed", object_id=kept.sop_instance_uid) == ["report:viewed"]
    assert reader.get(address.replace("/0.pdf", "/1.pdf")).status_code == 404
    assert site.client("admin").get(address).status_code == 403
    path.write_bytes(path.read_bytes()[:-2] + b"XX")
    assert reader.get(address).status_code >= 400


def test_the_pdf_of_a_refused_prior_is_not_given(site: Site) -> None:
    today, _ = a_prior(site, FetchedPrior(documents=[], refused="the sex differs"))
    prior_id = re.search(r"/priors/([0-9a-f-]{36})", section(site, today))
    assert prior_id is None
