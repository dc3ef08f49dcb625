"""A fresh proof of who somebody is, inside a session: password, passkey or a new single sign-on."""

import json
import time

from flask import request, session

from dashboard.auth import check_password
from dashboard.people import SIGN_ON_S, account_of_session, person
from db.report_models import UserAccount

FRESH_S = 300  # so long a login counts as fresh for adding a passkey


def prove(purpose: str) -> UserAccount | None:
    """Check the ``passkey`` or the ``password`` of the form; return the account when its owner may go on.

    An account of single sign-on without a passkey may come here from a fresh single sign-on instead, which counts
    once. The outcome is recorded; failures count toward the account's lock.

    Args:
        purpose: what the passkey was asked for (``passkeys.begin_assertion``).

    Raises:
        TooManyRequests: too many attempts from this address.
    """
    from dashboard.identity.passkeys import finish_assertion

    given = request.form.get("passkey", "")
    if given:
        try:
            response = json.loads(given)
        except ValueError:
            response = None
        return finish_assertion(response, purpose=purpose) if isinstance(response, dict) else None
    signed_on = take_sign_on()
    if signed_on is not None:
        return signed_on
    return check_password(person().login, request.form.get("password", ""), again=True)


def is_fresh() -> bool:
    """Return whether the person proved who they are within the last minutes."""
    return time.time() - float(session.get("proven", 0)) < FRESH_S


def has_signed_on() -> bool:
    """Return whether a fresh single sign-on waits to be used for one act."""
    return time.time() - float(session.get("signed_on", 0)) < SIGN_ON_S


def take_sign_on() -> UserAccount | None:
    """Use up a fresh single sign-on of this session, when there is one; return its account."""
    waits = has_signed_on()
    session.pop("signed_on", None)
    return account_of_session() if waits else None
