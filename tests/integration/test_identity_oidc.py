"""Single sign-on against a real OpenID Connect provider."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.sessions import SecureCookieSessionInterface
from sqlalchemy import select

from config.logs import configure_logs
from db.models import AuditEvent
from db.report_models import UserAccount
from db.types import AccountSource, Role
from tests.dashboard_support import Browser, Site, ct_study, make_site
from tests.oidc_support import OidcProvider, running_provider

NINA = {"name": "Nina Reader", "preferred_username": "Nina", "groups": ["staff", "readers"]}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProvider]:
    with running_provider(tmp_path_factory.mktemp("oidc")) as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str, provider: OidcProvider) -> Site:
    provider.people({"nina": NINA})
    return make_site(tmp_path, sqlite_url, identity={"oidc": provider.settings()})


def start(browser: Browser, path: str = "/oidc/start") -> str:
    answer = browser.get(path)
    assert answer.status_code == 302, answer.text
    return answer.headers["Location"]


def log_in(site: Site, provider: OidcProvider, login: str = "nina", path: str = "/oidc/start") -> Browser:
    browser = site.client()
    answer = browser.get(provider.log_in(start(browser, path), login))
    assert answer.status_code == 303, answer.text
    return browser


def signer(site: Site) -> Any:
    return SecureCookieSessionInterface().get_signing_serializer(site.app)


def session_of(browser: Browser, site: Site) -> dict[str, Any]:
    cookie = browser.get_cookie("firstread")
    assert cookie is not None
    return dict(signer(site).loads(cookie.value))


def reasons(site: Site) -> list[str]:
    with site.sessions() as db:
        failures = db.scalars(select(AuditEvent).where(AuditEvent.tag == "user:login_failed")).all()
    return [str(one.detail["reason"]) for one in failures]


def test_the_request_carries_state_nonce_and_a_pkce_challenge(site: Site, provider: OidcProvider) -> None:
    asked = start(site.client())
    assert asked.startswith(f"{provider.issuer}/auth?")
    for part in ("state=", "nonce=", "code_challenge=", "code_challenge_method=S256", "response_type=code"):
        assert part in asked
    assert 'href="/oidc/start"' in site.client().get("/login").text


def test_a_first_login_makes_an_account_without_a_password_and_the_role_follows(
    site: Site, provider: OidcProvider
) -> None:
    browser = log_in(site, provider, path="/oidc/start?next=/passkeys")
    made = site.one(UserAccount, login="nina")
    assert (made.role, made.source, made.password_hash, made.printed_name) == (
        Role.RADIOLOGIST,
        AccountSource.OIDC,
        "",
        "Nina Reader",
    )
    assert browser.get("/problems").status_code == 200
    assert site.client().log_in("nina", "").status_code == 401
    provider.people({"nina": {**NINA, "name": "Nina R.", "groups": ["heads", "readers"]}})
    log_in(site, provider)
    assert site.one(UserAccount, login="nina").role is Role.LEAD
    assert browser.get("/problems").headers["Location"].startswith("/login")  # the other role ended it
    assert site.tags(object_id=str(made.id)) == [
        "user:created",
        "user:login",
        "user:login_failed",
        "user:role_changed",
        "user:login",
    ]
    answer = site.client("admin").submit(f"/users/{made.id}", act="role", role="admin")
    assert answer.status_code == 400
    assert site.client("admin").submit(f"/users/{made.id}", act="password").status_code == 400
    site.client("admin").submit(f"/users/{made.id}", act="close")
    closed = site.client()
    assert closed.get(provider.log_in(start(closed), "nina")).headers["Location"].startswith("/login")
    assert closed.get("/problems").status_code == 303


def test_who_is_in_no_group_or_has_somebody_elses_login_is_refused_in_words(site: Site, provider: OidcProvider) -> None:
    provider.people({
        "gus": {**NINA, "preferred_username": "gus", "groups": ["visitors"]},
        "eve": {**NINA, "preferred_username": "Radiologist"},
    })  # fmt: skip
    for login, words, reason in (
        ("gus", "in none of the groups", "in no group"),
        ("eve", "has your login", "login taken"),
    ):
        browser = site.client()
        answer = browser.get(provider.log_in(start(browser), login))
        assert answer.status_code == 403
        assert words in answer.text
        assert reasons(site)[-1] == reason
        assert browser.get("/problems").status_code == 303
    with site.sessions() as db:
        assert db.scalars(select(UserAccount).where(UserAccount.source == AccountSource.OIDC)).all() == []


@pytest.mark.requirement("REQ-ACCESS-8")
@pytest.mark.parametrize("how", ["payload", "none", "hmac"])
def test_a_token_that_the_provider_did_not_sign_is_refused(site: Site, provider: OidcProvider, how: str) -> None:
    provider.people({"nina": {**NINA, "tamper": how}})
    stream = io.StringIO()
    configure_logs(level="DEBUG", json=False, process="web", stream=stream)
    browser = site.client()
    answer = browser.get(provider.log_in(start(browser), "nina"))
    assert answer.status_code == 403
    assert "did not work" in answer.text
    assert "Nina" not in answer.text
    assert browser.get("/problems").status_code == 303
    assert "oidc.refused" in stream.getvalue()
    assert "nina" not in stream.getvalue().lower()


@pytest.mark.requirement("REQ-ACCESS-8")
def test_another_nonce_state_or_issuer_and_a_code_used_twice_are_refused(site: Site, provider: OidcProvider) -> None:
    browser = site.client()
    back = provider.log_in(start(browser), "nina")
    kept = session_of(browser, site)
    key = next(one for one in kept if one.startswith("_state_"))
    kept[key] = {**kept[key], "data": {**kept[key]["data"], "nonce": "another"}}
    browser.set_cookie("firstread", signer(site).dumps(kept))
    assert browser.get(back).status_code == 403

    browser = site.client()
    back = provider.log_in(start(browser), "nina")
    assert site.client().get(back).status_code == 403  # the answer of one browser in another
    assert browser.get(back.replace("iss=http", "iss=https")).status_code == 403

    browser = site.client()
    back = provider.log_in(start(browser), "nina")
    copy = browser.get_cookie("firstread")
    assert copy is not None
    assert browser.get(back).status_code == 303
    thief = site.client()
    thief.set_cookie("firstread", copy.value)
    assert thief.get(back).status_code == 403


@pytest.mark.requirement("REQ-ACCESS-3")
def test_a_fresh_sign_on_opens_the_lock_and_counts_for_one_act(site: Site, provider: OidcProvider) -> None:
    at_provider = requests.Session()
    browser = site.client()
    browser.get(provider.log_in(start(browser), "nina", at_provider))
    token = browser.get("/lock/state").json["csrf"]
    browser.post("/lock", data={"csrf_token": token})
    assert browser.get("/problems").headers["Location"].startswith("/lock")
    assert 'href="/oidc/again' in browser.get("/lock").text
    again = start(browser, "/oidc/again?next=/problems")
    assert "max_age=0" in again
    assert "prompt=login" in again
    answer = browser.get(provider.log_in(again, "nina", at_provider))
    assert answer.headers["Location"] == "/problems"
    assert browser.get("/problems").status_code == 200
    page = {"csrf_token": token, "current": "", "new": "x", "again": "y"}
    assert browser.post("/account/password", data=page).status_code == 400
    assert session_of(browser, site)["signed_on"] > 0
    browser.post("/lock", data={"csrf_token": token})
    for expected in (200, 403):  # the same sign-on opens one lock, and no second one
        answer = browser.post(
            "/lock/open", data={"csrf_token": token, "login": "nina"}, headers={"Accept": "application/json"}
        )
        assert answer.status_code == expected
        browser.post("/lock", data={"csrf_token": token})


def test_somebody_else_cannot_unlock_by_signing_on(site: Site, provider: OidcProvider) -> None:
    provider.people({"nina": NINA, "otto": {**NINA, "preferred_username": "otto"}})
    browser = log_in(site, provider)
    token = browser.get("/lock/state").json["csrf"]
    browser.post("/lock", data={"csrf_token": token})
    assert browser.get(provider.log_in(start(browser, "/oidc/again"), "otto")).status_code == 403
    assert browser.get("/problems").headers["Location"].startswith("/lock")


def test_a_provider_that_does_not_answer_leaves_local_accounts(tmp_path: Path, sqlite_url: str) -> None:
    gone = OidcProvider("http://127.0.0.1:9", tmp_path / "nobody.json")
    site = make_site(tmp_path, sqlite_url, identity={"oidc": gone.settings()})
    answer = site.client().get("/oidc/start")
    assert answer.status_code == 503
    assert "local accounts can log in" in answer.text
    assert site.client("radiologist").get(f"/studies/{site.drafted(ct_study(2))}").status_code == 200
