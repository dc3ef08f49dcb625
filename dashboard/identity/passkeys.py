"""Passkeys (WebAuthn Level 3): registered by their owner, used to log in, to unlock and to sign.

User verification (PIN, finger, face) is required each time, so one passkey is two factors.
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import webauthn
from flask import Blueprint, Response, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user
from webauthn.helpers import base64url_to_bytes, bytes_to_base64url, parse_client_data_json
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from config.errors import NotAuthorisedError, RefusedInputError
from dashboard.auth import inside, land
from dashboard.identity.challenges import VALID_S, challenges
from dashboard.identity.proof import is_fresh, prove
from dashboard.identity.rates import count_attempt
from dashboard.people import actor_of, begin_session, note_proof, person, session_name, sessions, site, work
from dashboard.permissions import Permission, requires
from db.audit import AuditTag
from db.identity_models import Passkey
from db.passkeys import add_passkey, count_use, find_passkey, passkeys_of, remove_passkey
from db.report_models import UserAccount
from db.uow import unit_of_work
from db.users import record_login

bp = Blueprint("passkeys", __name__, url_prefix="/passkeys")

LOGIN = "login"
_REGISTER = "register"
_MOST_PURPOSE = 200


def begin_assertion(purpose: str) -> str:
    """Return what ``navigator.credentials.get`` needs, as JSON; asked of the session at hand.

    Args:
        purpose: what the answer will be for, such as ``sign:<report>:<digest of the text>``; the answer is good
            for nothing else.

    Raises:
        RefusedInputError: no purpose, one over 200 characters, or the site has no passkeys.
    """
    if not site().identity.passkeys or not 0 < len(purpose) <= _MOST_PURPOSE:
        raise RefusedInputError("passkeys are not used here")
    options = webauthn.generate_authentication_options(
        rp_id=relying_party()[0],
        timeout=VALID_S * 1000,
        allow_credentials=_own() if current_user.is_authenticated else None,
        user_verification=UserVerificationRequirement.REQUIRED,
    )
    challenges().keep(options.challenge, purpose, session_name())
    return str(webauthn.options_to_json(options))


def finish_assertion(response: Mapping[str, Any], *, purpose: str) -> UserAccount | None:
    """Check a passkey's answer and record the outcome; return the account when its owner may go on.

    Inside a session the passkey has to be that person's. The challenge is used up, whatever the outcome.

    Args:
        response: what ``navigator.credentials.get`` gave, as ``PublicKeyCredential.toJSON`` makes it.
        purpose: as it was begun.

    Raises:
        TooManyRequests: too many attempts from this address.
    """
    count_attempt()
    known = _verified(response, purpose)
    again = current_user.is_authenticated
    actor = person().actor if again else actor_of(None)
    if known is None:
        tag = AuditTag.USER_REAUTHENTICATION_FAILED if again else AuditTag.USER_LOGIN_FAILED
        with unit_of_work(sessions(), actor) as uow:
            uow.audit(tag, outcome="failure", object_type="user", detail={"reason": "wrong passkey"})
        return None
    account, passkey_id, count, backed_up = known
    web = site().web
    with unit_of_work(sessions(), actor_of(account)) as uow:
        return record_login(
            uow,
            account.login,
            count_use(uow, passkey_id, count, backed_up=backed_up),
            lockout_failures=web.lockout_failures,
            lockout_s=web.lockout_s,
            reauthentication=again,
            method="passkey",
        )


def relying_party() -> tuple[str, str]:
    """Return the relying party's id (a host name) and the origin its pages have."""
    parts = urlsplit(site().web.public_url or request.host_url)
    return parts.hostname or "", f"{parts.scheme}://{parts.netloc}"


@bp.post("/challenge")
@requires(Permission.PUBLIC)
def challenge() -> Response:
    """Answer with the options of an assertion; without a session only to log in."""
    purpose = request.form.get("purpose", "") if current_user.is_authenticated else LOGIN
    return Response(begin_assertion(purpose), mimetype="application/json")


@bp.post("/login")
@requires(Permission.PUBLIC)
def log_in() -> ResponseReturnValue:
    """Begin a session by a passkey alone."""
    try:
        given = json.loads(request.form.get("passkey", ""))
    except ValueError:
        given = None
    account = finish_assertion(given, purpose=LOGIN) if isinstance(given, dict) else None
    if account is None:
        flash("This passkey is not known here, or the account is locked or closed.", "bad")
        return redirect(url_for("auth.login", next=inside(request.form.get("next", "")) or None), 303)
    begin_session(account, "passkey")
    return land(request.form.get("next", ""))


@bp.get("")
@requires(Permission.ACCOUNT)
def show() -> str:
    """Show one's passkeys, and the form to add one."""
    with sessions()() as db:
        own = passkeys_of(db, person().id)
    return render_template("passkeys.html", passkeys=own, fresh=is_fresh(), enabled=site().identity.passkeys)


@bp.post("/options")
@requires(Permission.ACCOUNT)
def options() -> ResponseReturnValue:
    """Answer with the options of a registration, after a fresh proof of who it is."""
    if not site().identity.passkeys:
        raise RefusedInputError("passkeys are not used here")
    if not is_fresh():
        if prove(_REGISTER) is None:
            raise NotAuthorisedError("the password is wrong, or the account is locked")
        note_proof()
    someone = person()
    made = webauthn.generate_registration_options(
        rp_id=relying_party()[0],
        rp_name=f"Firstread · {site().organization}"[:64],
        user_name=someone.login,
        user_id=someone.id.bytes,
        user_display_name=someone.printed_name,
        timeout=VALID_S * 1000,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
        ),
        exclude_credentials=_own(),
    )
    challenges().keep(made.challenge, _REGISTER, session_name())
    return Response(webauthn.options_to_json(made), mimetype="application/json")


@bp.post("/add")
@requires(Permission.ACCOUNT)
def add() -> ResponseReturnValue:
    """Keep the passkey that an authenticator made."""
    rp_id, origin = relying_party()
    try:
        given = json.loads(request.form.get("passkey", ""))
        asked = _challenge(given)
        if not is_fresh() or asked is None or not challenges().take(asked, _REGISTER, session_name()):
            raise RefusedInputError("this took too long: begin again")
        made = webauthn.verify_registration_response(
            credential=given,
            expected_challenge=asked,
            expected_rp_id=rp_id,
            expected_origin=origin,
            require_user_verification=True,
        )
    except (WebAuthnException, ValueError, TypeError, KeyError, AttributeError) as exc:
        raise RefusedInputError("the authenticator's answer cannot be used") from exc
    with work() as uow:
        add_passkey(
            uow,
            credential_id=bytes_to_base64url(made.credential_id),
            public_key=made.credential_public_key,
            sign_count=made.sign_count,
            name=request.form.get("name", ""),
            backed_up=made.credential_backed_up,
        )
    flash("Passkey added.", "ok")
    return redirect(url_for("passkeys.show"), 303)


@bp.post("/<uuid:passkey_id>/remove")
@requires(Permission.ACCOUNT)
def remove(passkey_id: UUID) -> ResponseReturnValue:
    """Take one of one's passkeys back."""
    with work() as uow:
        remove_passkey(uow, passkey_id)
    flash("Passkey removed. Delete it on the device too.", "ok")
    return redirect(url_for("passkeys.show"), 303)


def _own() -> list[PublicKeyCredentialDescriptor]:
    with sessions()() as db:
        own = passkeys_of(db, person().id)
    return [PublicKeyCredentialDescriptor(id=base64url_to_bytes(one.credential_id)) for one in own]


def _challenge(response: Mapping[str, Any]) -> bytes | None:
    """Return the challenge an answer is for."""
    try:
        client_data = base64url_to_bytes(response["response"]["clientDataJSON"])
        found: bytes = parse_client_data_json(client_data).challenge
    except (WebAuthnException, ValueError, TypeError, KeyError, AttributeError):
        return None
    return found


def _verified(response: Mapping[str, Any], purpose: str) -> tuple[UserAccount, UUID, int, bool] | None:
    """Return whose answer it is, by which passkey, its counter, and whether it is backed up."""
    asked = _challenge(response)
    if not site().identity.passkeys or asked is None or not challenges().take(asked, purpose, session_name()):
        return None
    with sessions()() as db:
        passkey = find_passkey(db, str(response.get("id", "")))
        account = db.get(UserAccount, passkey.user_id) if passkey else None
    if passkey is None or account is None or (current_user.is_authenticated and account.id != person().id):
        return None
    return _signed(response, asked, passkey, account)


def _signed(
    response: Mapping[str, Any], asked: bytes, passkey: Passkey, account: UserAccount
) -> tuple[UserAccount, UUID, int, bool] | None:
    rp_id, origin = relying_party()
    try:
        handle = response["response"].get("userHandle")
        if handle and base64url_to_bytes(handle) != account.id.bytes:
            return None
        verified = webauthn.verify_authentication_response(
            credential=dict(response),
            expected_challenge=asked,
            expected_rp_id=rp_id,
            expected_origin=origin,
            credential_public_key=passkey.public_key,
            credential_current_sign_count=0,  # db.passkeys.count_use compares it, and says so when it did not grow
            require_user_verification=True,
        )
    except (WebAuthnException, ValueError, TypeError, KeyError, AttributeError):
        return None
    return account, passkey.id, verified.new_sign_count, verified.credential_backed_up
