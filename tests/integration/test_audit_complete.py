"""The record is complete: every page that shows a patient, what peers do, what processes do; and without it no act."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from dashboard.dicomweb.door import Record
from dashboard.images import ImageShelf
from dashboard.slices import LruCache
from db.audit_map import ROUTES
from db.models import AuditEvent, Instance, Series, Study
from db.types import Role
from tests.dashboard_support import Browser, Site, ct_study, make_site
from tests.integration.test_dashboard_access import ALLOWED

ORDER = (Role.RADIOLOGIST, Role.AUDITOR, Role.ADMIN, Role.LEAD)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, _migrated_file: Path) -> Site:
    folder = tmp_path_factory.mktemp("site")
    (folder / "firstread.db").write_bytes(_migrated_file.read_bytes())
    return make_site(folder, f"sqlite:///{folder / 'firstread.db'}")


@pytest.fixture(scope="module")
def study_id(site: Site) -> Any:
    return site.drafted(ct_study(3))


def addresses(site: Site, study_id: Any) -> dict[str, Any]:
    """What stands in an address, of the one Study there is."""
    with site.sessions() as db:
        instance = db.scalars(select(Instance).where(Instance.study_id == study_id)).first()
        assert instance is not None
        study, series = db.get_one(Study, study_id), db.get_one(Series, instance.series_id)
    return {
        "study_id": study_id, "series_id": series.id, "index": 0, "state": "FINAL", "seq": 1, "number": "1",
        "numbers": "1", "name": "7FE00010", "key": "outcomes", "kind": "DiagnosticReport",
        "study_uid": study.study_instance_uid, "series_uid": series.series_instance_uid,
        "sop_uid": instance.sop_instance_uid,
    }  # fmt: skip


def events_of(sessions: sessionmaker[Session], after: int = 0) -> list[AuditEvent]:
    with sessions() as db:
        return list(db.scalars(select(AuditEvent).where(AuditEvent.seq > after).order_by(AuditEvent.seq)))


def last(sessions: sessionmaker[Session]) -> int:
    found = events_of(sessions)
    return found[-1].seq if found else 0


def _who(endpoint: str) -> Role | None:
    may = ALLOWED.get(("GET", endpoint), {Role.AUDITOR})
    return next((role for role in ORDER if role in may), None)


def _shown(site: Site, values: dict[str, Any]) -> Iterator[tuple[str, list[str], int]]:
    """Ask for each page and part by itself, as the first of a session; yield what was written."""
    browsers = {role: site.client(role.value if role else "") for role in (None, *ORDER)}
    for rule in sorted(site.app.url_map.iter_rules(), key=str):
        if "GET" not in (rule.methods or ()) or rule.websocket:
            continue
        _forget_looks(site)
        with site.app.test_request_context():
            path = site.app.url_for(rule.endpoint, **{name: values.get(name, uuid4()) for name in rule.arguments})
        before = last(site.sessions)
        status = browsers[_who(rule.endpoint)].get(path).status_code
        yield f"GET {rule.endpoint}", [event.tag for event in events_of(site.sessions, before)], status


def _forget_looks(site: Site) -> None:
    """What was looked at before makes no second event; a new session would have a limit of logins to wait for."""
    site.app.extensions["firstread.looks"] = LruCache(64)
    site.app.extensions["firstread.dicomweb_record"] = Record()
    site.app.extensions["firstread.images"] = ImageShelf(site.settings, site.sessions)


def test_every_page_and_part_of_one_that_shows_a_patient_is_recorded(site: Site, study_id: Any) -> None:
    silent, talkative, seen = [], [], set()
    for name, tags, status in _shown(site, addresses(site, study_id)):
        line = ROUTES[name]
        seen.add(name) if status == 200 else None
        if isinstance(line, str):
            talkative += [name] if tags else []
        elif status == 200 and not set(tags) & {str(tag) for tag in line}:
            silent.append((name, tags))
    assert silent == [], "shown without a record"
    assert talkative == [], "db/audit_map.py says these write nothing"
    # most of them were really shown; the others need more than one draft to show anything
    shows = {name for name, line in ROUTES.items() if name.startswith("GET ") and not isinstance(line, str)}
    assert shows - seen <= {
        "GET critical.alert", "GET fhir.read", "GET priors.paper", "GET signoff.dispatch.show",
        "GET workitems.retrieve", "GET quality.table_csv", "GET oidc.callback",
    }  # fmt: skip


def test_a_part_is_recorded_once_and_not_beside_its_page(site: Site, study_id: Any) -> None:
    browser = site.client("radiologist")
    before = last(site.sessions)
    for _ in range(2):
        assert browser.get(f"/studies/{study_id}/questions").status_code == 200
        assert browser.get(f"/studies/{study_id}/annotations").status_code == 200
    (event,) = events_of(site.sessions, before)
    assert (event.tag, event.study_id, event.detail["part"]) == ("report:viewed", study_id, "asking.questions")
    other = site.client("radiologist")
    before = last(site.sessions)
    assert other.get(f"/studies/{study_id}").status_code == 200
    assert other.get(f"/studies/{study_id}/questions").status_code == 200
    assert [event.tag for event in events_of(site.sessions, before)] == ["report:viewed"]


def test_an_event_says_as_what_and_from_where_a_person_acted(site: Site, study_id: Any) -> None:
    before = last(site.sessions)
    browser = site.client("lead")
    browser.get(f"/studies/{study_id}", environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
    login, view = events_of(site.sessions, before)
    assert '"role":"lead"' in login.body
    assert ('"role":"lead"' in view.body, '"address":"192.0.2.7"' in view.body) == (True, True)


# --- without a record there is no act -----------------------------------------------------------------------

_REFUSE = """CREATE TRIGGER nothing_is_recorded BEFORE INSERT ON audit_event
             BEGIN SELECT RAISE(ABORT, 'the record cannot be written'); END"""


@pytest.fixture
def unrecorded(site: Site) -> Iterator[None]:
    """The database refuses every event."""
    with site.sessions.begin() as db:
        db.execute(text(_REFUSE))
    yield
    with site.sessions.begin() as db:
        db.execute(text("DROP TRIGGER nothing_is_recorded"))


@pytest.fixture(scope="module")
def reader(site: Site) -> Browser:
    return site.client("radiologist")


def _contents(site: Site) -> dict[str, int]:
    """How many rows each table has, and the state of every report."""
    with site.sessions() as db:
        names = db.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table'")).all()
        counts = {name: db.scalars(text(f"SELECT count(*) FROM {name}")).one() for name in names}
        states = db.scalars(text("SELECT group_concat(state || version || sections) FROM report")).one()
    return {**counts, str(states): 0}


@pytest.mark.usefixtures("unrecorded")
@pytest.mark.parametrize("path", ["/worklist", "/studies/{}", "/studies/{}/report", "/studies/{}/questions",
                                  "/studies/{}/report.pdf", "/dicomweb/studies", "/fhir/DiagnosticReport"])  # fmt: skip
def test_what_cannot_be_recorded_is_not_shown(site: Site, study_id: Any, reader: Browser, path: str) -> None:
    answer = reader.get(path.format(study_id))
    assert answer.status_code >= 400
    assert "Halvorsen" not in answer.text
    assert "ACC-1001" not in answer.text


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/studies/{}/review", {}),
        ("/studies/{}/sections", {"version": "1", "findings": "Nothing."}),
        ("/studies/{}/take", {}),
        ("/studies/{}/critical", {}),
        ("/logout", {}),
    ],
)
def test_what_cannot_be_recorded_is_not_done(
    site: Site, study_id: Any, reader: Browser, request: pytest.FixtureRequest, path: str, fields: dict[str, str]
) -> None:
    token = reader.token("/account/password")
    request.getfixturevalue("unrecorded")
    before = _contents(site)
    reader.post(path.format(study_id), data={"csrf_token": token, **fields})
    assert _contents(site) == before


def test_nobody_logs_in_unrecorded(site: Site, request: pytest.FixtureRequest) -> None:
    browser = site.client()
    token = browser.token()
    request.getfixturevalue("unrecorded")
    form = {"csrf_token": token, "login": "lead", "password": "correct-horse-battery"}
    assert browser.post("/login", data=form).status_code >= 400
    assert browser.get("/worklist").status_code == 303
