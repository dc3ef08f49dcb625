"""Passwords checked by a real directory (OpenLDAP)."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import select

from config.identity_settings import LdapSettings
from config.logs import configure_logs
from dashboard.identity.directory import Directory
from db.models import AuditEvent
from db.report_models import UserAccount
from db.types import AccountSource, Role
from tests.dashboard_support import PASSWORD, Site, make_site
from tests.slapd import BASE, Slapd, running_slapd
from tests.tls_support import Authority

SECRET = "a-password-of-the-directory"


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    with running_slapd(tmp_path_factory.mktemp("slapd")) as running:
        running.add("nina", "Nina Reader", SECRET)
        running.add("gus", "Gus Guest", SECRET)
        running.add("radiologist", "Another Person", SECRET)
        running.add("odd*(name)", "Odd Name", SECRET)
        running.join("readers", "nina", "radiologist", "odd*(name)")
        yield running


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str, slapd: Slapd) -> Site:
    return make_site(tmp_path, sqlite_url, identity={"ldap": slapd.settings()})


def reasons(site: Site) -> list[str]:
    with site.sessions() as db:
        tags = ("user:login_failed", "user:reauthentication_failed")
        failures = db.scalars(select(AuditEvent).where(AuditEvent.tag.in_(tags)).order_by(AuditEvent.seq)).all()
    return [str(one.detail["reason"]) for one in failures]


def accounts(site: Site) -> list[UserAccount]:
    with site.sessions() as db:
        return list(db.scalars(select(UserAccount).where(UserAccount.source == AccountSource.LDAP)))


def test_a_first_login_makes_an_account_that_signs_with_the_directorys_password(site: Site, slapd: Slapd) -> None:
    browser = site.client()
    assert browser.log_in("Nina", SECRET).status_code == 303
    (made,) = accounts(site)
    assert (made.login, made.printed_name, made.role, made.password_hash) == (
        "nina",
        "Nina Reader",
        Role.RADIOLOGIST,
        "",
    )
    token = browser.get("/lock/state").json["csrf"]
    browser.post("/lock", data={"csrf_token": token})
    form, plain = {"csrf_token": token, "login": "nina"}, {"Accept": "application/json"}
    assert browser.post("/lock/open", data={**form, "password": "wrong"}, headers=plain).status_code == 403
    assert browser.post("/lock/open", data={**form, "password": ""}, headers=plain).status_code == 403
    assert browser.post("/lock/open", data={**form, "password": SECRET}, headers=plain).status_code == 200
    slapd.join("heads", "nina")
    assert site.client().log_in("nina", SECRET).status_code == 303
    slapd.leave("heads")
    assert accounts(site)[0].role is Role.LEAD
    assert site.client().log_in("nina", SECRET).status_code == 303
    assert accounts(site)[0].role is Role.RADIOLOGIST


@pytest.mark.requirement("REQ-ACCESS-8")
@pytest.mark.parametrize(
    ("login", "password"),
    [
        ("nina", "wrong"),
        ("nina", ""),  # a directory takes a bind without a password as anonymous, and accepts it
        ("*", SECRET),
        ("*)(uid=*", SECRET),
        ("nina)(|(uid=*", SECRET),
        ("n*", SECRET),
        ("nina\x00", SECRET),
        (f"nina,ou=people,{BASE}", SECRET),
        ("nobody", SECRET),
    ],
)
def test_nothing_but_the_right_login_and_password_comes_in(site: Site, login: str, password: str) -> None:
    answer = site.client().log_in(login, password)
    assert answer.status_code == 401
    assert "Login or password is wrong" in answer.text
    assert accounts(site) == []


def test_a_login_of_special_characters_is_just_a_login(site: Site) -> None:
    assert site.client().log_in("odd*(name)", SECRET).status_code == 303
    assert [one.printed_name for one in accounts(site)] == ["Odd Name"]


def test_a_local_account_is_never_checked_by_the_directory(site: Site) -> None:
    assert site.client().log_in("radiologist", SECRET).status_code == 401
    assert site.client().log_in("radiologist", PASSWORD).status_code == 303
    assert accounts(site) == []


def test_who_is_in_no_group_hears_so_after_the_right_password_only(site: Site) -> None:
    assert "in none of the groups" in site.client().log_in("gus", SECRET).text
    assert "in none of the groups" not in site.client().log_in("gus", "wrong").text
    assert reasons(site) == ["in no group", "unknown login"]


def test_failures_lock_an_account_of_the_directory_too(tmp_path: Path, sqlite_url: str, slapd: Slapd) -> None:
    site = make_site(tmp_path, sqlite_url, identity={"ldap": slapd.settings()}, web={"lockout_failures": 2})
    assert site.client().log_in("nina", SECRET).status_code == 303
    assert [site.client().log_in("nina", "wrong").status_code for _ in range(2)] == [401, 401]
    assert site.client().log_in("nina", SECRET).status_code == 401
    assert site.one(UserAccount, login="nina").locked_until is not None


def test_ldaps_is_spoken_and_a_certificate_of_somebody_else_is_refused(slapd: Slapd, tmp_path: Path) -> None:
    secured = slapd.settings(url=f"ldaps://localhost:{slapd.secure}")
    found = Directory(LdapSettings(**secured)).check("nina", SECRET)
    assert found is not None
    assert found.role is Role.RADIOLOGIST
    stranger = Authority(tmp_path / "other", "Somebody else").file
    for settings in (
        {**secured, "ca_file": stranger},
        slapd.settings(ca_file=stranger),
        slapd.settings(bind_password="wrong"),
    ):
        directory = Directory(LdapSettings(**settings))
        with pytest.raises(Exception, match="directory does not answer") as caught:
            directory.check("nina", SECRET)
        assert type(caught.value).__name__ == "PeerUnavailableError"
        assert directory.is_down


def test_without_the_directory_local_accounts_log_in_and_the_page_says_why_others_do_not(
    tmp_path: Path, sqlite_url: str, slapd: Slapd
) -> None:
    gone = slapd.settings(url="ldap://localhost:9", timeout_s=1.0)
    site = make_site(tmp_path, sqlite_url, identity={"ldap": gone})
    stream = io.StringIO()
    configure_logs(level="DEBUG", json=False, process="web", stream=stream)
    answer = site.client().log_in("nina", SECRET)
    assert answer.status_code == 401
    assert "The directory does not answer" in answer.text
    assert reasons(site) == ["directory does not answer"]
    assert site.client().log_in("radiologist", PASSWORD).status_code == 303
    assert "directory.unavailable" in stream.getvalue()
    assert SECRET not in stream.getvalue()
    assert "nina" not in stream.getvalue()


def test_a_password_never_goes_over_a_readable_line_off_this_machine() -> None:
    with pytest.raises(ValidationError, match="loopback"):
        LdapSettings(url="ldap://directory.example", starttls=False, base="dc=x", roles={"a": "viewer"})
    with pytest.raises(ValidationError, match="service"):
        LdapSettings(url="ldaps://directory.example", base="dc=x", roles={"a": "service"})  # type: ignore[dict-item]
