"""Critical results on the screen: the loop through the pages, by role, and text that means harm."""

import csv
import io
import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from db.critical_models import AlertState, Channel, CriticalAlert, CriticalCommunication, CriticalNotice, Occasion
from db.lifecycle import NewFinding
from db.models import Study
from db.types import Presence, utcnow
from publishing.alerts import MAX_ATTEMPTS, mail_due, watch
from tests.dashboard_support import Browser, Site, ct_study, make_site

PTX = NewFinding("Pneumothorax", Presence.PRESENT, "CXR", sentence="There is a pneumothorax.", score=0.97)


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def alarmed(site: Site, **changes: Any) -> UUID:
    """A study whose draft asserts a pneumothorax; its id."""
    changes = {"findings": [PTX], "evidence": [], "critical": ("Pneumothorax",), "priority": None} | changes
    return site.drafted(ct_study(3), **changes)


def alert(site: Site) -> CriticalAlert:
    found: CriticalAlert = site.one(CriticalAlert)
    return found


def telling(**changes: str) -> dict[str, str]:
    """The form of who was told, now."""
    now = utcnow().astimezone().strftime("%Y-%m-%dT%H:%M")
    values = {"told_name": "Dr Berg", "told_role": "Surgeon on call", "means": "phone", "told_at": now}
    return values | {"reached": "yes", "read_back": "yes"} | changes


def post(browser: Browser, site: Site, act: str, **fields: str) -> int:
    return browser.submit(f"/critical/alerts/{alert(site).id}/{act}", **fields).status_code


def test_the_loop_from_suspicion_to_the_sentence_in_the_report(site: Site) -> None:
    study_id = alarmed(site)
    reader = site.client("radiologist")
    assert "Suspected critical result: Pneumothorax" in reader.get(f"/studies/{study_id}").text
    assert re.search(r'class="critical-badge[^>]*href="/critical">.*1 critical<', reader.get("/worklist").text)
    listed = reader.get("/critical").text
    assert "Pneumothorax" in listed
    assert re.search(r"29 min \d\d s to answer|30 min 00 s to answer", listed)

    assert post(reader, site, "confirm", category="1") == 303
    assert "Critical result, nobody told yet: Pneumothorax" in reader.get(f"/studies/{study_id}").text
    assert post(reader, site, "communication", **telling(reached="no", read_back="")) == 303
    assert alert(site).state is AlertState.CONFIRMED
    assert "nobody reached" in reader.get(f"/studies/{study_id}").text
    assert post(reader, site, "communication", **telling()) == 303
    assert alert(site).state is AlertState.COMMUNICATED

    assert reader.submit(f"/studies/{study_id}/review").status_code == 303
    page = reader.get(f"/studies/{study_id}").text
    offered = re.search(r'name="text"[^>]*>([^<]+)</textarea>', page.partition("sentence-offer")[2])
    assert offered is not None
    assert re.fullmatch(
        r"Critical result \(Pneumothorax\) communicated to Dr Berg \(Surgeon on call\) by phone on "
        r"\d{4}-\d\d-\d\d \d\d:\d\d by Maria Lund; the result was read back\.",
        offered[1],
    )
    before = site.report(study_id)
    assert offered[1] not in str(before.sections)  # never by itself
    fields = {"text": offered[1], "section": "impression", "version": str(before.version)}
    assert post(reader, site, "sentence", **fields) == 303
    assert site.report(study_id).sections["impression"].endswith(f"\n{offered[1]}")
    assert "The report says so." in reader.get(f"/studies/{study_id}").text
    assert "Six of six" in site.client("auditor").get("/critical/record").text


REFUSED = [
    ("viewer", "confirm", 403),
    ("resident", "confirm", 403),
    ("admin", "confirm", 403),
    ("auditor", "dismiss", 403),
    ("resident", "dismiss", 403),
    ("resident", "communication", 403),
    ("viewer", "sentence", 403),
    ("radiologist", "communication", 409),  # not confirmed yet
    ("lead", "sentence", 409),  # not the lock holder
]


def test_each_role_does_its_part_of_the_loop_and_no_other(site: Site) -> None:
    alarmed(site)
    fields = {"category": "1", "reason": "skin fold", "text": "Told.", "section": "impression"} | telling()
    people = {role: site.client(role) for role in ("viewer", "resident", "admin", "auditor", "radiologist", "lead")}
    assert [(role, act, post(people[role], site, act, **fields)) for role, act, _ in REFUSED] == REFUSED
    assert alert(site).state is AlertState.SUSPECTED
    assert post(people["radiologist"], site, "confirm", **fields) == 303
    assert post(people["lead"], site, "confirm", **fields) == 409  # one was faster
    assert post(people["lead"], site, "dismiss", **fields) == 303
    for act in ("confirm", "dismiss", "communication"):
        assert post(people["radiologist"], site, act, **fields) == 409  # nothing leads on from there
    assert alert(site).state is AlertState.DISMISSED


WRONG = [
    {"told_at": "yesterday"},
    {"told_at": "9999-12-31T23:59"},
    {"told_at": "1999-01-01T00:00"},
    {"told_name": ""},
    {"means": "telepathy"},
    {"read_back": ""},
    {"corrects": "7"},
]


def test_a_record_that_cannot_be_is_refused_and_nothing_kept(site: Site) -> None:
    alarmed(site)
    reader = site.client("radiologist")
    post(reader, site, "confirm", category="1")
    assert [post(reader, site, "communication", **telling(**wrong)) for wrong in WRONG] == [400] * len(WRONG)
    with site.sessions() as db:
        assert db.query(CriticalCommunication).count() == 0
    assert post(reader, site, "communication", **telling(corrects=str(uuid4()))) == 409


def test_a_resident_marks_a_finding_and_a_radiologist_confirms_it(site: Site) -> None:
    study_id = alarmed(site, critical=())
    resident, reader = site.client("resident"), site.client("radiologist")
    assert "Mark a critical result" in resident.get(f"/studies/{study_id}").text
    finding = site.findings(study_id)[0].id
    answer = resident.submit(f"/critical/studies/{study_id}", htmx=True, finding=str(finding), category="2")
    assert 'id="critical"' in answer.text
    assert "<html" not in answer.text  # the banner alone, so that unsaved text stays
    assert "A radiologist has to confirm or dismiss it." in answer.text
    assert (alert(site).state, alert(site).category, alert(site).finding_id) == (AlertState.SUSPECTED, 2, finding)
    assert resident.submit(f"/critical/studies/{study_id}", what="pneumothorax", category="1").status_code == 409
    assert resident.submit(f"/critical/studies/{uuid4()}", what="x", category="1").status_code == 409
    post(reader, site, "confirm", category="1")
    assert alert(site).category == 1


def test_the_badge_is_for_who_can_answer_and_does_not_speak_twice(site: Site) -> None:
    alarmed(site)
    reader = site.client("radiologist")
    fresh = reader.get("/critical/pulse?seen=0-0-0")
    assert "critical-toast" in fresh.text
    again = re.search(r"/critical/pulse\?seen=([\d-]+)", fresh.text)
    assert again is not None
    assert reader.get(again[0]).status_code == 204
    for nonsense in ("", "x", "1-2", "9-9-99999999999999999999", "²-²-²"):
        assert reader.get("/critical/pulse", query_string={"seen": nonsense}).status_code == 200
    for role in ("viewer", "resident", "admin"):
        assert "critical-badge" not in site.client(role).get("/worklist").text
    post(reader, site, "dismiss", reason="skin fold")
    assert "critical-badge" not in reader.get(again[0]).text


def test_an_overdue_result_says_so_everywhere_and_comes_first(site: Site) -> None:
    for name in ("Pneumothorax", "Bleeding"):
        alarmed(site, findings=[NewFinding(name, Presence.PRESENT, "CXR")], critical=(name,))
    hour_ago = utcnow() - timedelta(hours=1)
    with site.sessions.begin() as db:
        late = update(CriticalAlert).where(CriticalAlert.label == "Bleeding")
        db.execute(late.values(opened_at=hour_ago, clock_at=hour_ago))
    assert watch(site.sessions, site.settings, utcnow()) == 2
    reader = site.client("radiologist")
    page = reader.get("/critical").text
    assert page.index(">Bleeding<") < page.index(">Pneumothorax<")
    assert "overdue by 30 min" in page
    assert "escalated once" in page
    assert "2 critical, 1 overdue" in page


def test_a_notice_that_could_not_be_sent_is_shown_and_sent_again(tmp_path: Path, sqlite_url: str) -> None:
    nowhere = {"smtp_host": "127.0.0.1", "smtp_port": 9, "mail_to": ("a@b.example",), "send_timeout_s": 2}
    site = make_site(tmp_path, sqlite_url, critical=nowhere)
    alarmed(site)
    watch(site.sessions, site.settings, utcnow())
    for hour in range(MAX_ATTEMPTS):
        mail_due(site.sessions, site.settings, utcnow() + timedelta(hours=2 * hour))
    reader = site.client("radiologist")
    page = reader.get("/critical").text
    assert "no connection to the mail server" in page
    notice = site.one(CriticalNotice)
    assert (notice.channel, notice.occasion) == (Channel.MAIL, Occasion.SUSPECTED)
    assert reader.submit(f"/critical/notices/{notice.id}/again").status_code == 303
    assert (
        "no connection"
        not in reader.get("/critical").text.partition('aria-label="Settled"')[0].partition("Not sent")[2]
    )
    assert reader.submit(f"/critical/notices/{notice.id}/again").status_code == 409
    for hour in range(MAX_ATTEMPTS):
        mail_due(site.sessions, site.settings, utcnow() + timedelta(hours=30 + 2 * hour))
    admin = site.client("admin")
    listed = admin.get("/problems").text.partition("Nobody alerted")[2].partition("Not delivered")[0]
    for words in ("no connection to the mail server", "a@b.example", "category 1, suspected"):
        assert words in listed
    assert not any(words in listed for words in ("Pneumothorax", "Halvorsen", "P-1001", "ACC-1001"))
    assert admin.submit(f"/problems/notices/{notice.id}/again").status_code == 303
    assert "no connection" not in admin.get("/problems").text
    assert admin.submit(f"/problems/notices/{notice.id}/again").status_code == 409


def test_hostile_text_stays_text_on_every_page(site: Site) -> None:
    evil = "<script>alert(1)</script>\u202e\"'><img src=x onerror=alert(2)>"
    study_id = alarmed(site, findings=[NewFinding(evil[:60], Presence.PRESENT, evil[:60])], critical=(evil[:60],))
    with site.sessions.begin() as db:
        db.execute(update(Study).values(patient_name=evil, accession_number=evil[:16], study_description=evil[:60]))
    reader = site.client("radiologist")
    post(reader, site, "confirm", category="1")
    post(reader, site, "communication", **telling(told_name=evil, told_role=evil, note=evil * 400))
    for path in (
        "/critical",
        f"/critical/alerts/{alert(site).id}",
        f"/studies/{study_id}",
        "/critical/pulse?seen=0-0-0",
    ):
        text = reader.get(path).text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
    record = site.client("auditor").get("/critical/record").text
    assert "&lt;script&gt;alert(1)" in record
    assert "<script>alert" not in record


@pytest.mark.requirement("REQ-AUDIT-12")
def test_the_auditor_asks_by_accession_takes_a_file_away_and_is_on_the_record(site: Site) -> None:
    alarmed(site)
    auditor = site.client("auditor")
    assert "Nobody told" in auditor.submit("/critical/record", accession="ACC-1001").text
    assert "None." in auditor.submit("/critical/record", accession="ACC-9").text
    answer = auditor.submit("/critical/record", accession="ACC-1001", csv="1")
    assert answer.mimetype == "text/csv"
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["accession number"], row["what"], row["complete"]) == ("ACC-1001", "Pneumothorax", "no")
    assert site.tags(actor="auditor")[-3:] == ["audit:viewed", "audit:viewed", "audit:exported"]


def test_looking_at_the_list_is_recorded_and_polling_it_is_not(site: Site) -> None:
    alarmed(site)
    reader = site.client("radiologist")
    before = len(site.tags())
    reader.get("/critical/pulse")
    assert len(site.tags()) == before
    reader.get("/critical")
    reader.get(f"/critical/alerts/{alert(site).id}")
    assert site.tags()[before:] == ["worklist:viewed"] * 2
    assert reader.get(f"/critical/alerts/{uuid4()}").status_code == 404
