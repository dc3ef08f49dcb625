"""What searches of the worklist match, say and refuse (PS3.18 section 11.9), on both databases."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from db.models import Reading
from db.types import utcnow
from tests.dashboard_support import Site, ct_study, make_site
from tests.workitems_support import orchestrator, ups


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url, dicom={"min_free_bytes": 0})


@pytest.fixture
def any_site(tmp_path: Path, database_url: str) -> Site:
    return make_site(tmp_path, database_url, dicom={"min_free_bytes": 0})


def warnings(answer: Any) -> str:
    return " ".join(answer.headers.getlist("Warning"))


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({}, 3),
        ({"PatientID": "P-1001"}, 2),
        ({"PatientID": "P-10*"}, 2),
        ({"PatientName": "NILSEN*"}, 1),
        ({"00100020": "P-77"}, 1),
        ({"ReferencedRequestSequence.AccessionNumber": "ACC-77"}, 1),
        ({"0040A370.00080050": "ACC-1001"}, 2),
        ({"ProcedureStepLabel": "Draft report"}, 2),
        ({"ProcedureStepLabel": "Read*"}, 1),
        ({"WorklistLabel": "AI"}, 1),
        ({"ScheduledWorkitemCodeSequence.CodeValue": "110004"}, 3),
        ({"ScheduledStationNameCodeSequence.CodeValue": "FIRSTREAD"}, 2),
        ({"ProcedureStepState": "SCHEDULED"}, 2),
        ({"ProcedureStepState": "SCHEDULED,COMPLETED"}, 3),
        ({"InputReadinessState": "READY"}, 2),
        ({"ScheduledProcedureStepPriority": "MEDIUM"}, 2),  # a draft that raised its priority to URGENT
        ({"ScheduledProcedureStepPriority": "LOW"}, 1),
        ({"ScheduledProcedureStepStartDateTime": "20261122"}, 1),
        ({"ScheduledProcedureStepStartDateTime": "20261122090000-20261122100000"}, 1),
        ({"ScheduledProcedureStepStartDateTime": "-20261122092959+0000"}, 0),
        ({"ScheduledProcedureStepStartDateTime": "20261122103000+0100-20261122103000+0100"}, 1),
        ({"InputInformationSequence.StudyInstanceUID": "1.2.77"}, 1),
        ({"StudyInstanceUID": "1.2.77,1.2.78"}, 1),
        ({"PatientID": "nobody"}, 0),
        ({"PatientID": "[P]*"}, 0),
        ({"PatientID": "%"}, 0),
    ],
)
def test_a_search_matches_readings_and_workitems_of_clients_alike(any_site: Site, query: dict, count: int) -> None:
    _three(any_site)
    found = orchestrator(any_site).found(**query)
    assert len(found) == count


def _three(site: Site) -> None:
    # long before the workitem's own scheduled time, whatever day the tests run
    site.drafted(ct_study(2))
    site.receive(ct_study(2))
    with site.sessions() as db:
        db.execute(update(Reading).values(created_at=utcnow() - timedelta(days=3650)))
        db.execute(update(Reading).values(created_at=utcnow().replace(year=2031)))
        db.commit()
    orchestrator(site, "MAKER").create(ups("1.2.77"))


def test_pages_are_told_how_much_is_behind_them(any_site: Site) -> None:
    client = orchestrator(any_site)
    uids = {client.create(ups()) for _ in range(5)}
    answer = client.get("/workitems", limit="2")
    assert "There are 3 additional results that can be requested." in warnings(answer)
    pages = [client.found(limit="2", offset=str(offset)) for offset in (0, 2, 4)]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {one.SOPInstanceUID for page in pages for one in page} == uids
    assert client.get("/workitems", PatientID="nobody").status_code == 204


def test_a_poller_sees_by_modification_time_what_changed_since_it_looked(any_site: Site) -> None:
    client, quiet = orchestrator(any_site), any_site.receive(ct_study(1))
    moving = any_site.receive(ct_study(1))
    long_ago = utcnow() - timedelta(hours=1)
    with any_site.sessions() as db:
        db.execute(update(Reading).values(created_at=long_ago))
        db.commit()
    since = (utcnow() - timedelta(minutes=1)).strftime("%Y%m%d%H%M%S")
    assert client.found(ScheduledProcedureStepModificationDateTime=f"{since}-") == []
    any_site.routed(moving)
    (changed,) = client.found(ScheduledProcedureStepModificationDateTime=f"{since}+0000-")
    assert changed.ProcedureStepState == "SCHEDULED"
    assert changed.InputReadinessState == "READY"
    (other,) = client.found(ScheduledProcedureStepModificationDateTime=f"-{since}+0000")
    assert other.ScheduledProcedureStepModificationDateTime < changed.ScheduledProcedureStepModificationDateTime
    assert quiet != moving


def test_a_search_says_what_it_does_not_do_and_refuses_what_is_nothing(site: Site) -> None:
    client = orchestrator(site)
    client.create(ups())
    answer = client.get("/workitems", fuzzymatching="true", Modality="CT", includefield="00081080")
    assert "fuzzymatching parameter is not supported" in warnings(answer)
    assert "Modality is not supported for matching" in warnings(answer)
    for query in ({"limit": "x"}, {"NoSuchThing": "1"}, {"StudyInstanceUID": "a.b"},
                  {"ScheduledProcedureStepStartDateTime": "yesterday"},
                  {"ScheduledProcedureStepStartDateTime": "20261399"}):  # fmt: skip
        assert client.get("/workitems", **query).status_code == 400
    assert client.get("/workitems", accept="image/png").status_code == 406
