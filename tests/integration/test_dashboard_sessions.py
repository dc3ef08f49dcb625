"""What keeps a session safe: its cookie, its end, failed logins, and the key that signs it."""

import re
import stat
from http.cookies import SimpleCookie
from pathlib import Path

import pytest
from pydantic import SecretStr

from config.errors import ConfigurationError
from config.settings import Settings
from dashboard.app import create_app
from dashboard.security import session_key
from db.report_models import UserAccount
from tests.dashboard_support import PASSWORD, Browser, Site, make_site


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


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


@pytest.mark.requirement("REQ-ACCESS-2")
def test_failed_logins_lock_the_account_even_for_the_right_password(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url, web={"lockout_failures": 3})
    browser = site.client()
    assert [browser.log_in("radiologist", "wrong").status_code for _ in range(3)] == [401] * 3
    assert browser.log_in("radiologist").status_code == 401
    assert "user:locked_out" in site.tags()
    assert site.one(UserAccount, login="radiologist").locked_until is not None


@pytest.mark.requirement("REQ-ACCESS-2")
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


@pytest.mark.requirement("REQ-ACCESS-3")
def test_a_copied_cookie_is_worth_nothing_after_logout(site: Site) -> None:
    browser = site.client("radiologist")
    stolen = browser.get_cookie("firstread")
    assert stolen is not None
    browser.submit("/logout")
    thief = Browser(site.app)
    thief.set_cookie("firstread", stolen.value)
    assert thief.get("/worklist").headers["Location"].startswith("/login")


@pytest.mark.requirement("REQ-ACCESS-3")
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


@pytest.mark.requirement("REQ-ACCESS-7")
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
