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
from db.types import Priority, ReadingState, utcnow
from db.uow import unit_of_work
from db.workitem_models import Workitem
from tests.dashboard_support import NODE, WORKER, Site, ct_study, make_site
from tests.dicomweb_support import events
from tests.workitems_support import INCONSISTENT, element, orchestrator, performed, state, uid, ups


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
