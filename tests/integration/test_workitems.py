"""The worklist as an orchestrator, a RIS and another performer use it, by UPS-RS (PS3.18 chapter 11, PS3.4 CC)."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select, update

from config.routing import RoutingVerdict
from db import lifecycle
from db.lifecycle import NewObject
from db.models import Reading
from db.tokens import Scope
from db.types import Priority, ReadingState, utcnow
from db.uow import unit_of_work
from db.workitem_models import Workitem
from tests.dashboard_support import DRAFT, NODE, WORKER, Site, ct_study, make_site
from tests.dicomweb_support import events
from tests.workitems_support import INCONSISTENT, code, element, orchestrator, performed, state, uid, ups


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url, dicom={"min_free_bytes": 0})


@pytest.fixture
def any_site(tmp_path: Path, database_url: str) -> Site:
    return make_site(tmp_path, database_url, dicom={"min_free_bytes": 0})


def warnings(answer: Any) -> str:
    return " ".join(answer.headers.getlist("Warning"))


# --- Readings ----------------------------------------------------------------------------------------------


def test_a_reading_is_a_workitem_from_its_first_image_to_its_draft(any_site: Site) -> None:
    client, images = orchestrator(any_site), ct_study(3)
    study_id = any_site.receive(images)
    (seen,) = client.found(StudyInstanceUID=images[0].StudyInstanceUID)
    workitem = seen.SOPInstanceUID
    assert (seen.ProcedureStepState, seen.InputReadinessState) == ("SCHEDULED", "INCOMPLETE")
    claim = any_site.claimed(study_id)
    seen = client.item(workitem)
    assert (seen.ProcedureStepState, seen.InputReadinessState) == ("IN PROGRESS", "READY")
    with unit_of_work(any_site.sessions, WORKER) as uow:
        lifecycle.retry(uow, claim, "no GPU", base_s=60, max_attempts=3)
    assert client.item(workitem).ProcedureStepState == "IN PROGRESS"  # nothing goes back to SCHEDULED
    assert [one.SOPInstanceUID for one in client.found(ProcedureStepState="IN PROGRESS")] == [workitem]
    assert client.found(ProcedureStepState="SCHEDULED") == []


def test_a_draft_is_a_completed_workitem_with_its_input_its_results_and_who_made_them(site: Site) -> None:
    images = ct_study(3)
    made = NewObject("SEG", uid(), "1.2.840.10008.5.1.4.1.1.66.4", "a" * 64, "seg.dcm")
    site.settings.results_dir.mkdir(parents=True, exist_ok=True)
    images[0].save_as(site.settings.results_dir / "seg.dcm", enforce_file_format=True)
    site.drafted(images, objects=[made])
    client = orchestrator(site)
    (listed,) = client.found(ProcedureStepState="COMPLETED")
    assert "ReferencedSOPSequence" not in listed.InputInformationSequence[0]
    seen = client.item(listed.SOPInstanceUID)
    (source,) = seen.InputInformationSequence
    assert [one.ReferencedSOPInstanceUID for one in source.ReferencedSOPSequence] == [i.SOPInstanceUID for i in images]
    series = f"http://localhost/dicomweb/studies/{images[0].StudyInstanceUID}/series/{images[0].SeriesInstanceUID}"
    assert source.WADORSRetrievalSequence[0].RetrieveURL == series
    (done,) = seen.UnifiedProcedureStepPerformedProcedureSequence
    (result,) = done.OutputInformationSequence
    assert result.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == made.sop_instance_uid
    assert result.WADORSRetrievalSequence[0].RetrieveURL == series  # the file is the image's, so is its Series
    models = [one.TextValue for one in done.PerformedProcessingParametersSequence]
    assert models == ["VILA-M3 demo 0.1.0-demo", "VISTA3D 0.1.0-demo"]
    assert done.PerformedStationNameCodeSequence[0].CodeValue == "FIRSTREAD"
    assert done.PerformedProcedureStepStartDateTime <= done.PerformedProcedureStepEndDateTime
    assert seen.ProcedureStepProgressInformationSequence[0].ProcedureStepProgress == 100
    assert (seen.PatientID, str(seen.PatientName)) == ("P-1001", "Halvorsen^Ingrid")
    assert seen.ReferencedRequestSequence[0].AccessionNumber == "ACC-1001"
    assert seen.ScheduledWorkitemCodeSequence[0].CodeValue == "110004"
    assert seen.SOPClassUID == "1.2.840.10008.5.1.4.34.6.1"
    assert "TransactionUID" not in seen


def test_what_is_retrieved_says_where_its_images_are_and_they_are_there(site: Site) -> None:
    images = ct_study(2)
    site.receive(images)
    client = orchestrator(site)
    (seen,) = client.found(PatientID="P-1001", includefield="all")
    address = seen.InputInformationSequence[0].WADORSRetrievalSequence[0].RetrieveURL
    answer = site.app.test_client().get(address.removeprefix("http://localhost") + "/metadata", headers=client.headers)
    assert [one["00080018"]["Value"][0] for one in answer.json] == [one.SOPInstanceUID for one in images]


def test_a_reading_without_a_draft_is_canceled_with_its_reason_and_another_workitem_when_it_is_processed_again(
    any_site: Site,
) -> None:
    client, study_id = orchestrator(any_site), any_site.receive(ct_study(2))
    claim = any_site.claimed(study_id)
    with unit_of_work(any_site.sessions, WORKER) as uow:
        lifecycle.no_draft(uow, claim, "only 2 slices")
    (first,) = client.found(ProcedureStepState="CANCELED")
    progress = first.ProcedureStepProgressInformationSequence[0]
    assert progress.ReasonForCancellation == "only 2 slices"
    assert progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110513"
    with unit_of_work(any_site.sessions, NODE) as uow:
        lifecycle.process_again(uow, claim.reading_id)
    (second,) = client.found(StudyInstanceUID=first.StudyInstanceUID)
    assert second.SOPInstanceUID != first.SOPInstanceUID
    assert second.ProcedureStepState == "SCHEDULED"
    ended = client.item(first.SOPInstanceUID)
    assert ended.ProcedureStepState == "CANCELED"
    assert ended.ProcedureStepProgressInformationSequence[0].ReasonForCancellation == "only 2 slices"
    assert [one.SOPInstanceUID for one in client.found(SOPInstanceUID=second.SOPInstanceUID)] == [second.SOPInstanceUID]
    assert client.found(SOPInstanceUID=first.SOPInstanceUID) == []  # a list shows the present run


@pytest.mark.parametrize(
    ("verdict", "seen"),
    [
        (RoutingVerdict("hold", reason="a person decides"), ("SCHEDULED", "INCOMPLETE")),
        (RoutingVerdict("ignore", reason="no rule"), ("CANCELED", "READY")),
    ],
)
def test_what_routing_does_not_draft_is_waiting_or_canceled(
    site: Site, verdict: RoutingVerdict, seen: tuple[str, str]
) -> None:
    site.routed(site.receive(ct_study(1)), verdict)
    (item,) = orchestrator(site).found()
    assert (item.ProcedureStepState, item.InputReadinessState) == seen


def test_nobody_else_claims_changes_or_ends_our_own_work(site: Site) -> None:
    client, study_id = orchestrator(site), site.receive(ct_study(2))
    site.routed(study_id)
    (item,) = client.found()
    path = f"/workitems/{item.SOPInstanceUID}"
    answer = client.send("PUT", f"{path}/state", state("IN PROGRESS", uid()))
    assert (answer.status_code, INCONSISTENT in warnings(answer)) == (409, True)
    answer = client.send("POST", path, element("ProcedureStepLabel", "mine"))
    assert answer.status_code == 409
    with unit_of_work(site.sessions, WORKER) as uow:
        assert lifecycle.claim(uow, site.reading_id(study_id), owner="w", lease_s=60)
    assert client.send("PUT", f"{path}/state", state("IN PROGRESS", uid())).status_code == 409
    answer = client.send("PUT", f"{path}/state", state("COMPLETED", uid()))
    assert (answer.status_code, "The Transaction UID is incorrect." in warnings(answer)) == (400, True)
    assert client.item(item.SOPInstanceUID).ProcedureStepLabel == "Draft report"
    assert site.one(Reading, study_id=study_id).state is ReadingState.RUNNING


def test_a_request_to_cancel_stops_what_waits_and_is_on_record_either_way(any_site: Site) -> None:
    client, study_id = orchestrator(any_site), any_site.receive(ct_study(2))
    reading_id = any_site.routed(study_id)
    (item,) = client.found()
    path = f"/workitems/{item.SOPInstanceUID}/cancelrequest"
    answer = client.send("POST", path, element("ReasonForCancellation", "wrong patient"))
    assert answer.status_code == 202
    reading = any_site.one(Reading, id=reading_id)
    assert (reading.state, "wrong patient" in reading.reason) == (ReadingState.NO_DRAFT, True)
    (asked,) = events(any_site.sessions, "workitem:cancel_requested")
    assert (asked.actor, asked.detail["reason"]) == ("token:ORCH", "wrong patient")
    assert "reading:cancelled" in any_site.tags(actor="token:ORCH")
    answer = client.send("POST", path)
    assert answer.status_code == 200
    assert "already in the requested state of CANCELED" in warnings(answer)


def test_a_request_to_cancel_does_not_stop_who_is_at_work(site: Site) -> None:
    client, study_id = orchestrator(site), site.receive(ct_study(2))
    (item,) = client.found()
    path = f"/workitems/{item.SOPInstanceUID}/cancelrequest"
    assert client.send("POST", path).status_code == 409  # images are still coming
    site.claimed(study_id)
    answer = client.send("POST", path)
    assert (answer.status_code, "inconsistent" in warnings(answer)) == (409, True)
    assert site.one(Reading, study_id=study_id).state is ReadingState.RUNNING
    assert len(events(site.sessions, "workitem:cancel_requested")) == 2


# --- searching ---------------------------------------------------------------------------------------------


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


# --- workitems of clients ----------------------------------------------------------------------------------


def test_a_workitem_goes_from_who_created_it_to_who_performed_it(any_site: Site) -> None:
    ris, performer = orchestrator(any_site, "RIS"), orchestrator(any_site, "AI2")
    workitem = ris.create(ups("1.2.77"))
    path = f"/workitems/{workitem}"
    assert ris.item(workitem).ProcedureStepState == "SCHEDULED"
    assert ris.send("POST", path, element("ProcedureStepLabel", "Read it today")).status_code == 200
    transaction = performer.claim(workitem)
    progress = Dataset()
    progress.ProcedureStepProgress = "40"
    change = Dataset()
    change.ProcedureStepProgressInformationSequence = [progress]
    assert performer.send("POST", f"{path}?transaction-uid={transaction}", change).status_code == 200
    seen = ris.item(workitem)
    assert (seen.ProcedureStepState, seen.ProcedureStepLabel) == ("IN PROGRESS", "Read it today")
    assert seen.ProcedureStepProgressInformationSequence[0].ProcedureStepProgress == 40
    answer = performer.send("PUT", f"{path}/state", state("COMPLETED", transaction))
    assert (answer.status_code, INCONSISTENT in warnings(answer)) == (409, True)
    assert "Output Information Sequence" not in answer.text  # all of the performed procedure is missing
    assert performer.send("POST", f"{path}?{transaction}", performed()).status_code == 200
    assert performer.send("PUT", f"{path}/state", state("COMPLETED", transaction)).status_code == 200
    answer = performer.send("PUT", f"{path}/state", state("COMPLETED", transaction))
    assert answer.status_code == 200
    assert "The UPS is already in the requested state of COMPLETED." in warnings(answer)
    seen = ris.item(workitem)
    assert seen.ProcedureStepState == "COMPLETED"
    assert (
        seen.UnifiedProcedureStepPerformedProcedureSequence[0].OutputInformationSequence[0].StudyInstanceUID == "1.2.3"
    )
    assert any_site.tags(object_id=workitem) == [
        "workitem:created", "workitem:updated", "workitem:claimed", "workitem:updated", "workitem:updated",
        "workitem:completed",
    ]  # fmt: skip


def test_the_transaction_uid_is_a_secret_of_its_performer(site: Site) -> None:
    client = orchestrator(site)
    workitem = client.create(ups())
    transaction = client.claim(workitem)
    answers = [client.get(f"/workitems/{workitem}"), client.get("/workitems", includefield="all"),
               client.get("/workitems", includefield="TransactionUID")]  # fmt: skip
    assert [transaction in answer.text for answer in answers] == [False] * 3
    with site.sessions() as db:
        assert db.scalars(select(Workitem.transaction_uid)).one() == transaction
    assert [
        event for event in events(site.sessions, "workitem:claimed") if transaction in json.dumps(event.detail)
    ] == []


def test_only_who_holds_the_lock_may_change_what_is_in_progress(any_site: Site) -> None:
    performer, other = orchestrator(any_site, "AI2"), orchestrator(any_site, "AI3")
    workitem = performer.create(ups())
    path = f"/workitems/{workitem}"
    transaction = performer.claim(workitem)
    answer = other.send("PUT", f"{path}/state", state("IN PROGRESS", uid()))
    assert (answer.status_code, INCONSISTENT in warnings(answer)) == (409, True)
    for wrong, words in ((uid(), "incorrect"), ("", "missing")):
        answer = other.send("PUT", f"{path}/state", state("CANCELED", wrong))
        assert (answer.status_code, f"The Transaction UID is {words}." in warnings(answer)) == (400, True)
        answer = other.send("POST", f"{path}?transaction-uid={wrong}", element("ProcedureStepLabel", "stolen"))
        assert answer.status_code == 400
        assert "The target URI did not reference a claimed Workitem." in warnings(answer)
    assert performer.item(workitem).ProcedureStepLabel == "Read chest CT"
    assert performer.send("PUT", f"{path}/state", state("CANCELED", transaction)).status_code == 200
    answer = performer.send("PUT", f"{path}/state", state("COMPLETED", transaction))
    assert answer.status_code == 409
    answer = performer.send("POST", f"{path}?{transaction}", element("ProcedureStepLabel", "late"))
    assert (answer.status_code, "current state" in warnings(answer)) == (400, True)
    answer = performer.send("PUT", f"{path}/state", state("CANCELED", transaction))
    assert "The UPS is already in the requested state of CANCELED." in warnings(answer)


def test_nothing_is_completed_that_nobody_claimed(site: Site) -> None:
    client = orchestrator(site)
    path = f"/workitems/{client.create(ups())}"
    for to in ("COMPLETED", "CANCELED", "SCHEDULED"):
        assert client.send("PUT", f"{path}/state", state(to, uid())).status_code == 409
    assert client.send("PUT", f"{path}/state", state("IN PROGRESS")).status_code == 400
    answer = client.send("POST", f"{path}?{uid()}", element("ProcedureStepLabel", "x"))
    assert (answer.status_code, "did not reference a claimed" in warnings(answer)) == (409, True)
    assert client.send("PUT", f"{path}/state", element("ProcedureStepState", "DONE")).status_code == 400


def test_of_two_that_claim_at_once_one_wins(any_site: Site) -> None:
    performers = [orchestrator(any_site, f"AI{number}") for number in range(4)]
    for _ in range(3):
        workitem = performers[0].create(ups())
        path = f"/workitems/{workitem}/state"
        tries = [(one, uid()) for one in performers]
        with ThreadPoolExecutor(4) as pool:
            answers = [
                future.result()
                for future in [pool.submit(one.send, "PUT", path, state("IN PROGRESS", own)) for one, own in tries]
            ]
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
        winner = next(t for t, answer in zip(tries, answers, strict=True) if answer.status_code == 200)
        assert winner[0].send("PUT", path, state("CANCELED", winner[1])).status_code == 200


def test_a_request_to_cancel_ends_what_nobody_claimed_and_tells_the_performer_of_what_somebody_did(site: Site) -> None:
    ris, performer = orchestrator(site, "RIS"), orchestrator(site, "AI2")
    free, taken = ris.create(ups()), ris.create(ups())
    transaction = performer.claim(taken)
    reason = element("ReasonForCancellation", "patient left")
    assert ris.send("POST", f"/workitems/{free}/cancelrequest", reason).status_code == 202
    seen = ris.item(free)
    assert seen.ProcedureStepState == "CANCELED"
    assert "patient left" in seen.ProcedureStepProgressInformationSequence[0].ReasonForCancellation
    assert ris.send("POST", f"/workitems/{taken}/cancelrequest", reason).status_code == 202
    assert ris.item(taken).ProcedureStepState == "IN PROGRESS"
    performer.send("POST", f"/workitems/{taken}?{transaction}", performed())
    performer.send("PUT", f"/workitems/{taken}/state", state("COMPLETED", transaction))
    assert ris.send("POST", f"/workitems/{taken}/cancelrequest", reason).status_code == 409


def test_what_is_asked_of_nothing_is_not_found_and_what_exists_is_not_created_twice(site: Site) -> None:
    client, missing = orchestrator(site), f"/workitems/{uid()}"
    assert client.get(missing).status_code == 404
    assert client.send("POST", missing, element("ProcedureStepLabel", "x")).status_code == 404
    assert client.send("PUT", f"{missing}/state", state("IN PROGRESS", uid())).status_code == 404
    assert client.send("POST", f"{missing}/cancelrequest").status_code == 404
    assert client.get("/workitems/not-a-uid").status_code == 400
    workitem = client.create(ups())
    assert client.send("POST", f"/workitems?{workitem}", ups()).status_code == 409
    site.receive(ct_study(1))
    (ours,) = client.found(PatientID="P-1001")
    assert client.send("POST", f"/workitems?{ours.SOPInstanceUID}", ups()).status_code == 409


def test_the_uid_of_a_new_workitem_comes_from_the_address_the_data_set_or_us(site: Site) -> None:
    client, own = orchestrator(site), uid()
    for path in ("/workitems?uid={}", "/workitems?workitem={}", "/workitems?AffectedSOPInstanceUID={}"):
        assert client.send("POST", path.format(uid()), ups()).status_code == 201
    answer = client.send("POST", "/workitems", ups(SOPInstanceUID=own))
    assert answer.headers["Location"] == f"http://localhost/ups/workitems/{own}"
    given = client.send("POST", "/workitems", ups()).headers["Location"]
    assert client.item(given.rpartition("/")[2]).ProcedureStepState == "SCHEDULED"
    assert client.send("POST", f"/workitems?{uid()}", ups(SOPInstanceUID=uid())).status_code == 400


def test_a_workitem_is_forgotten_long_after_its_end_and_its_uid_stays_taken(any_site: Site) -> None:
    client, watcher = orchestrator(any_site), orchestrator(any_site, "WATCH")
    gone, kept = client.create(ups()), client.create(ups())
    assert watcher.send("POST", f"/workitems/{kept}/subscribers/WATCH?deletionlock=true").status_code == 201
    for one in (gone, kept):
        client.send("POST", f"/workitems/{one}/cancelrequest")
    with any_site.sessions() as db:
        db.execute(update(Workitem).values(finished_at=utcnow() - timedelta(days=91)))
        db.commit()
    client.create(ups())
    assert client.get(f"/workitems/{gone}").status_code == 410
    assert client.send("POST", f"/workitems/{gone}", element("ProcedureStepLabel", "x")).status_code == 410
    assert client.send("POST", f"/workitems?{gone}", ups()).status_code == 409
    assert any_site.one(Workitem, uid=gone).attributes == {}
    assert any_site.one(Workitem, uid=gone).patient_id == ""
    assert client.get(f"/workitems/{kept}").status_code == 200
    assert watcher.send("DELETE", f"/workitems/{kept}/subscribers/WATCH").status_code == 200
    client.create(ups())
    assert client.get(f"/workitems/{kept}").status_code == 410


# --- workitems for this station ----------------------------------------------------------------------------


def test_a_workitem_for_this_station_is_performed_when_its_study_comes(any_site: Site) -> None:
    client, images = orchestrator(any_site), ct_study(3)
    workitem = client.create(
        ups(str(images[0].StudyInstanceUID), "FIRSTREAD", InputReadinessState="INCOMPLETE",
            ScheduledProcedureStepPriority="HIGH")
    )  # fmt: skip
    assert client.send("PUT", f"/workitems/{workitem}/state", state("IN PROGRESS", uid())).status_code == 409
    study_id = any_site.receive(images)
    assert client.item(workitem).InputReadinessState == "INCOMPLETE"
    reading_id = any_site.routed(study_id)
    assert client.item(workitem).InputReadinessState == "READY"
    assert any_site.one(Reading, id=reading_id).priority is Priority.STAT
    with unit_of_work(any_site.sessions, WORKER) as uow:
        claim = lifecycle.claim(uow, reading_id, owner="w", lease_s=60)
    assert claim is not None
    assert client.item(workitem).ProcedureStepState == "IN PROGRESS"
    with unit_of_work(any_site.sessions, WORKER) as uow:
        lifecycle.no_draft(uow, claim, "only 3 slices")
    seen = client.item(workitem)
    assert seen.ProcedureStepState == "CANCELED"
    assert seen.ProcedureStepProgressInformationSequence[0].ReasonForCancellation == "only 3 slices"


def test_a_workitem_for_a_study_that_is_drafted_is_completed_at_once(site: Site) -> None:
    images = ct_study(3)
    site.drafted(images)
    client = orchestrator(site)
    workitem = client.create(ups(str(images[0].StudyInstanceUID), "FIRSTREAD"))
    seen = client.item(workitem)
    assert seen.ProcedureStepState == "COMPLETED"
    assert seen.UnifiedProcedureStepPerformedProcedureSequence[0].PerformedProcedureStepEndDateTime
    assert site.tags(object_id=workitem) == ["workitem:created", "workitem:claimed", "workitem:completed"]


def test_a_workitem_for_a_study_that_failed_asks_for_another_run(site: Site) -> None:
    client, images = orchestrator(site), ct_study(3)
    claim = site.claimed(site.receive(images))
    with unit_of_work(site.sessions, WORKER) as uow:
        lifecycle.fail(uow, claim, "a model broke")
    workitem = client.create(ups(str(images[0].StudyInstanceUID), site.settings.dicom.ae_title))
    assert client.item(workitem).ProcedureStepState == "SCHEDULED"
    assert site.one(Reading, id=claim.reading_id).state is ReadingState.QUEUED
    assert "reading:process_again" in site.tags(actor="token:ORCH")


def test_a_workitem_for_a_study_that_no_rule_drafted_takes_the_rule_that_would(site: Site) -> None:
    client, images = orchestrator(site), ct_study(3)
    reading_id = site.routed(site.receive(images), RoutingVerdict("ignore", reason="not for us"))
    client.create(ups(str(images[0].StudyInstanceUID), "FIRSTREAD"))
    reading = site.one(Reading, id=reading_id)
    assert (reading.state, bool(reading.profile)) == (ReadingState.QUEUED, True)


def test_a_held_study_stays_held_whoever_asks(site: Site) -> None:
    client, images = orchestrator(site), ct_study(3)
    reading_id = site.routed(site.receive(images), RoutingVerdict("hold", reason="a person decides"))
    workitem = client.create(ups(str(images[0].StudyInstanceUID), "FIRSTREAD"))
    assert site.one(Reading, id=reading_id).state is ReadingState.HELD
    assert client.item(workitem).ProcedureStepState == "SCHEDULED"


def test_later_images_do_not_end_a_workitem_whose_study_is_read_again(site: Site) -> None:
    client, images = orchestrator(site), ct_study(4)
    study_id = site.receive(images[:3])
    workitem = client.create(ups(str(images[0].StudyInstanceUID), "FIRSTREAD"))
    site.claimed(study_id)
    site.receive(images[3:])  # a new revision: the first Reading is superseded
    assert client.item(workitem).ProcedureStepState == "IN PROGRESS"
    states = sorted(one.ProcedureStepState for one in client.found(ProcedureStepLabel="Draft report"))
    assert states == ["CANCELED", "SCHEDULED"]
    assert site.routed(study_id, DRAFT)


def test_the_input_of_anybodys_workitem_becomes_ready_when_its_study_is_whole(site: Site) -> None:
    client, images = orchestrator(site), ct_study(2)
    study = str(images[0].StudyInstanceUID)
    workitem = client.create(ups(study, "AI2", InputReadinessState="INCOMPLETE"))
    site.routed(site.receive(images))
    assert client.item(workitem).InputReadinessState == "READY"
    answer = client.send("POST", f"/workitems?{uid()}", ups(study, InputReadinessState="INCOMPLETE"))
    assert "The Workitem was created with modifications." in warnings(answer)


# --- what is refused ---------------------------------------------------------------------------------------


def _without(keyword: str) -> dict[str, Any]:
    ds = ups()
    delattr(ds, keyword)
    return ds.to_json_dict()


def _deep(levels: int) -> dict[str, Any]:
    item: dict[str, Any] = {}
    for _ in range(levels):
        item = {"00404021": {"vr": "SQ", "Value": [item]}}
    return ups().to_json_dict() | item


REFUSED: dict[str, Any] = {
    "no JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "a number": b"1",
    "nothing": b"",
    "two workitems": [ups().to_json_dict()] * 2,
    "a list of numbers": b"[1]",
    "NaN": b'{"00741200": NaN}',
    "a million brackets": b"[" * 500_000,
    "nested too deep": _deep(12),
    "too many values": ups().to_json_dict() | {"00741204": {"vr": "LO", "Value": ["x"] * 30_000}},
    "a member that is no tag": {"PatientName": {"vr": "PN"}},
    "an element that is none": {"00100010": "Doe"},
    "another VR": ups().to_json_dict() | {"00100010": {"vr": "LO", "Value": ["Doe^Jane"]}},
    "a name as text": ups().to_json_dict() | {"00100010": {"vr": "PN", "Value": ["Doe^Jane"]}},
    "a value that is no list": ups().to_json_dict() | {"00100020": {"vr": "LO", "Value": "P"}},
    "too long": ups().to_json_dict() | {"00100020": {"vr": "LO", "Value": ["P" * 65]}},
    "a NUL": ups().to_json_dict() | {"00100020": {"vr": "LO", "Value": ["P\x00"]}},
    "half a character": ups().to_json_dict() | {"00100020": {"vr": "LO", "Value": ["\ud800"]}},
    "a UID that is none": ups().to_json_dict() | {"0020000D": {"vr": "UI", "Value": ["../../etc"]}},
    "a date that is none": ups().to_json_dict() | {"00404005": {"vr": "DT", "Value": ["20261341"]}},
    "bulk data": ups().to_json_dict() | {"00081080": {"vr": "LO", "BulkDataURI": "http://evil.test"}},
    "no priority": _without("ScheduledProcedureStepPriority"),
    "no label": _without("ProcedureStepLabel"),
    "no start": _without("ScheduledProcedureStepStartDateTime"),
    "no readiness": _without("InputReadinessState"),
    "no state": _without("ProcedureStepState"),
    "another priority": ups(ScheduledProcedureStepPriority="STAT"),
    "not SCHEDULED": ups(ProcedureStepState="IN PROGRESS"),
    "a Transaction UID": ups(TransactionUID="1.2.3"),
    "something performed": ups(
        UnifiedProcedureStepPerformedProcedureSequence=performed().UnifiedProcedureStepPerformedProcedureSequence
    ),
    "another SOP Class": ups(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"),
    "for us without a Study": ups("", "FIRSTREAD"),
    "for us and not our work": ups(
        "1.2.3", "FIRSTREAD", ScheduledWorkitemCodeSequence=[code("110007", "DCM", "Report Verification")]
    ),
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_workitem_is_refused_and_leaves_nothing(site: Site, body: Any) -> None:
    client = orchestrator(site)
    answer = client.send("POST", f"/workitems?{uid()}", body)
    assert answer.status_code == 400
    assert client.found() == []
    assert "Nilsen" not in answer.text


def test_a_giant_payload_and_another_media_type_are_refused(site: Site) -> None:
    client = orchestrator(site)
    giant = ups(CommentsOnTheScheduledProcedureStep="x").to_json_dict()
    giant["00741206"] = {"vr": "UT", "Value": ["x" * 1_100_000]}
    assert client.send("POST", f"/workitems?{uid()}", giant).status_code == 413
    for kind in ("application/dicom", "text/xml", 'multipart/related; type="application/dicom+xml"', ""):
        assert client.send("POST", f"/workitems?{uid()}", ups(), content_type=kind).status_code == 415
    assert client.found() == []


def test_what_nobody_here_knows_is_left_out_and_said(site: Site) -> None:
    client, workitem = orchestrator(site), uid()
    sent = ups().to_json_dict() | {"00090010": {"vr": "LO", "Value": ["ACME"]}}
    answer = client.send("POST", f"/workitems?{workitem}", sent)
    assert (answer.status_code, "created with modifications" in warnings(answer)) == (201, True)
    assert 0x00090010 not in client.item(workitem)
    change = element("ProcedureStepLabel", "new") | {"00090010": {"vr": "LO", "Value": ["ACME"]}}
    answer = client.send("POST", f"/workitems/{workitem}", change)
    assert (answer.status_code, "optional Attributes are not supported" in warnings(answer)) == (200, True)


@pytest.mark.parametrize(
    "change",
    [
        element("PatientID", "P-2"),
        element("ProcedureStepState", "COMPLETED"),
        element("StudyInstanceUID", "1.2.3"),
        element("ProcedureStepLabel"),
        element("ScheduledProcedureStepPriority", "STAT"),
        {},
        {"00404025": {"vr": "SQ", "Value": [code("FIRSTREAD", "99X", "us").to_json_dict()]}},
    ],
)
def test_an_update_may_not_change_whom_it_is_about_nor_empty_what_is_required(site: Site, change: dict) -> None:
    client = orchestrator(site)
    workitem = client.create(ups())
    before = client.get(f"/workitems/{workitem}").json
    assert client.send("POST", f"/workitems/{workitem}", change).status_code == 400
    assert client.get(f"/workitems/{workitem}").json == before


# --- who may ------------------------------------------------------------------------------------------------


def test_a_token_that_reads_may_look_and_subscribe_but_neither_create_nor_claim(site: Site) -> None:
    maker, reader = orchestrator(site, "RIS"), orchestrator(site, "EYES", Scope.READ)
    workitem = maker.create(ups())
    assert reader.item(workitem).PatientID == "P-77"
    assert reader.send("POST", f"/workitems/{workitem}/subscribers/EYES").status_code == 201
    for method, path, body in (
        ("POST", "/workitems", ups()),
        ("POST", f"/workitems/{workitem}", element("ProcedureStepLabel", "x")),
        ("PUT", f"/workitems/{workitem}/state", state("IN PROGRESS", uid())),
        ("POST", f"/workitems/{workitem}/cancelrequest", b""),
    ):
        assert reader.send(method, path, body).status_code == 403
    assert site.app.test_client().get("/ups/workitems").status_code == 401


def test_a_session_may_look_and_needs_its_mark_to_change_anything(site: Site) -> None:
    browser = site.client("radiologist")
    token = browser.token("/account/password")
    sent = json.dumps(ups().to_json_dict())
    headers = {"Content-Type": "application/dicom+json"}
    assert browser.post("/ups/workitems", data=sent, headers=headers).status_code == 400
    answer = browser.post("/ups/workitems", data=sent, headers={**headers, "X-CSRFToken": token})
    assert answer.status_code == 201
    assert browser.get("/ups/workitems").status_code == 200
    assert site.client("admin").get("/ups/workitems").status_code == 403


def test_looking_is_on_record_without_the_patient(site: Site) -> None:
    client = orchestrator(site)
    workitem = client.create(ups())
    client.found(PatientName="Nilsen*")
    client.item(workitem)
    search, retrieval = events(site.sessions, "workitem:read")
    assert (search.actor, search.detail["keys"], search.detail["matches"]) == ("token:ORCH", ["PatientName"], 1)
    assert retrieval.detail["workitem_uid"] == workitem
    assert "Nilsen" not in json.dumps([search.detail, retrieval.detail])


def test_without_the_setting_there_is_no_worklist(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url, web={"workitems": False})
    assert orchestrator(site).get("/workitems").status_code == 404
