"""QIDO-RS on both engines: which keys match what, paging, what retention took, and results of ours."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid
from sqlalchemy import text, update
from sqlalchemy.orm import Session, sessionmaker
from werkzeug.test import TestResponse

from db.lifecycle import NewObject
from db.models import Instance
from db.types import utcnow
from tests.dashboard_support import Site, ct_study, make_site
from tests.db_support import HEADER, receive
from tests.dicomweb_support import encoded, make_token

# patient name, patient id, date, time, accession, modality, description
PEOPLE = [
    ("Doe^Jane", "P-1", "20260103", "083000", "A-1", "CT", "Chest"),
    ("DOE^John", "P-2", "20260104", "0915", "A-2", "MR", "Brain [1]"),
    ("Smith^Ann=Σμιθ^Αν", "P_3", "20251231", "235959.5", "B-3", "CT", "50% dose"),
    ("Doering^Max", "p-1", "", "", "", "CR", ""),
    ("Müller^Eva", "P-5", "20260104", "101500", "A*5", "MR", "Knee"),
]


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Site:
    return make_site(tmp_path, database_url)


@pytest.fixture
def people(site: Site) -> Site:
    for number, (name, patient, date, at, accession, modality, description) in enumerate(PEOPLE, 1):
        for image in (1, 2):
            head = replace(
                HEADER,
                study_instance_uid=f"1.2.{number}",
                series_instance_uid=f"1.2.{number}.1",
                sop_instance_uid=f"1.2.{number}.1.{image}",
                instance_number=image,
                patient_name=name,
                patient_id=patient,
                study_date=date,
                study_time=at,
                accession_number=accession,
                modality=modality,
                study_description=description,
                series_number=number,
            )
            receive(site.sessions, head)
    return site


def ask(site: Site, path: str) -> TestResponse:
    if not hasattr(ask, "token") or ask.site is not site:  # type: ignore[attr-defined]
        ask.site, ask.token = site, make_token(site.sessions)  # type: ignore[attr-defined]
    return site.app.test_client().get(f"/dicomweb{path}", headers={"Authorization": f"Bearer {ask.token}"})  # type: ignore[attr-defined]


def numbers(answer: TestResponse, tag: str = "0020000D") -> list[str]:
    if answer.status_code == 204:
        return []
    assert answer.status_code == 200, answer.text
    return [found[tag]["Value"][0].removeprefix("1.2.") for found in answer.get_json(force=True)]


# by the number of the study, newest first
MATCHES = [
    ("", "52134"),  # newest first
    ("PatientID=P-1", "1"),  # with case
    ("PatientID=P*", "5213"),
    ("PatientID=P_3", "3"),
    ("PatientID=P%3F1", "1"),
    ("PatientID=*", "52134"),
    ("PatientName=doe*", "214"),  # without case
    ("PatientName=DOE%5EJANE", "1"),
    ("PatientName=Doe%5EJ%3Fne", "1"),
    ("PatientName=smith%5Eann", "3"),  # its alphabetic group
    ("PatientName=*%5Eann", "3"),
    ("StudyDescription=50%25*", "3"),
    ("StudyDescription=Brain%20%5B1%5D", "2"),
    ("StudyDescription=Brain%20%5B*", "2"),
    ("StudyDate=20260104", "52"),
    ("StudyDate=20260101-20260103", "1"),
    ("StudyDate=-20260103", "13"),
    ("StudyDate=20260104-", "52"),
    ("StudyTime=09-10", "52"),
    ("StudyTime=0915", "2"),
    ("StudyTime=2359-", "3"),
    ("StudyTime=-0830", "1"),
    ("AccessionNumber=A-1", "1"),
    ("ModalitiesInStudy=CT", "13"),
    ("ModalitiesInStudy=CT,CR", "134"),
    ("ModalitiesInStudy=C*", "134"),
    ("ModalitiesInStudy=C", ""),
    ("StudyInstanceUID=1.2.1,1.2.4", "14"),
    ("0020000D=1.2.1%5C1.2.2", "21"),
    ("PatientID=P-1&StudyDate=20260104", ""),
    ("PatientID=%27%20OR%201%3D1--", ""),
    ("limit=2", "52"),
    ("limit=2&offset=3", "34"),
    ("offset=9", ""),
    ("limit=0", ""),
]


def test_studies_match_as_ps3_4_says(people: Site) -> None:
    found = {query: "".join(numbers(ask(people, f"/studies?{query}"))) for query, _ in MATCHES}
    assert found == dict(MATCHES)


def test_series_and_instances_match_across_studies_and_name_their_study(people: Site) -> None:
    found = ask(people, "/series?Modality=CT&PatientName=doe*").get_json(force=True)
    assert [one["0020000E"]["Value"] for one in found] == [["1.2.1.1"]]
    assert found[0]["00100020"]["Value"] == ["P-1"]
    assert found[0]["00201209"]["Value"] == [2]
    assert numbers(ask(people, "/series?SeriesNumber=3"), "0020000E") == ["3.1"]
    assert numbers(ask(people, "/instances?InstanceNumber=2&StudyDate=20260104"), "00080018") == ["5.1.2", "2.1.2"]
    assert numbers(ask(people, "/studies/1.2.2/instances"), "00080018") == ["2.1.1", "2.1.2"]
    assert numbers(ask(people, "/studies/1.2.2/series/1.2.2.1/instances?limit=1&offset=1"), "00080018") == ["2.1.2"]
    assert numbers(ask(people, "/studies/1.2.2/series/1.2.9/instances"), "00080018") == []


def test_more_than_was_asked_for_is_said_in_a_warning(people: Site) -> None:
    answer = ask(people, "/studies?limit=2&offset=1")
    assert answer.headers.getlist("Warning") == [
        '299 http://localhost/dicomweb "There are 2 additional results that can be requested."'
    ]
    assert "Warning" not in ask(people, "/studies?limit=5").headers
    assert "fuzzymatching" in ask(people, "/studies?fuzzymatching=true").headers["Warning"]


def test_what_is_no_query_is_a_bad_request_in_plain_words(people: Site) -> None:
    for query in ("Nonsense=1", "StudyDate=yesterday", "limit=-1", "StudyInstanceUID=x", "includefield=Nonsense"):
        answer = ask(people, f"/studies?{query}")
        assert (answer.status_code, answer.mimetype) == (400, "text/plain")
    assert ask(people, "/studies/1.2.99/series").status_code == 404
    assert ask(people, "/studies/nonsense/series").status_code == 400
    assert ask(people, "/studies?accept=application/dicom%2Bxml").status_code == 406
    assert ask(people, "/studies?accept=application/dicom+json").status_code == 200


def test_the_newest_page_of_many_studies_is_read_from_an_index(sqlite_sessions: sessionmaker[Session]) -> None:
    page = "SELECT id FROM study ORDER BY study_date DESC, study_time DESC, study_instance_uid DESC LIMIT 10"
    with sqlite_sessions() as db:
        plan = " ".join(str(row) for row in db.execute(text(f"EXPLAIN QUERY PLAN {page}")))
    assert "ix_study_newest" in plan
    assert "TEMP B-TREE" not in plan


def test_what_retention_took_is_gone_and_said_to_be(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url)
    made = ct_study(3)
    site.receive(made)
    uid, series = made[0].StudyInstanceUID, made[0].SeriesInstanceUID
    _delete(site, made[:1])
    instances = f"/studies/{uid}/series/{series}/instances"
    for path in ("", "/metadata", "/frames/1", "/rendered", "/thumbnail", "/bulkdata/7FE00010"):
        assert ask(site, f"{instances}/{made[0].SOPInstanceUID}{path}").status_code == 410, path
    assert ask(site, f"/studies/{uid}").status_code == 206
    assert ask(site, f"/studies/{uid}/metadata").status_code == 206
    found = ask(site, f"/studies/{uid}/instances").get_json(force=True)
    assert [one["00080056"]["Value"] for one in found] == [["UNAVAILABLE"], ["ONLINE"], ["ONLINE"]]
    _delete(site, made)
    assert ask(site, f"/studies/{uid}").status_code == 410
    assert ask(site, f"/studies/{uid}/thumbnail").status_code == 410
    assert ask(site, f"/studies?StudyInstanceUID={uid}").get_json(force=True)[0]["00080056"]["Value"] == ["UNAVAILABLE"]


def _delete(site: Site, taken: list[Any]) -> None:
    for ds in taken:
        path = site.settings.instances_dir / f"{ds.StudyInstanceUID}/{ds.SeriesInstanceUID}/{ds.SOPInstanceUID}.dcm"
        path.unlink(missing_ok=True)
    with site.sessions() as db:
        uids = [ds.SOPInstanceUID for ds in taken]
        db.execute(update(Instance).where(Instance.sop_instance_uid.in_(uids)).values(deleted_at=utcnow()))
        db.commit()


def test_a_file_that_is_missing_is_not_found_and_the_rest_is_partial(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url)
    made = ct_study(2)
    site.receive(made)
    ds = made[0]
    (site.settings.instances_dir / f"{ds.StudyInstanceUID}/{ds.SeriesInstanceUID}/{ds.SOPInstanceUID}.dcm").unlink()
    address = f"/studies/{ds.StudyInstanceUID}"
    assert ask(site, f"{address}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}").status_code == 404
    assert ask(site, address).status_code == 206


def test_results_of_ours_are_instances_of_their_study(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url)
    made = ct_study(2)
    report = ct_study(1)[0]
    report.StudyInstanceUID, report.SeriesInstanceUID = made[0].StudyInstanceUID, generate_uid()
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.22"
    report.Modality, report.SeriesNumber, report.SeriesDescription = "SR", 903, "AI-generated draft, not verified"
    del report.PixelData
    content = encoded(report)
    site.settings.results_dir.mkdir(parents=True)
    (site.settings.results_dir / "draft.dcm").write_bytes(content)
    new = NewObject("DRAFT_SR", report.SOPInstanceUID, report.SOPClassUID, "0" * 64, "draft.dcm")
    site.drafted(made, objects=[new])
    uid = made[0].StudyInstanceUID
    study = ask(site, "/studies").get_json(force=True)[0]
    assert (study["00201206"]["Value"], study["00201208"]["Value"]) == ([2], [3])
    assert study["00080061"]["Value"] == ["CT", "SR"]
    series = ask(site, f"/studies/{uid}/series").get_json(force=True)
    assert [one["00080060"]["Value"] for one in series] == [["CT"], ["SR"]]
    assert series[1]["0008103E"]["Value"] == ["AI-generated draft, not verified"]
    assert numbers(ask(site, f"/studies/{uid}/series?Modality=SR"), "0020000E") == [
        report.SeriesInstanceUID.removeprefix("1.2.")
    ]
    found = ask(site, f"/studies/{uid}/series/{report.SeriesInstanceUID}/instances").get_json(force=True)
    assert found[0]["00080016"]["Value"] == [report.SOPClassUID]
    address = found[0]["00081190"]["Value"][0].removeprefix("http://localhost/dicomweb")
    assert content in ask(site, address).data
    assert ask(site, f"{address}/metadata").get_json(force=True)[0]["00080060"]["Value"] == ["SR"]
    assert ask(site, f"{address}/rendered").status_code == 406
    assert ask(site, f"{address}/frames/1").status_code == 406
    assert ask(site, f"/studies/{uid}").data.count(b"Content-Location") == 3
    page = ask(site, f"/studies/{uid}/instances?limit=2&offset=2").get_json(force=True)
    assert [one["00080018"]["Value"] for one in page] == [[report.SOPInstanceUID]]
