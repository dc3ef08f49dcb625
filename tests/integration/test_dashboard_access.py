"""Who may open which page, and what keeps a session safe."""

import re
import stat
from http.cookies import SimpleCookie
from pathlib import Path
from uuid import uuid4

import pytest
from flask import request
from pydantic import SecretStr

from config.errors import ConfigurationError
from config.settings import Settings
from dashboard.app import create_app
from dashboard.passwords import hash_password
from dashboard.security import session_key
from db.report_models import UserAccount
from db.tokens import Scope, create_token
from db.types import Role
from db.uow import Actor, unit_of_work
from db.users import find_user
from tests.dashboard_support import PASSWORD, Browser, Site, ct_study, make_site

V, D, R, L, A, O = Role.VIEWER, Role.RESIDENT, Role.RADIOLOGIST, Role.LEAD, Role.ADMIN, Role.AUDITOR  # noqa: E741
EVERYBODY = {None, V, D, R, L, A, O}
LOGGED_IN = {V, D, R, L, A, O}
LISTS = {V, D, R, L, A}  # see the worklist
READS = {V, D, R, L, O}  # see reports and images
DRAFTS = {D, R, L}  # work on reports
FINAL = {R, L}  # make them final

# (method, endpoint) -> who gets past the guard; None is somebody not logged in. Written by hand, from the
# hospital's point of view, not from the application's table.
ALLOWED: dict[tuple[str, str], set[Role | None]] = {
    ("GET", "static"): EVERYBODY,
    ("GET", "home.alive"): EVERYBODY,
    ("GET", "home.ready"): EVERYBODY,
    ("GET", "auth.login"): EVERYBODY,
    ("POST", "auth.login_submit"): EVERYBODY,
    ("POST", "auth.logout"): LOGGED_IN,
    ("GET", "home.index"): LOGGED_IN,
    ("GET", "account.password"): LOGGED_IN,
    ("POST", "account.password_submit"): LOGGED_IN,
    ("GET", "oidc.start"): EVERYBODY,
    ("GET", "oidc.again"): EVERYBODY,
    ("GET", "oidc.callback"): EVERYBODY,
    ("POST", "passkeys.challenge"): EVERYBODY,
    ("POST", "passkeys.log_in"): EVERYBODY,
    ("GET", "passkeys.show"): LOGGED_IN,
    ("POST", "passkeys.options"): LOGGED_IN,
    ("POST", "passkeys.add"): LOGGED_IN,
    ("POST", "passkeys.remove"): LOGGED_IN,
    ("GET", "locking.state"): EVERYBODY,
    ("POST", "locking.unlock"): EVERYBODY,
    ("GET", "locking.show"): LOGGED_IN,
    ("GET", "locking.opened_page"): LOGGED_IN,
    ("POST", "locking.lock"): LOGGED_IN,
    ("GET", "breaking.index"): {L, O},
    ("GET", "breaking.ask"): {A},
    ("POST", "breaking.ask_submit"): {A},
    ("GET", "api_tokens.show"): {A},
    ("POST", "api_tokens.create"): {A},
    ("POST", "api_tokens.revoke"): {A},
    ("GET", "worklist.show"): LISTS,
    ("GET", "worklist.pulse"): LISTS,
    ("POST", "worklist.search"): LISTS,
    ("POST", "worklist.complete_now"): LISTS,
    ("POST", "worklist.keep"): LISTS,
    ("POST", "worklist.drop"): LISTS,
    ("POST", "assigning.take"): DRAFTS,
    ("POST", "assigning.leave"): DRAFTS,
    ("POST", "assigning.take_several"): DRAFTS,
    ("POST", "assigning.give"): {L},
    ("POST", "assigning.give_several"): {L},
    ("GET", "reading.show"): READS,
    ("GET", "reading.viewer"): READS,
    ("GET", "reading.report"): READS,
    ("GET", "report_file.report_pdf"): READS,
    ("GET", "report_file.assessment_json"): READS,
    ("GET", "images.slice_png"): READS,
    ("GET", "images.thumbnail"): READS,
    ("GET", "priors.paper"): READS,
    **{("GET", f"annotations.{view}"): READS for view in ("scene", "frames", "masks", "window", "kept")},
    ("POST", "annotations.keep"): DRAFTS,
    ("DELETE", "annotations.remove"): DRAFTS,
    ("POST", "reading.open_review"): DRAFTS,
    ("POST", "reading.release"): DRAFTS,
    ("POST", "reading.save"): DRAFTS,
    ("POST", "reading.decide"): DRAFTS,
    ("GET", "reading.editing.compare"): READS,
    ("POST", "reading.editing.accept"): DRAFTS,
    ("POST", "reading.editing.use_template"): DRAFTS,
    ("POST", "reading.editing.settle"): DRAFTS,
    ("POST", "reading.editing.restore"): DRAFTS,
    ("POST", "reading.editing.resolve"): DRAFTS,
    ("GET", "wording.show"): DRAFTS,
    ("POST", "wording.keep_macro"): DRAFTS,
    ("POST", "wording.drop_macro"): DRAFTS,
    ("POST", "wording.keep_site_macro"): {L},
    ("POST", "wording.keep_template"): {L},
    ("POST", "wording.drop_template"): {L},
    ("GET", "checking.show"): DRAFTS,
    ("POST", "checking.viewed"): DRAFTS,
    ("GET", "checking.session_state"): DRAFTS,
    ("GET", "signoff.dispatch.show"): READS,
    ("POST", "signoff.dispatch.stop"): DRAFTS,
    ("POST", "signoff.dispatch.release"): DRAFTS,
    ("GET", "signoff.sign"): FINAL,
    ("POST", "signoff.sign_submit"): FINAL,
    ("GET", "signoff.reject"): DRAFTS,
    ("POST", "signoff.reject_submit"): DRAFTS,
    ("POST", "asking.ask"): DRAFTS,
    ("GET", "asking.questions"): DRAFTS,
    ("POST", "asking.copy"): DRAFTS,
    ("POST", "asking.ask_redraft"): DRAFTS,
    ("GET", "asking.redrafts"): DRAFTS,
    ("POST", "asking.adopt"): DRAFTS,
    ("POST", "asking.discard"): DRAFTS,
    ("GET", "amendments.addendum"): FINAL,
    ("POST", "amendments.addendum_submit"): FINAL,
    ("GET", "amendments.correction"): FINAL,
    ("POST", "amendments.correction_submit"): FINAL,
    ("GET", "critical.show"): FINAL,
    ("GET", "critical.alert"): FINAL,
    ("GET", "critical.beat"): FINAL,
    ("POST", "critical.mark"): DRAFTS,
    ("POST", "critical.confirm"): FINAL,
    ("POST", "critical.dismiss"): FINAL,
    ("POST", "critical.communicate"): FINAL,
    ("POST", "critical.add_sentence"): DRAFTS,
    ("POST", "critical.send_again"): FINAL,
    ("GET", "critical.record"): {O},
    ("POST", "critical.record_search"): {O},
    ("GET", "problems.show"): {D, R, L, A},
    ("POST", "problems.process_again"): {A},
    ("POST", "problems.deliver_again"): {A},
    ("GET", "destinations.show"): {A},
    ("GET", "destinations.states"): {A},
    ("POST", "destinations.test"): {A},
    ("GET", "metrics.show"): {A},  # and this machine itself, and tokens of its scope
    ("GET", "rules.show"): {A},
    ("POST", "rules.judge"): {A},
    ("GET", "disk.show"): {A},
    ("GET", "self_test.show"): {A},
    ("GET", "self_test.steps"): {A},
    ("POST", "self_test.begin"): {A},
    ("GET", "models.show"): {A, L},
    ("POST", "models.propose"): {A},
    ("POST", "models.withdraw"): {A},
    ("POST", "models.decide"): {L},
    ("POST", "destinations.echo"): {A},
    ("GET", "queue.show"): {A},
    ("GET", "queue.rows"): {A},
    ("POST", "queue.mode"): {A},
    ("POST", "queue.act"): {A},
    ("GET", "trace.index"): {D, R, L, A, O},
    ("POST", "trace.search"): {D, R, L, A, O},
    ("GET", "trace.study"): {D, R, L, A, O},
    ("GET", "audit.index"): {O},
    ("POST", "audit.search"): {O},
    ("GET", "audit.study"): {O},
    **{("GET", f"quality.{view}"): {L, A, O} for view in ("show", "table_csv", "all_json")},
    ("GET", "admin.users"): {A},
    ("POST", "admin.create"): {A},
    ("POST", "admin.change"): {A},
    **{
        ("GET", f"dicomweb.{view}"): READS
        for view in ("search_studies", "search_series", "search_instances", "objects", "metadata", "frames", "bulkdata",
                     "rendered", "thumbnail")
    },
    ("POST", "dicomweb.store"): DRAFTS,
    **{
        ("GET", f"workitems.{view}"): READS
        for view in ("search_workitems", "retrieve", "open_channel", "not_a_channel")
    },
    ("POST", "workitems.subscribe"): READS,
    ("DELETE", "workitems.unsubscribe"): READS,
    ("POST", "workitems.suspend"): READS,
    ("POST", "workitems.create"): DRAFTS,
    ("POST", "workitems.update"): DRAFTS,
    ("PUT", "workitems.change_state"): DRAFTS,
    ("POST", "workitems.cancel_request"): DRAFTS,
    **{("GET", f"fhir.{view}"): READS for view in ("metadata", "search", "read", "unknown")},
    **{(method, "fhir.unknown"): READS for method in ("POST", "PUT", "PATCH", "DELETE")},
    **{("GET", f"fhir.{view}"): {O} for view in ("search_audit", "read_audit")},
}  # fmt: skip

UID_VALUES = {"index": 0, "seq": 1, "numbers": "1", "number": "1", "name": "7FE00010", "kind": "Patient",
              "state": "FINAL", "study_uid": "1.2.3", "series_uid": "1.2.4", "sop_uid": "1.2.5", "uid": "1.2.6",
              "ae_title": "MACHINE",
              "filename": "firstread.css", "rest": "Medication"}  # fmt: skip
LAST = ("locking.lock", "auth.logout")  # nothing can be asked after these
PROOFS = {"passkeys.log_in", "locking.unlock"}  # open to all, and what is sent here proves nothing: refused by the view
SCOPES = {Scope.READ: READS, Scope.WRITE: DRAFTS}  # behind the doors that take tokens


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def _routes(site: Site) -> list[tuple[str, str]]:
    return [
        (method, rule.endpoint)
        for rule in site.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    ]


def test_every_route_is_in_the_table_of_who_may_use_it(site: Site) -> None:
    assert set(_routes(site)) == set(ALLOWED)


@pytest.mark.parametrize("role", [None, V, D, R, L, A, O])
def test_each_role_passes_exactly_the_doors_of_its_work(site: Site, role: Role | None) -> None:
    study_id = site.drafted(ct_study(3))
    values = {
        "study_id": study_id,
        "series_id": site.series_id(study_id),
        "finding_id": uuid4(),
        "question_id": uuid4(),
        "redraft_id": uuid4(),
        "alert_id": uuid4(),
        "notice_id": uuid4(),
        "macro_id": uuid4(),
        "template_id": uuid4(),
        "annotation_id": uuid4(),
        "prior_id": uuid4(),
        "reading_id": uuid4(),
        "delivery_id": uuid4(),
        "user_id": uuid4(),
        "package_id": uuid4(),
        "list_id": uuid4(),
        "passkey_id": uuid4(),
        "index": 0,
        "state": "FINAL",
        "filename": "firstread.css",
        "study_uid": "1.2.3",
        "series_uid": "1.2.4",
        "sop_uid": "1.2.5",
        "numbers": "1",
        "number": "1",
        "name": "7FE00010",
        "kind": "Patient",
        "key": str(uuid4()),
        "seq": 1,
        "rest": "Medication",
        "uid": "1.2.6",
        "ae_title": role.value if role else "ANYBODY",
    }
    reached = set()
    site.app.before_request(lambda: reached.add((request.method, request.endpoint)))  # runs behind the guard
    browser = site.client(role.value if role else "")
    token = browser.token("/account/password")
    wrong = []
    for method, endpoint in sorted(ALLOWED, key=lambda door: LAST.index(door[1]) if door[1] in LAST else -1):
        rule = next(r for r in site.app.url_map.iter_rules() if r.endpoint == endpoint)
        with site.app.test_request_context():
            path = site.app.url_for(endpoint, **{name: values.get(name, uuid4()) for name in rule.arguments})
        form = {} if method == "GET" else {"data": {"csrf_token": token}}
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Origin": "http://localhost"}
        answer = browser.open(path, method=method, headers=upgrade if rule.websocket else {}, **form)
        to_login = answer.status_code == 303 and answer.headers["Location"].startswith("/login")
        passed = answer.status_code != 403 and not to_login and "WWW-Authenticate" not in answer.headers
        if endpoint in PROOFS:
            passed = (method, endpoint) in reached
        if endpoint == "auth.logout":
            passed = "user:logout" in site.tags()
        if passed != (role in ALLOWED[method, endpoint]):
            wrong.append((method, endpoint, answer.status_code))
    assert wrong == []


def test_a_service_has_no_login_even_with_a_password(site: Site) -> None:
    with site.sessions.begin() as db:
        machine = UserAccount(
            login="robot", printed_name="Robot", role=Role.SERVICE, password_hash=hash_password(PASSWORD)
        )
        db.add(machine)
    assert site.client().log_in("robot").status_code == 401
    assert site.tags(actor="robot") == ["user:login_failed"]
    answer = site.client("admin").submit("/users", login="robot2", printed_name="Robot", role="service")
    assert answer.status_code == 400


@pytest.mark.parametrize("scope", list(Scope))
def test_a_token_passes_exactly_the_doors_of_its_scope(site: Site, scope: Scope) -> None:
    with unit_of_work(site.sessions, Actor("admin", "person")) as uow:
        token = create_token(uow, name="MACHINE", scopes=[scope], days=1)
    machine = site.app.test_client()
    passed = set()
    for rule in site.app.url_map.iter_rules():
        values = {name: UID_VALUES.get(name, str(uuid4())) for name in rule.arguments}
        if rule.websocket or rule.endpoint.endswith(".open_channel"):
            continue
        with site.app.test_request_context():
            path = site.app.url_for(rule.endpoint, **values)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            answer = machine.open(path, method=method, headers={"Authorization": f"Bearer {token}"})
            to_login = answer.status_code == 303 and answer.headers["Location"].startswith("/login")
            if answer.status_code not in {400, 401, 403} and not to_login:
                passed.add((method, rule.endpoint))
    doors = {
        (method, endpoint)
        for (method, endpoint), who in ALLOWED.items()
        if endpoint.partition(".")[0] in {"dicomweb", "fhir", "workitems"}
        and who == SCOPES.get(scope, set())
        and not endpoint.endswith(".open_channel")
    }
    public = {door for door, who in ALLOWED.items() if who == EVERYBODY}
    assert {door for door in passed - public if not door[1].startswith("metrics.")} <= doors
    assert {door for door in doors if door[0] == "GET"} <= passed
    assert any(door[1].startswith("metrics.") for door in passed) <= (scope is Scope.METRICS)


def test_a_refused_door_is_on_the_record(site: Site) -> None:
    assert site.client("admin").get("/audit").status_code == 403
    assert site.tags(actor="admin", outcome="failure") == ["access:refused"]


def test_a_form_without_its_token_changes_nothing(site: Site) -> None:
    browser = site.client("admin")
    answer = browser.post("/users", data={"login": "x", "printed_name": "X", "role": "admin"})
    assert answer.status_code == 400
    with site.sessions() as db:
        assert find_user(db, "x") is None


def test_every_form_of_every_page_carries_a_token(site: Site) -> None:
    study_id = site.drafted(ct_study(3))
    reader, admin, auditor = site.client("radiologist"), site.client("admin"), site.client("auditor")
    reader.submit(f"/studies/{study_id}/review")
    pages = [
        site.client().get("/login").text,
        *(reader.get(p).text for p in ("/worklist", f"/studies/{study_id}", f"/studies/{study_id}/sign/FINAL",
                                       f"/studies/{study_id}/reject", "/account/password")),
        *(admin.get(p).text for p in ("/users", "/problems", "/worklist?tab=no_draft")),
        auditor.get("/audit").text,
    ]  # fmt: skip
    forms = [form for page in pages for form in re.findall(r"<form[^>]*method=\"post\".*?</form>", page, re.S)]
    assert len(forms) > 20
    assert [form for form in forms if 'name="csrf_token"' not in form] == []


def test_every_answer_forbids_scripts_from_elsewhere_and_storing_pages(site: Site) -> None:
    page = site.client("radiologist").get("/worklist")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Cache-Control"] == "no-store"
    assert re.findall(r"<script(?![^>]*\bsrc=)|\bstyle=|\bon\w+=\"", page.text) == []


def test_the_session_cookie_is_hidden_from_scripts_and_other_sites(site: Site) -> None:
    cookie = SimpleCookie(Browser(site.app).get("/login").headers["Set-Cookie"])["firstread"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"


def test_with_tls_the_cookie_is_secure_and_bound_to_the_host(tmp_path: Path, site: Site) -> None:
    certificate = {"tls_certificate": tmp_path / "c.pem", "tls_key": tmp_path / "k.pem"}
    app = create_app(Settings(data_dir=tmp_path, web=certificate), site.sessions)
    answer = Browser(app).get("/login", base_url="https://localhost")
    assert re.match(r"__Host-firstread=.*; Secure; HttpOnly; Path=/; SameSite=Lax", answer.headers["Set-Cookie"])
    assert "max-age" in answer.headers["Strict-Transport-Security"]


def test_failed_logins_lock_the_account_even_for_the_right_password(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url, web={"lockout_failures": 3})
    browser = site.client()
    assert [browser.log_in("radiologist", "wrong").status_code for _ in range(3)] == [401] * 3
    assert browser.log_in("radiologist").status_code == 401
    assert "user:locked_out" in site.tags()
    assert site.one(UserAccount, login="radiologist").locked_until is not None


def test_an_unknown_login_is_refused_with_the_same_words_and_not_kept(site: Site) -> None:
    browser = site.client()
    unknown, wrong = browser.log_in("hunter2-typed-into-login", "x"), browser.log_in("radiologist", "x")
    words = re.compile(r'role="alert">([^<]+)<')
    assert words.search(unknown.text)[1] == words.search(wrong.text)[1]  # type: ignore[index]
    assert site.tags(actor="hunter2-typed-into-login") == []
    assert site.tags(actor="unknown") == ["user:login_failed"]


@pytest.mark.parametrize("elsewhere", ["https://evil.test/", "//evil.test", "/\\evil.test", "javascript:alert(1)"])
def test_a_login_never_leads_to_another_site(site: Site, elsewhere: str) -> None:
    answer = site.client().log_in("radiologist", next=elsewhere)
    assert answer.headers["Location"] == "/"


def test_a_login_leads_back_to_the_page_that_was_asked_for(site: Site) -> None:
    browser = site.client()
    asked = browser.get("/problems")
    assert asked.headers["Location"] == "/login?next=/problems"
    assert browser.log_in("radiologist", next="/problems").headers["Location"] == "/problems"


def test_a_copied_cookie_is_worth_nothing_after_logout(site: Site) -> None:
    browser = site.client("radiologist")
    stolen = browser.get_cookie("firstread")
    assert stolen is not None
    browser.submit("/logout")
    thief = Browser(site.app)
    thief.set_cookie("firstread", stolen.value)
    assert thief.get("/worklist").headers["Location"].startswith("/login")


def test_a_session_without_requests_ends_and_polling_does_not_keep_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = site.client("radiologist")
    now = {"t": 0.0}
    import time as clock

    real = clock.time
    monkeypatch.setattr("dashboard.people.time.time", lambda: real() + now["t"])
    for minute in range(1, 30):
        now["t"] = minute * 60.0
        assert browser.get("/worklist/pulse").status_code == 200
    now["t"] = 31 * 60.0
    assert browser.get("/worklist/pulse").status_code == 303
    again = site.client("radiologist")
    now["t"] += 20 * 60.0
    assert again.get("/worklist").status_code == 200
    now["t"] += 20 * 60.0
    assert again.get("/worklist").status_code == 200  # real work did keep it


def test_a_closed_account_is_out_at_once(site: Site) -> None:
    browser = site.client("radiologist")
    reader = site.one(UserAccount, login="radiologist").id
    assert site.client("admin").submit(f"/users/{reader}", act="close").status_code == 200
    assert browser.get("/worklist").headers["Location"].startswith("/login")


def test_changing_the_password_ends_every_other_session(site: Site) -> None:
    here, there = site.client("radiologist"), site.client("radiologist")
    new = "another-long-password"
    assert here.submit("/account/password", current=PASSWORD, new="short", again="short").status_code == 400
    assert here.submit("/account/password", current="wrong", new=new, again=new).status_code == 400
    assert here.submit("/account/password", current=PASSWORD, new=new, again=new).status_code == 303
    assert here.get("/worklist").status_code == 200
    assert there.get("/worklist").headers["Location"].startswith("/login")
    assert site.client().log_in("radiologist").status_code == 401
    assert site.client().log_in("radiologist", new).status_code == 303


def test_the_session_key_is_made_once_and_readable_by_us_alone(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    key = session_key(settings)
    assert len(key) >= 32
    assert session_key(settings) == key
    assert stat.S_IMODE((tmp_path / "session_secret").stat().st_mode) == 0o600


def test_a_weak_session_secret_stops_the_process(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="32"):
        session_key(Settings(data_dir=tmp_path, session_secret=SecretStr("short")))
