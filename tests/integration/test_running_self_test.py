"""The self-test over a real node: what it sends comes back as a study, and nothing of it leaves."""

import hashlib
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from config.durable import write_durably
from config.errors import LifecycleError
from config.routing import load_rule_book
from config.settings import Peer
from db import lifecycle
from db.critical_models import CriticalAlert
from db.lifecycle import NewDraft, node_tasks
from db.lifecycle.deliveries import owe
from db.models import Delivery, PeerAssociation, Reading, Study
from db.prior_models import PriorSearch
from db.queries import Tab, Wanted, worklist
from db.queries.figures import figures as measured
from db.running_models import NodeTask
from db.types import ReadingState, utcnow
from db.uow import unit_of_work
from db.workitem_models import Subscription, WorkitemEvent
from db.workitem_values import FILTERED_UID, GLOBAL_UID
from dicom_node.scp import start_node
from firstread.ports import free_port
from tests.dashboard_support import NODE, WORKER, Site, ct_study, make_site
from tests.db_support import Sessions, an_object, new_draft, open_review, person, received
from tests.node_support import rows


def until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 40
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def drafted(site: Site, reading: Reading) -> None:
    """What the worker does, with one object that every destination wants."""
    made = an_object("DRAFT_SR", path="self.dcm", sha256=hashlib.sha256(b"x").hexdigest(), destinations=["pacs"])
    write_durably(site.settings.results_dir / "self.dcm", b"x")
    with unit_of_work(site.sessions, WORKER) as uow:
        claim = lifecycle.claim(uow, reading.id, owner="w", lease_s=60)
        assert claim is not None
        draft: NewDraft = new_draft(claim, objects=[made], destinations=["pacs"])
        lifecycle.drafted(uow, claim, draft)


@pytest.mark.requirement("REQ-CONF-4")
def test_it_goes_by_c_store_to_a_draft_and_nothing_of_it_is_owed(tmp_path: Path, sqlite_url: str) -> None:
    dicom = {"port": free_port(), "quiet_s": 0.2, "receivers": 0, "peers": [Peer(ae_title="CT1", host="192.0.2.1")]}
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 9}
    source = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 9}
    site = make_site(tmp_path, sqlite_url, dicom=dicom, destinations=[pacs], priors={"sources": [source]})
    admin = site.client("admin")
    node = start_node(site.settings, site.sessions)
    try:
        assert admin.submit("/self-test").status_code == 303
        admin.submit("/self-test")
        assert len(rows(site.sessions, NodeTask)) == 1  # asking twice is one test
        until(lambda: rows(site.sessions, Study))
        study = site.one(Study, patient_id="SELFTEST")
        until(lambda: "C-STORE to FIRSTREAD at port" in admin.get("/self-test/steps").text)
        assert "waits for its quiet time" in admin.get("/self-test").text
        until(lambda: rows(site.sessions, PriorSearch))
        with unit_of_work(site.sessions, NODE) as uow:
            facts = lifecycle.study_facts(uow.session, study.id)
            verdict = load_rule_book(site.settings).of(facts.called_ae).judge(facts)
            reading = uow.session.query(Reading).filter_by(study_id=study.id).one()
            lifecycle.complete(uow, reading.id, verdict)
        assert reading.state is ReadingState.QUEUED
        assert "waits for a worker; the queue page says why" in admin.get("/self-test/steps").text
        drafted(site, reading)
        until(lambda: site.tags(tag="selftest:finished"))
    finally:
        node.stop()
    page = admin.get("/self-test").text
    for words in (
        "Passed",
        "1 of 1 acknowledged",
        "rule chest-radiograph",
        "1 objects: DRAFT_SR",
        "nothing of it is owed",
    ):
        assert words in page
    assert rows(site.sessions, Delivery) == []
    with unit_of_work(site.sessions, NODE) as uow:  # a signed report of it is owed to nobody either
        owe(uow, an_object("SIGNED_SR", destinations=["pacs"]), study.id)
    assert rows(site.sessions, Delivery) == []
    assert [one.state.value for one in rows(site.sessions, PriorSearch)] == ["SKIPPED"]
    assert [one.calling_ae for one in rows(site.sessions, PeerAssociation) if not one.rejected] == ["SELFTEST"]
    assert site.tags(object_type="peer") == ["peer:added", "peer:removed"]  # let in for that long, on the record
    assert site.tags(object_type="self_test") == ["selftest:started", "selftest:finished"]


@pytest.mark.requirement("REQ-CONF-4")
def test_what_does_not_come_through_fails_where_it_hangs(tmp_path: Path, sqlite_url: str) -> None:
    from dicom_node import self_test

    site = make_site(tmp_path, sqlite_url, dicom={"port": 9})
    admin = site.client("admin")
    admin.submit("/self-test")
    self_test.test_due(site.sessions, site.settings, utcnow())
    page = admin.get("/self-test").text
    assert "Failed" in page
    assert "0 of 1 acknowledged" in page
    admin.submit("/self-test")
    with unit_of_work(site.sessions, NODE) as uow:
        task = uow.session.query(NodeTask).filter_by(finished_at=None).one()
        task.study_instance_uid, task.steps = (
            "1.2.3",
            [{"name": "sent", "is_good": True, "note": "", "milliseconds": 1.0}],
        )
        task.asked_at = utcnow() - timedelta(minutes=21)
    assert self_test.test_due(site.sessions, site.settings, utcnow()) == 1
    assert "not within 20 minutes: the Study is not in the database" in admin.get("/self-test").text
    assert site.tags(tag="selftest:finished", outcome="failure") == ["selftest:finished"] * 2


def named(sessions: Sessions, study_instance_uid: str) -> None:
    """What the node does before it sends the self-test."""
    with unit_of_work(sessions, NODE) as uow:
        node_tasks.start_self_test(uow, node_tasks.ask_task(uow, node_tasks.SELF_TEST), study_instance_uid)


def test_the_database_lists_a_self_test_nowhere_from_its_first_image_on(sessions: Sessions) -> None:
    named(sessions, "1.2.7")

    def listed() -> dict[str, int]:
        with sessions() as session:
            found = {tab.value: len(worklist(session, tab).rows) for tab in Tab}
            found |= {f"{tab.value} counted": number for tab, number in worklist(session, Tab.ALL).counts.items()}
            searched = worklist(session, Tab.ALL, wanted=Wanted(search="self")).rows
            return {name: number for name, number in found.items() if number} | {"found": len(searched)}

    journey = received(sessions, "1.2.7", images=1, patient_name="SELFTEST^Do not read")
    assert (journey.report().lane, listed()) == ("self_test", {"found": 0})
    for step in (journey.queued, journey.running, lambda: journey.drafted(objects=[], critical=("nodule",))):
        step()
        assert (journey.report().lane, listed()) == ("self_test", {"found": 0})
    assert journey.findings()
    reader = person(sessions)
    with pytest.raises(LifecycleError, match="self-test"):
        open_review(journey, reader)
    assert rows(sessions, CriticalAlert) == []
    received(sessions, "1.2.8", images=1)
    assert listed() == {"processing": 1, "all": 1, "processing counted": 1, "all counted": 1, "found": 0}


def test_no_search_figure_or_subscriber_meets_a_self_test(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url, critical={"webhook_url": "http://127.0.0.1:9/"})
    with unit_of_work(site.sessions, NODE) as uow:
        everything = (GLOBAL_UID, FILTERED_UID)
        uow.session.add_all(Subscription(ae_title="RIS", uid=uid, is_subscribed=True) for uid in everything)
    scan = ct_study(2, PatientName="SELFTEST^Do not read", PatientID="SELFTEST", AccessionNumber="SELFTEST1")
    named(site.sessions, str(scan[0].StudyInstanceUID))
    failed = site.claimed(site.receive(scan))
    with unit_of_work(site.sessions, WORKER) as uow:
        lifecycle.fail(uow, failed, "broken")
    assert rows(site.sessions, WorkitemEvent) == []
    admin, reader = site.client("admin"), site.client("radiologist")
    for page in ("/problems", "/worklist", "/worklist?tab=all", "/worklist?tab=problems"):
        assert "SELFTEST" not in admin.get(page).text, page
    for address in ("/dicomweb/studies", "/dicomweb/series", "/dicomweb/instances", "/ups/workitems"):
        found = reader.get(address)
        assert (found.status_code, "SELFTEST" in found.text) in {(200, False), (204, False)}, address
    figures = admin.get("/metrics").text
    assert "firstread_studies_received_total 0.0" in figures
    assert "firstread_instances_received_total 0.0" in figures
    assert 'firstread_readings{state="FAILED"} 0.0' in figures
    assert 'firstread_reports{state="UNREAD"} 0.0' in figures
    site.drafted(ct_study(1))
    assert rows(site.sessions, WorkitemEvent) != []
    with site.sessions() as session:
        assert (shown := measured(session, utcnow())).studies == 1
    assert (shown.instances, shown.readings["DRAFTED"]) == (1, 1)
