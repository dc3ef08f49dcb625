"""The queue page: why each study waits, and what a person may do about it."""

import re
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from config.errors import LifecycleError
from db import lifecycle
from db.asking_models import Question, Redraft
from db.lifecycle import Claim, asking, queueing
from db.models import AuditEvent, OutboxMessage, Reading
from db.running_models import WorkerPresence
from db.types import ReadingState, utcnow
from db.uow import unit_of_work
from tests.asking_support import ANSWER
from tests.dashboard_support import WORKER, Site, ct_study, make_site
from tests.node_support import rows


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def queued(site: Site, number: int) -> tuple[str, str]:
    """A study that waits for a worker; return its accession number and its Reading's id."""
    accession = f"ACC-{number}"
    return accession, str(site.routed(site.receive(ct_study(1, AccessionNumber=accession, PatientID=f"P-{number}"))))


def row_of(page: str, accession: str) -> str:
    """The row of one study as text."""
    found = re.search(rf"<tr data-row(?:(?!</tr>).)*{accession}.*?</tr>", page, re.S)
    assert found, f"{accession} is not in the queue"
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split())


def alive(site: Site, owner: str = "gpu1:1") -> None:
    with unit_of_work(site.sessions, WORKER) as uow:
        uow.session.add(WorkerPresence(owner=owner, started_at=utcnow(), seen_at=utcnow(), models=[]))


def take(site: Site, reading_id: str, owner: str = "gpu1:1") -> Claim | None:
    with unit_of_work(site.sessions, WORKER) as uow:
        return lifecycle.claim(uow, UUID(reading_id), owner=owner, lease_s=60)


def state(site: Site, reading_id: str) -> ReadingState:
    found: ReadingState = site.one(Reading, id=UUID(reading_id)).state
    return found


def test_each_study_says_why_it_waits(site: Site) -> None:
    (one, first), (two, second), (three, third) = (queued(site, number) for number in (1, 2, 3))
    site.receive(ct_study(2, AccessionNumber="ACC-4"))
    admin = site.client("admin")
    page = admin.get("/queue").text
    assert "No worker is running." in page
    assert "no worker is running; place 1 of 3" in row_of(page, one)
    assert "2 images so far" in row_of(page, "ACC-4")
    alive(site)
    assert "next for a worker that is free; place 1 of 3" in row_of(admin.get("/queue").text, one)
    held = take(site, first)
    assert held is not None
    page = admin.get("/queue").text
    assert "being read by gpu1:1, attempt 1; it is counted as lost if nothing is heard until" in row_of(page, one)
    assert "place 1 of 2; every worker is busy (1 being read)" in row_of(page, two)
    with unit_of_work(site.sessions, WORKER) as uow:
        lifecycle.retry(uow, held, "the GPU was busy", base_s=600, max_attempts=3)
    assert re.search(r"tried again at \d\d:\d\d:\d\d: the GPU was busy", row_of(admin.get("/queue").text, one))
    admin.submit("/queue/act", act=f"hold:{second}", reason="wrong order")
    assert "held by a person: wrong order" in row_of(admin.get("/queue").text, two)
    assert state(site, third) is ReadingState.QUEUED
    assert three in page
    assert "Halvorsen" not in page  # who runs the system needs no names


@pytest.mark.requirement("REQ-FAIL-9")
def test_a_paused_queue_gives_nothing_out_until_it_is_opened_again(site: Site) -> None:
    accession, reading_id = queued(site, 1)
    admin = site.client("admin")
    assert admin.submit("/queue/mode", mode="PAUSED", reason="").status_code == 400
    admin.submit("/queue/mode", mode="PAUSED", reason="new GPU")
    assert take(site, reading_id) is None
    page = admin.get("/queue").text
    assert "The queue is paused: workers take nothing new." in page
    assert "new GPU" in page
    assert "the queue is paused; place 1 of 1" in row_of(page, accession)
    assert admin.submit("/queue/mode", mode="PAUSED", reason="again").status_code == 409
    before = len(rows(site.sessions, OutboxMessage))
    admin.submit("/queue/mode", mode="OPEN")
    assert len(rows(site.sessions, OutboxMessage)) == before + 1  # the message of the pause found nobody to take it
    assert take(site, reading_id) is not None
    assert site.tags(object_type="queue") == ["queue:paused", "queue:resumed"]
    event = site.one(AuditEvent, tag="queue:paused")
    assert (event.actor, event.detail) == ("admin", {"from": "OPEN", "reason": "new GPU"})


def test_draining_takes_what_was_complete_before_and_nothing_later(site: Site) -> None:
    _, early = queued(site, 1)
    admin = site.client("admin")
    admin.submit("/queue/mode", mode="DRAINING", reason="update tonight")
    late_accession, late = queued(site, 2)
    assert take(site, late) is None
    assert take(site, early) is not None
    assert "the queue is draining, and this came later" in row_of(admin.get("/queue").text, late_accession)


def test_what_is_held_while_it_runs_is_taken_from_its_worker(site: Site) -> None:
    _, reading_id = queued(site, 1)
    held = take(site, reading_id)
    assert held is not None
    site.client("admin").submit("/queue/act", act=f"hold:{reading_id}")
    assert state(site, reading_id) is ReadingState.HELD
    with pytest.raises(LifecycleError, match="no longer this worker's"), unit_of_work(site.sessions, WORKER) as uow:
        lifecycle.heartbeat(uow, held, lease_s=60)
    with pytest.raises(LifecycleError), unit_of_work(site.sessions, WORKER) as uow:
        lifecycle.no_draft(uow, held, "too late")
    with unit_of_work(site.sessions, WORKER) as uow:
        assert queueing.requeue_expired(uow, utcnow() + timedelta(days=1)) == 0
        assert queueing.requeue_due(uow, utcnow() + timedelta(days=1)) == 0
    assert state(site, reading_id) is ReadingState.HELD


def test_several_are_released_at_once_and_what_cannot_be_done_is_said(site: Site) -> None:
    ids = [queued(site, number)[1] for number in (1, 2, 3)]
    admin = site.client("admin")
    admin.submit("/queue/act", act="hold", reading=ids[:2])
    assert [state(site, one) for one in ids] == [ReadingState.HELD, ReadingState.HELD, ReadingState.QUEUED]
    admin.submit("/queue/act", act="hold", reading=ids)
    said = admin.get("/queue").text
    assert "1 held." in said
    assert said.count("there is nothing to hold") == 2
    admin.submit("/queue/act", act="release", reading=ids)
    assert [state(site, one) for one in ids] == [ReadingState.QUEUED] * 3
    assert admin.submit("/queue/act", act="hold", reading="../etc").status_code == 400
    assert admin.submit("/queue/act", act="explode", reading=ids).status_code == 400


def test_a_delay_is_cut_short_and_a_study_that_is_received_is_taken_as_complete(site: Site) -> None:
    _, reading_id = queued(site, 1)
    held = take(site, reading_id)
    assert held is not None
    with unit_of_work(site.sessions, WORKER) as uow:
        lifecycle.retry(uow, held, "busy", base_s=600, max_attempts=3)
    study_id = site.receive(ct_study(1, AccessionNumber="ACC-9"))
    admin = site.client("admin")
    admin.submit("/queue/act", act=f"retry:{reading_id}")
    assert state(site, reading_id) is ReadingState.QUEUED
    assert take(site, reading_id) is not None
    admin.submit("/queue/act", act=f"complete:{site.reading_id(study_id)}")
    assert "study:complete_now" in site.tags(study_id=study_id)


def test_what_readers_asked_of_the_models_waits_beside_the_readings(site: Site) -> None:
    study_id = site.drafted(ct_study(3))
    reader, admin = site.client("radiologist"), site.client("admin")
    assert reader.submit(f"/studies/{study_id}/review").status_code == 303
    reader.submit(f"/studies/{study_id}/questions", question="Is Mrs Halvorsen worse?")
    reader.submit(f"/studies/{study_id}/redrafts", instruction="Shorter.")
    question, redraft = site.one(Question).id, site.one(Redraft).id
    page = admin.get("/queue").text
    assert re.search(
        r"Question Waiting for a worker Maria Lund ACC-1001 CT .* no worker is running", asked(page, question)
    )
    assert "Redraft Waiting for a worker" in asked(page, redraft)
    assert "Halvorsen" not in page
    assert "Shorter" not in page
    alive(site)
    assert "next for a worker that is free" in asked(admin.get("/queue").text, question)
    admin.submit("/queue/mode", mode="PAUSED", reason="new GPU")
    assert "the queue is paused" in asked(admin.get("/queue").text, question)
    assert claim(site, question) is None
    admin.submit("/queue/mode", mode="OPEN")
    held = claim(site, question)
    assert held is not None
    assert "At work Maria Lund" in asked(admin.get("/queue").text, question)
    before = len(rows(site.sessions, OutboxMessage))
    admin.submit("/queue/act", act=f"wake_redraft:{redraft}")
    assert len(rows(site.sessions, OutboxMessage)) == before + 1
    admin.submit("/queue/act", act=f"wake_question:{question}")
    assert "it does not wait for a worker" in admin.get("/queue").text
    for act in (f"stop_question:{question}", f"stop_redraft:{redraft}"):
        admin.submit("/queue/act", act=act)
    assert "Asked by readers" not in admin.get("/queue").text
    with pytest.raises(LifecycleError), unit_of_work(site.sessions, WORKER) as uow:
        asking.answered(uow, held, ANSWER)
    assert "stopped by a person who runs the system" in reader.get(f"/studies/{study_id}").text
    assert site.tags(actor="admin", study_id=study_id) == ["redraft:asked_again", "question:refused", "redraft:refused"]


def asked(page: str, errand_id: UUID) -> str:
    """The row of a question or a redraft as text."""
    found = re.search(rf'<tr data-row="{errand_id}".*?</tr>', page, re.S)
    assert found, "it is not in the queue"
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split())


def claim(site: Site, question: UUID) -> asking.QuestionClaim | None:
    with unit_of_work(site.sessions, WORKER) as uow:
        return asking.claim_question(uow, question, owner="gpu1:1", lease_s=60)


def test_only_administrators_touch_the_queue(site: Site) -> None:
    for role in ("radiologist", "lead", "auditor"):
        browser = site.client(role)
        assert browser.get("/queue").status_code == 403
        assert browser.submit("/queue/mode", mode="PAUSED", reason="x").status_code == 403
        assert browser.submit("/queue/act", act="hold").status_code == 403
