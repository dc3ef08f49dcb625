"""Accounts: never used twice, locked after failures, every attempt on the record."""

from datetime import timedelta

import pytest

from config.errors import LifecycleError, RefusedInputError
from db import users
from db.report_models import UserAccount
from db.types import Role, utcnow
from db.uow import Actor, unit_of_work
from tests.db_support import SWEEPER, open_review, received, tags

ADMIN = Actor("admin", "person")


def _create(sessions, login: str = "Reader", **changes):
    values = {"printed_name": "Dr Reader", "role": Role.RADIOLOGIST, "password_hash": "hash"} | changes
    with unit_of_work(sessions, ADMIN) as uow:
        return users.create_user(uow, login=login, **values)


def _login(sessions, login: str, ok: bool, **changes):
    with unit_of_work(sessions, Actor("web", "process")) as uow:
        return users.record_login(uow, login, ok, **({"lockout_failures": 3, "lockout_s": 900} | changes))


def _user(sessions, key) -> UserAccount:
    with sessions() as session:
        return session.get_one(UserAccount, key)


@pytest.mark.requirement("REQ-SIGN-8")
def test_a_login_is_one_persons_forever_whatever_its_case(sessions):
    key = _create(sessions)
    with unit_of_work(sessions, ADMIN) as uow:
        users.set_active(uow, key, active=False)
    with pytest.raises(LifecycleError):
        _create(sessions, "READER", printed_name="Somebody Else")
    with sessions() as session:
        assert users.find_user(session, " rEADer ").id == key
        assert users.find_user(session, "nobody") is None
        assert (users.count_users(session), [u.login for u in users.list_users(session)]) == (1, ["reader"])
    assert tags(sessions) == ["user:created", "user:deactivated"]


@pytest.mark.parametrize("changes", [{"login": " "}, {"login": "x" * 65}, {"printed_name": ""}, {"password_hash": ""}])
def test_an_account_that_lacks_something_is_refused(sessions, changes):
    with pytest.raises(RefusedInputError):
        _create(sessions, **changes)


def test_failures_in_a_row_lock_the_account_even_for_the_right_password(sessions):
    key = _create(sessions)
    assert _login(sessions, "reader", ok=False) is None
    assert _login(sessions, "READER", ok=True).id == key  # a success starts the count again
    for _ in range(3):
        assert _login(sessions, "reader", ok=False) is None
    assert users.is_locked_out(_user(sessions, key))
    assert _login(sessions, "reader", ok=True) is None
    assert tags(sessions)[-2:] == ["user:locked_out", "user:login_failed"]
    with unit_of_work(sessions, SWEEPER) as uow:
        uow.session.get_one(UserAccount, key).locked_until = utcnow() - timedelta(seconds=1)
    assert _login(sessions, "reader", ok=True).id == key
    assert _user(sessions, key).last_login_at is not None


@pytest.mark.requirement("REQ-SIGN-7")
def test_failures_at_signing_count_too(sessions):
    key = _create(sessions)
    for _ in range(3):
        assert _login(sessions, "reader", ok=False, reauthentication=True) is None
    assert users.is_locked_out(_user(sessions, key))
    assert tags(sessions).count("user:reauthentication_failed") == 3


@pytest.mark.requirement("REQ-AUDIT-5")
def test_unknown_and_closed_accounts_are_refused_on_the_record(sessions):
    key = _create(sessions)
    with unit_of_work(sessions, ADMIN) as uow:
        users.set_active(uow, key, active=False)
    assert _login(sessions, "nobody", ok=True) is None
    assert _login(sessions, "reader", ok=True) is None
    assert tags(sessions, outcome="failure") == ["user:login_failed", "user:login_failed"]


def test_closing_an_account_gives_its_reports_back(sessions):
    key = _create(sessions)
    journey = received(sessions).queued().running().drafted()
    open_review(journey, Actor("reader", "person", key))
    with unit_of_work(sessions, ADMIN) as uow:
        users.set_active(uow, key, active=False)
    assert journey.report().locked_by is None
    with unit_of_work(sessions, ADMIN) as uow:
        users.set_active(uow, key, active=True)
    assert tags(sessions, actor="admin")[-3:] == ["user:deactivated", "report:released", "user:activated"]


@pytest.mark.requirement("REQ-ACCESS-7")
def test_role_and_password_changes_are_on_the_record_rehashing_is_not(sessions):
    key = _create(sessions)
    for _ in range(3):
        _login(sessions, "reader", ok=False)
    with unit_of_work(sessions, ADMIN) as uow:
        users.set_role(uow, key, Role.ADMIN)
        users.set_role(uow, key, Role.ADMIN)
        users.set_password_hash(uow, key, "better", rehash=True)
    assert users.is_locked_out(_user(sessions, key))
    with unit_of_work(sessions, ADMIN) as uow:
        users.set_password_hash(uow, key, "new")
    user = _user(sessions, key)
    assert (user.role, user.password_hash, users.is_locked_out(user)) == (Role.ADMIN, "new", False)
    assert tags(sessions, actor="admin") == ["user:created", "user:role_changed", "user:password_changed"]
