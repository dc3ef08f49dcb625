"""Worklist, problems, audit and accounts: the right rows, nothing of a patient in an address or a log line."""

import io
import logging
import re
from pathlib import Path

import pytest

from config.errors import LifecycleError, NotAuthorisedError, OutOfSpaceError, RefusedInputError, TransientError
from config.logs import configure_logs
from config.routing import RoutingVerdict
from config.serving import PoliteWorker
from dashboard.accounts import create_first_users
from dashboard.errors import status_of
from dashboard.serve import options
from db import lifecycle
from db.engine import make_engine, make_sessions
from db.models import Reading
from db.types import Priority, ReadingState
from db.uow import unit_of_work
from tests.dashboard_support import NODE, WORKER, Site, ct_study, make_site


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def count(page: str, tab: str) -> int:
    match = re.search(rf'data-tab="{tab}"[^>]*>[^<]*<span class="count">(\d+)', page)
    assert match is not None, tab
    return int(match[1])


def test_each_study_is_on_its_tab_with_its_reason(site: Site) -> None:
    site.drafted(ct_study(2))
    site.drafted(ct_study(2, PatientName="Stat^Case"), priority=Priority.STAT)
    ignored = site.receive(ct_study(1, PatientName="Qa^Phantom"))
    site.routed(ignored, RoutingVerdict("ignore", rule="qa", reason="phantom, not a patient"))
    site.receive(ct_study(1, PatientName="Still^Coming"))
    browser = site.client("radiologist")
    drafted = browser.get("/worklist").text
    assert [count(drafted, tab) for tab in ("to_read", "no_draft", "processing", "signed", "all")] == [2, 1, 1, 0, 4]
    assert drafted.index("STAT, Case") < drafted.index("HALVORSEN, Ingrid")  # most urgent first
    assert "1 finding<" in drafted
    assert "QA, Phantom" not in drafted
    assert "phantom, not a patient" in browser.get("/worklist?tab=no_draft").text
    assert "COMING" not in drafted
    assert site.tags(tag="worklist:viewed") == ["worklist:viewed"] * 2


def test_a_search_finds_a_patient_without_naming_him_in_an_address(site: Site) -> None:
    site.drafted(ct_study(2))
    site.drafted(ct_study(2, PatientName="Other^Person", PatientID="P-2", AccessionNumber="ACC-2"))
    browser = site.client("radiologist")
    for words, found in (("halvorsen", "HALVORSEN"), ("P-2", "OTHER"), ("ACC-2", "OTHER")):
        answer = browser.submit("/worklist/search", search=words, tab="to_read")
        assert answer.headers["Location"] == "/worklist?tab=to_read"
        page = browser.get("/worklist").text
        assert found in page
        assert count(page, "to_read") == 1
    browser.submit("/worklist/search", clear="1")
    assert count(browser.get("/worklist").text, "to_read") == 2


def test_filters_are_in_the_address_and_unknown_ones_are_refused(site: Site) -> None:
    site.drafted(ct_study(2))
    browser = site.client("radiologist")
    assert count(browser.get("/worklist?modality=MR").text, "to_read") == 0
    assert count(browser.get("/worklist?modality=CT&priority=URGENT").text, "to_read") == 1
    for wrong in ("tab=x", "priority=x", "after=x"):
        assert browser.get(f"/worklist?{wrong}").status_code == 400


def test_long_lists_have_pages(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboard.worklist.PAGE_SIZE", 2)
    for number in range(3):
        site.drafted(ct_study(1, PatientName=f"Patient^{number}"))
    browser = site.client("radiologist")
    first = browser.get("/worklist").text
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following is not None
    second = browser.get(following[1].replace("&amp;", "&")).text
    names = [re.findall(r"PATIENT, \d", page) for page in (first, second)]
    assert [len(set(page)) for page in names] == [2, 1]
    assert not set(names[0]) & set(names[1])


def test_the_list_says_when_it_changed_and_moves_no_row_by_itself(site: Site) -> None:
    site.drafted(ct_study(1))
    browser = site.client("radiologist")
    pulse = re.search(r'hx-get="(/worklist/pulse[^"]+)"', browser.get("/worklist").text)
    assert pulse is not None
    address = pulse[1].replace("&amp;", "&")
    assert "has changed" not in browser.get(address).text
    site.drafted(ct_study(1, PatientName="New^Arrival"))
    changed = browser.get(address).text
    assert "has changed" in changed
    assert "ARRIVAL" not in changed
    assert count(changed, "to_read") == 2


@pytest.mark.requirement("REQ-FAIL-8")
def test_problems_show_why_and_an_administrator_processes_again(site: Site) -> None:
    held = site.receive(ct_study(1, PatientName="Held^Case"))
    trace = [{"rule": "ct", "matched": False, "why": "body part ANKLE"}]
    site.routed(held, RoutingVerdict("hold", rule="hold", reason="no rule matched", trace=trace))
    failed = site.receive(ct_study(1, PatientName="Failed^Case"))
    claim = site.claimed(failed)
    with unit_of_work(site.sessions, WORKER) as uow:
        lifecycle.fail(uow, claim, "the model did not stop")
    with unit_of_work(site.sessions, NODE) as uow:
        lifecycle.quarantine(uow, reason="SOP Instance UID is missing", error="InvalidUidError", status=0xA900)
    admin = site.client("admin")
    page = admin.get("/problems").text
    for words in ("no rule matched", "body part ANKLE", "the model did not stop", "InvalidUidError", "A900"):
        assert words in page
    for study_id in (held, failed):
        reading_id = site.reading_id(study_id)
        assert admin.submit(f"/problems/readings/{reading_id}/again").status_code == 303
        assert site.one(Reading, id=reading_id).state is ReadingState.QUEUED
        assert admin.submit(f"/problems/readings/{reading_id}/again").status_code == 409


def test_an_administrator_sees_the_list_but_opens_no_report(site: Site) -> None:
    study_id = site.drafted(ct_study(1))
    admin = site.client("admin")
    page = admin.get("/worklist").text
    assert "HALVORSEN" in page
    assert f"/studies/{study_id}" not in page
    assert admin.get(f"/studies/{study_id}").status_code == 403


@pytest.mark.requirement("REQ-AUDIT-6")
def test_the_auditor_finds_every_event_of_an_accession_and_leaves_one(site: Site) -> None:
    study_id = site.drafted(ct_study(2))
    site.client("radiologist").get(f"/studies/{study_id}")
    auditor = site.client("auditor")
    found = auditor.submit("/audit/search", accession="ACC-1001")
    assert f"/audit/studies/{study_id}" in found.text
    assert "No study has this accession number" in auditor.submit("/audit/search", accession="NONE").text
    page = auditor.get(f"/audit/studies/{study_id}").text
    for tag in ("study:received", "reading:drafted", "report:drafted", "report:viewed", "audit:viewed"):
        assert tag in page
    assert len(re.findall(r"<tr><td class=\"numeric quiet\">", page)) == len(site.tags(study_id=study_id))
    assert site.tags(tag="audit:viewed", actor="auditor") == ["audit:viewed"] * 3


def test_an_account_gets_its_password_once_and_can_be_closed(site: Site) -> None:
    admin = site.client("admin")
    page = admin.submit("/users", login="New.Reader", printed_name="Nina Reader", role="radiologist").text
    password = re.search(r'id="new-password">([^<]+)<', page)
    assert password is not None
    assert password[1] not in admin.get("/users").text
    assert site.client().log_in("new.reader", password[1]).status_code == 303
    assert admin.submit("/users", login="new.reader", printed_name="X", role="radiologist").status_code == 409
    assert admin.submit("/users", login="x", printed_name="X", role="chief").status_code == 400


def test_first_users_are_made_once(tmp_path: Path, sqlite_url: str) -> None:
    sessions = make_sessions(make_engine(sqlite_url))
    made = create_first_users(sessions)
    assert [(login, role) for login, role, _ in made] == [
        ("radiologist", "radiologist"),
        ("lead", "lead"),
        ("admin", "admin"),
        ("auditor", "auditor"),
    ]
    assert create_first_users(sessions) == []
    assert tmp_path.is_dir()


@pytest.mark.requirement("REQ-PRIV-1")
def test_no_log_line_names_a_patient_even_when_something_breaks(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    configure_logs(level="DEBUG", json=False, process="web", stream=stream)
    try:
        study_id = site.drafted(ct_study(2))
        browser = site.client("radiologist")
        browser.get(f"/studies/{study_id}")
        browser.submit("/worklist/search", search="Halvorsen")

        def broken(*_: object, **__: object) -> None:
            raise ValueError("Halvorsen P-1001")

        monkeypatch.setattr("dashboard.report_page.load_desk", broken)
        answer = browser.get(f"/studies/{study_id}")
    finally:
        logging.getLogger().handlers.clear()
    assert answer.status_code == 500
    assert "Halvorsen" not in answer.text
    written = stream.getvalue()
    assert "request.failed" in written
    for secret in ("Halvorsen", "HALVORSEN", "P-1001", "ACC-1001"):
        assert secret not in written


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (LifecycleError("x"), 409),
        (NotAuthorisedError("x"), 403),
        (RefusedInputError("x"), 400),
        (TransientError("x"), 503),
        (OutOfSpaceError("x"), 503),
    ],
)
def test_each_kind_of_error_has_its_status(error: Exception, status: int) -> None:
    assert status_of(error) == status  # type: ignore[arg-type]


def test_an_unknown_page_and_a_wrong_method_are_answered_in_style(site: Site) -> None:
    browser = site.client("radiologist")
    assert browser.get("/nowhere").status_code == 404
    assert browser.get("/logout").status_code == 405
    assert "firstread.css" in browser.get("/nowhere").text


def test_pages_work_without_the_built_script(site: Site) -> None:
    site.app.static_folder = str(Path(site.app.root_path) / "static")
    study_id = site.drafted(ct_study(3))
    page = site.client("radiologist").get(f"/studies/{study_id}?slice=2").text
    assert "2 / 3" in page
    assert 'aria-label="Next slice"' in page
    following = re.search(r'data-step="1" href="([^"]+)"', page)
    assert following is not None
    assert "3 / 3" in site.client("radiologist").get(following[1].replace("&amp;", "&")).text


def test_the_server_serves_one_process_with_threads_and_tls(tmp_path: Path, site: Site) -> None:
    plain = options(site.settings)
    assert (plain["workers"], plain["accesslog"]) == (1, None)
    assert issubclass(plain["worker_class"], PoliteWorker)
    web = {"host": "::1", "port": 1, "tls_certificate": tmp_path / "c", "tls_key": tmp_path / "k"}
    secured = options(site.settings.model_copy(update={"web": type(site.settings.web)(**web)}))
    assert secured["bind"] == "[::1]:1"
    assert secured["certfile"] == str(tmp_path / "c")
