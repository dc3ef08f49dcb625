"""Accounts, locks, break-glass, tokens and rates, as the server keeps them."""

import importlib.util
import io
import re
from datetime import timedelta
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from sqlalchemy import select

from config.errors import LifecycleError, RefusedInputError
from config.logs import configure_logs
from db.identity_models import BreakGlass
from db.lifecycle.breaking import break_glass, open_grant
from db.models import AuditEvent, Study
from db.passkeys import add_passkey, count_use, passkeys_of, remove_passkey
from db.report_models import UserAccount
from db.token_models import ApiToken
from db.tokens import find_bearer
from db.types import Role, utcnow
from db.uow import Actor, unit_of_work
from db.users import set_active, set_role
from tests.dashboard_support import PASSWORD, Browser, Site, ct_study, make_site

ROOT = Path(__file__).resolve().parents[2]
REASON = "Vendor asks for a screenshot, ticket 4711"
JSON = {"Accept": "application/json"}


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def actor(site: Site, login: str) -> Actor:
    return Actor(login, "person", site.one(UserAccount, login=login).id)


def lock(browser: Browser) -> str:
    """Lock the session; return the mark its forms carry."""
    token = browser.token("/passkeys")
    assert browser.post("/lock", data={"csrf_token": token}).status_code == 303
    return token


# --- accounts


@pytest.mark.requirement("REQ-ACCESS-7")
def test_an_administrator_gives_another_role_and_the_sessions_of_it_end(site: Site) -> None:
    reader, admin = site.client("resident"), site.client("admin")
    key = site.one(UserAccount, login="resident").id
    assert admin.submit(f"/users/{key}", act="role", role="radiologist").status_code == 200
    assert site.one(UserAccount, login="resident").role is Role.RADIOLOGIST
    assert reader.get("/problems").headers["Location"].startswith("/login")
    assert "user:role_changed" in site.tags(actor="admin", object_id=str(key))
    for role in ("service", "chief", ""):
        assert admin.submit(f"/users/{key}", act="role", role=role).status_code == 400


def test_the_last_open_administrator_stays(site: Site) -> None:
    only = site.one(UserAccount, login="admin").id
    other = site.user("second", Role.ADMIN)
    node = Actor("node", "process")
    with unit_of_work(site.sessions, node) as uow:
        set_active(uow, other, False)
    for attempt in (lambda u: set_active(u, only, False), lambda u: set_role(u, only, Role.VIEWER)):
        with pytest.raises(LifecycleError, match="last open administrator"), unit_of_work(site.sessions, node) as uow:
            attempt(uow)
    with unit_of_work(site.sessions, node) as uow:
        set_active(uow, other, True)
        set_role(uow, only, Role.VIEWER)
    assert site.one(UserAccount, login="admin").role is Role.VIEWER


def test_a_password_is_not_the_login_again(site: Site) -> None:
    browser = site.client("radiologist")
    for new in ("radiologist-1", "Radiologist12", "aaaaaaaaaaaaaa", "abababababab"):
        answer = browser.submit("/account/password", current=PASSWORD, new=new, again=new)
        assert answer.status_code == 400
        assert "Not changed" in answer.text
    long = "radiologist reads at night"
    assert browser.submit("/account/password", current=PASSWORD, new=long, again=long).status_code == 303


def test_a_login_with_a_hash_of_weaker_parameters_keeps_the_session_and_renews_the_hash(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboard.passwords._hasher", PasswordHasher())
    browser = site.client("radiologist")
    assert browser.get("/worklist").status_code == 200
    assert "m=65536" in site.one(UserAccount, login="radiologist").password_hash


@pytest.mark.requirement("REQ-ACCESS-5")
def test_passwords_are_kept_as_argon2id_of_the_recommended_cost() -> None:
    # RFC 9106 section 4, second recommended option: 64 MiB, 3 passes, 4 lanes
    found = importlib.util.find_spec("dashboard.passwords")
    assert found is not None
    assert found.loader is not None
    shipped = importlib.util.module_from_spec(found)  # the tests' own is cheaper
    found.loader.exec_module(shipped)
    assert shipped.hash_password(PASSWORD).startswith("$argon2id$v=19$m=65536,t=3,p=4$")


# --- the screen lock


@pytest.mark.requirement("REQ-ACCESS-3")
def test_a_locked_session_is_refused_everything_until_its_owner_unlocks_it(site: Site) -> None:
    study_id = site.drafted(ct_study(2))
    browser = site.client("radiologist")
    token = lock(browser)
    assert browser.get(f"/studies/{study_id}").headers["Location"] == f"/lock?next=/studies/{study_id}"
    assert "Halvorsen" not in browser.get("/lock").text
    assert browser.get("/worklist/pulse", headers={"HX-Request": "true"}).status_code == 423
    assert browser.get("/dicomweb/studies").status_code == 423
    saved = browser.post(f"/studies/{study_id}/sections", data={"csrf_token": token, "version": 1})
    assert saved.status_code == 423
    form = {"csrf_token": token, "login": "radiologist"}
    assert browser.post("/lock/open", data={**form, "password": "wrong"}, headers=JSON).status_code == 403
    assert (
        browser.post("/lock/open", data={**form, "login": "admin", "password": PASSWORD}, headers=JSON).status_code
        == 403
    )
    assert browser.get("/problems").status_code == 303
    opened = browser.post("/lock/open", data={**form, "password": PASSWORD}, headers=JSON)
    assert (opened.status_code, opened.json["locked"], opened.json["login"]) == (200, False, "radiologist")
    assert browser.get("/problems").status_code == 200
    tags = site.tags(actor="radiologist", object_id=str(site.one(UserAccount, login="radiologist").id))
    assert tags == [
        "user:login",
        "user:screen_locked",
        "user:reauthentication_failed",
        "user:reauthenticated",
        "user:screen_unlocked",
    ]


def test_a_cookie_from_before_the_lock_is_locked_too(site: Site) -> None:
    browser = site.client("radiologist")
    before = browser.get_cookie("firstread")
    assert before is not None
    lock(browser)
    copy = Browser(site.app)
    copy.set_cookie("firstread", before.value)
    assert copy.get("/problems").headers["Location"].startswith("/lock")


def test_the_lock_works_without_a_script_and_logging_out_is_open(site: Site) -> None:
    browser = site.client("radiologist")
    token = lock(browser)
    page = browser.get("/lock?next=/problems").text
    assert 'name="next" value="/problems"' in page
    form = {"csrf_token": token, "login": "radiologist", "next": "/problems"}
    answer = browser.post("/lock/open", data={**form, "password": PASSWORD})
    assert answer.headers["Location"] == "/problems"
    token = lock(browser)
    assert browser.post("/logout", data={"csrf_token": token}).headers["Location"] == "/login"


def test_a_session_that_ended_is_begun_again_by_the_same_door(site: Site) -> None:
    browser = site.client("radiologist")
    browser.delete_cookie("firstread")
    refused = browser.get("/worklist/pulse", headers={"HX-Request": "true"})
    assert refused.status_code == 401
    assert "your text stays" in refused.text
    assert browser.get("/problems", headers={"Sec-Fetch-Mode": "cors"}).status_code == 401
    state = browser.get("/lock/state").json
    assert (state["login"], state["locked"]) == ("", False)
    form = {"csrf_token": state["csrf"], "login": "radiologist", "password": PASSWORD}
    answer = browser.post("/lock/open", data=form, headers=JSON)
    assert answer.json["login"] == "radiologist"
    again = browser.post("/account/password", data={"csrf_token": answer.json["csrf"], "new": "a", "again": "b"})
    assert again.status_code == 400
    assert "differ" in again.text


@pytest.mark.requirement("REQ-ACCESS-4")
def test_another_site_cannot_send_a_form_whatever_it_carries(site: Site) -> None:
    browser = site.client("radiologist")
    token = browser.token("/passkeys")
    for origin, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 303), ("none", 303)):
        answer = browser.post("/lock", data={"csrf_token": token}, headers={"Sec-Fetch-Site": origin})
        assert answer.status_code == status


# --- break-glass


@pytest.mark.requirement("REQ-ACCESS-6")
def test_breaking_the_glass_opens_one_study_for_reading_and_every_page_is_on_record(site: Site) -> None:
    study_id, other = site.drafted(ct_study(2)), site.drafted(ct_study(2, PatientID="P-2", AccessionNumber="ACC-2"))
    admin = site.client("admin")
    closed = admin.get(f"/studies/{study_id}")
    assert closed.status_code == 403
    assert "state why" in closed.text
    assert "Halvorsen" not in closed.text
    assert admin.submit(f"/break-glass/{study_id}", reason="because").status_code == 400
    assert admin.get(f"/studies/{study_id}").status_code == 403
    answer = admin.submit(f"/break-glass/{study_id}", reason=REASON)
    assert answer.headers["Location"] == f"/studies/{study_id}"
    opened = admin.get(f"/studies/{study_id}")
    assert opened.status_code == 200
    assert "Halvorsen" in opened.text.replace("HALVORSEN", "Halvorsen")
    assert "Break-glass access" in admin.get("/problems").text
    series = site.series_id(study_id)
    assert admin.get(f"/studies/{study_id}/series/{series}/slices/0.png").status_code in {200, 404}
    uid = site.one(Study, id=study_id).study_instance_uid
    assert admin.get(f"/dicomweb/studies/{uid}/metadata").status_code == 200
    # one study, and reading only
    assert admin.get(f"/studies/{other}").status_code == 403
    assert admin.submit(f"/studies/{study_id}/review").status_code == 403
    assert admin.get("/dicomweb/studies").status_code == 403
    grant = site.one(BreakGlass, study_id=study_id)
    assert grant.reason == REASON
    with site.sessions() as db:
        looks = db.scalars(select(AuditEvent).where(AuditEvent.actor == "admin", AuditEvent.study_id == study_id)).all()
    with_grant = {one.tag for one in looks if one.detail.get("break_glass") == str(grant.id)}
    assert {"access:glass_used", "report:viewed"} <= with_grant
    assert any(tag.startswith("dicomweb:") for tag in with_grant)
    for reviewer in ("lead", "auditor"):
        listed = site.client(reviewer).get("/break-glass").text
        assert '<a href="/break-glass" aria-current="page">Break-glass</a>' in listed  # in the menu
        assert REASON in listed
        assert "ACC-1001" in listed
    assert site.client("radiologist").submit(f"/break-glass/{study_id}", reason=REASON).status_code == 403


@pytest.mark.requirement("REQ-ACCESS-6")
def test_a_grant_ends_by_itself_and_asks_for_a_reason_again(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url)
    study_id = site.drafted(ct_study(2))
    admin = actor(site, "admin")
    with unit_of_work(site.sessions, admin) as uow:
        ended = break_glass(uow, study_id, reason=REASON, lasts_s=-1)
        assert ended.expires_at < utcnow()
    assert site.client("admin").get(f"/studies/{study_id}").status_code == 403
    with unit_of_work(site.sessions, admin) as uow, pytest.raises(RefusedInputError):
        break_glass(uow, study_id, reason=" " * 40, lasts_s=60)
    with unit_of_work(site.sessions, admin) as uow:
        break_glass(uow, study_id, reason=REASON, lasts_s=60)
        break_glass(uow, study_id, reason=f"{REASON}, second call", lasts_s=600)
    with site.sessions() as db:
        found = open_grant(db, admin.user_id, study_id=study_id)  # type: ignore[arg-type]
        assert found is not None
        assert found.expires_at - utcnow() > timedelta(seconds=500)
        assert open_grant(db, actor(site, "radiologist").user_id, study_id=study_id) is None  # type: ignore[arg-type]
    assert site.tags(tag="access:glass_broken") == ["access:glass_broken"] * 3


# --- passkeys, as the database keeps them (the ceremony itself: test_identity_browser.py)


def test_a_passkey_whose_counter_does_not_grow_is_refused_and_recorded(site: Site) -> None:
    owner, stranger = actor(site, "radiologist"), actor(site, "resident")
    with unit_of_work(site.sessions, owner) as uow:
        key = add_passkey(uow, credential_id="abc", public_key=b"k", sign_count=4, name="Key", backed_up=False)
    with unit_of_work(site.sessions, owner) as uow:
        assert [count_use(uow, key, count, backed_up=False) for count in (5, 5, 4, 0, 6)] == [
            True,
            False,
            False,
            False,
            True,
        ]
    assert site.tags(tag="passkey:cloned") == ["passkey:cloned"] * 3
    with pytest.raises(RefusedInputError), unit_of_work(site.sessions, stranger) as uow:
        remove_passkey(uow, key)
    with unit_of_work(site.sessions, owner) as uow:
        remove_passkey(uow, key)
    with site.sessions() as db:
        assert passkeys_of(db, owner.user_id) == []  # type: ignore[arg-type]
    with pytest.raises(LifecycleError), unit_of_work(site.sessions, stranger) as uow:
        add_passkey(uow, credential_id="abc", public_key=b"k", sign_count=0, name="Key", backed_up=False)


@pytest.mark.parametrize(
    "given", ["", "x", "[]", "{}", '{"id": "x", "response": {"clientDataJSON": "e30"}}', '{"id": 1}']
)
def test_what_is_no_passkey_is_refused(site: Site, given: str) -> None:
    browser = site.client()
    answer = browser.post("/passkeys/login", data={"csrf_token": browser.token(), "passkey": given})
    assert answer.headers["Location"].startswith("/login")
    reader = site.client("radiologist")
    added = reader.submit("/passkeys/add", name="Key", passkey=given)
    assert added.status_code == 400


# --- tokens


def test_a_token_is_made_shown_once_used_and_revoked_on_the_page(site: Site) -> None:
    admin = site.client("admin")
    page = admin.submit("/tokens", name="OHIF", scope="read", days="30").text
    found = re.search(r'id="new-token">([^<]+)<', page)
    assert found is not None
    assert found[1] not in admin.get("/tokens").text
    header = {"Authorization": f"Bearer {found[1]}"}
    machine = site.app.test_client()
    assert machine.get("/dicomweb/studies", headers=header).status_code == 204
    assert site.one(ApiToken, name="OHIF").created_by == "admin"
    assert timedelta(days=29) < site.one(ApiToken, name="OHIF").expires_at - utcnow() <= timedelta(days=30)
    assert admin.submit("/tokens/revoke", name="OHIF").status_code == 200
    assert machine.get("/dicomweb/studies", headers=header).status_code == 401
    with site.sessions() as db:
        assert find_bearer(db, found[1]) is None
    for wrong in ({"scope": "all"}, {"days": "0"}, {"days": "x"}, {"name": "a b"}, {"name": "OHIF"}):
        assert admin.submit("/tokens", **{"name": "NEW", "scope": "read", "days": "1", **wrong}).status_code in {
            400,
            409,
        }


# --- rates


def test_too_many_logins_from_one_address_wait(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url, identity={"login_rate": "3 per minute"}, web={"lockout_failures": 50})
    browser = site.client()
    assert [browser.log_in("nobody", "x").status_code for _ in range(4)] == [401, 401, 401, 429]
    answer = browser.log_in("radiologist")
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 61
    assert "Too many requests" in answer.text
    elsewhere = Browser(site.app)
    elsewhere.environ_base = {"REMOTE_ADDR": "10.0.0.9"}
    token = re.search(
        r'name="csrf_token" value="([^"]+)"', elsewhere.get("/login", environ_base=elsewhere.environ_base).text
    )
    assert token is not None
    form = {"csrf_token": token[1], "login": "radiologist", "password": PASSWORD}
    assert elsewhere.post("/login", data=form, environ_base=elsewhere.environ_base).status_code == 303


def test_too_many_requests_of_one_session_wait_and_files_and_monitors_are_free(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url, identity={"request_rate": "12 per minute"})
    one, other = site.client("radiologist"), site.client("resident")
    answers = [one.get("/problems") for _ in range(14)]
    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert other.get("/problems").status_code == 200
    assert one.get("/livez").status_code == 200
    assert one.get("/static/identity.css").status_code == 200


# --- nothing of a patient in addresses or logs


@pytest.mark.requirement("REQ-PRIV-2")
def test_no_address_has_a_place_for_patient_data(site: Site) -> None:
    # the keys of DICOMweb and FHIR searches are the standards', and their clients' to choose
    standard = {"dicomweb", "fhir"}
    ours = [rule for rule in site.app.url_map.iter_rules() if rule.endpoint.partition(".")[0] not in standard]
    suspect = re.compile(r"patient|birth|mrn|person_name|accession|password|text|reason|search", re.I)
    assert [str(rule) for rule in ours for name in rule.arguments if suspect.search(name)] == []
    links = []
    for page in (ROOT / "dashboard" / "templates").glob("*.html"):
        for call in re.findall(r"url_for\(([^{}]*?)\)", page.read_text(encoding="utf-8")):
            links += [(page.name, name) for name in re.findall(r"(\w+)=", call) if suspect.search(name)]
        for form in re.findall(
            r"<form(?![^>]*method=\"(?:post|dialog)\")[^>]*>.*?</form>", page.read_text("utf-8"), re.S
        ):
            links += [(page.name, name) for name in re.findall(r'name="(\w+)"', form) if suspect.search(name)]
    assert links == []


def test_a_journey_through_the_pages_of_people_leaves_no_patient_and_no_secret_in_the_log(site: Site) -> None:
    stream = io.StringIO()
    configure_logs(level="DEBUG", json=False, process="web", stream=stream)
    study_id = site.drafted(ct_study(2))
    admin, reader = site.client("admin"), site.client("radiologist")
    admin.submit(f"/break-glass/{study_id}", reason="Halvorsen^Ingrid asked for her images")
    admin.get(f"/studies/{study_id}")
    token = re.search(r'id="new-token">([^<]+)<', admin.submit("/tokens", name="T", scope="read", days="1").text)
    assert token is not None
    reader.submit(f"/studies/{study_id}/review")
    lock(reader)
    reader.post("/lock/open", data={"login": "radiologist", "password": "hunter2-hunter2"})
    reader.get(f"/studies/{study_id}")
    reader.log_in("Halvorsen", "hunter2-hunter2")
    site.client("auditor").get("/break-glass")
    said = stream.getvalue()
    for secret in ("Halvorsen", "Ingrid", "P-1001", "19580214", "ACC-1001", "hunter2", token[1], PASSWORD):
        assert secret not in said
