"""Who may open which page."""

import re
from pathlib import Path
from uuid import uuid4

import pytest
from flask import request

from dashboard.passwords import hash_password
from db.report_models import UserAccount
from db.tokens import Scope, create_token
from db.types import Role
from db.uow import Actor, unit_of_work
from db.users import find_user
from tests.dashboard_support import PASSWORD, Site, ct_study, make_site

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
    ("POST", "reading.without_ai.start"): DRAFTS,
    ("POST", "reading.without_ai.put_back_report"): DRAFTS,
    ("GET", "reading.without_ai.late_draft"): DRAFTS,
    ("POST", "reading.without_ai.take"): DRAFTS,
    ("POST", "reading.without_ai.leave"): DRAFTS,
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
    ("POST", "problems.tell_again"): {A},
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
    ("GET", "audit.index"): {L, O},
    ("GET", "audit.question"): {L, O},
    ("POST", "audit.answer"): {L, O},
    ("POST", "audit.export"): {L, O},
    ("POST", "audit.verify"): {O},
    ("GET", "audit.events.show"): {O},
    ("POST", "audit.events.answer"): {O},
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


@pytest.mark.requirement("REQ-ACCESS-1")
def test_every_route_is_in_the_table_of_who_may_use_it(site: Site) -> None:
    assert set(_routes(site)) == set(ALLOWED)


@pytest.mark.requirement("REQ-ACCESS-1")
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


@pytest.mark.requirement("REQ-AUDIT-5")
def test_a_refused_door_is_on_the_record(site: Site) -> None:
    assert site.client("admin").get("/audit").status_code == 403
    assert site.tags(actor="admin", outcome="failure") == ["access:refused"]


@pytest.mark.requirement("REQ-ACCESS-4")
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


@pytest.mark.requirement("REQ-ACCESS-4")
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
