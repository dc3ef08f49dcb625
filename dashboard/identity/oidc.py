"""Single sign-on with an OpenID Connect provider: authorization code with PKCE, state and nonce (OpenID Core 3.1)."""

import hashlib
import time
from collections.abc import Mapping
from typing import Any

import structlog
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.flask_client import OAuth
from flask import Blueprint, abort, current_app, flash, redirect, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user
from joserfc.errors import JoseError
from requests import RequestException

from config.errors import NotAuthorisedError, PeerUnavailableError
from config.identity_settings import OidcSettings
from dashboard.auth import inside, land
from dashboard.identity.directory import role_of
from dashboard.identity.external import External, admit_external
from dashboard.identity.locking import opened
from dashboard.identity.rates import count_attempt
from dashboard.people import begin_session, note_proof, person, site
from dashboard.permissions import Permission, requires
from db.types import AccountSource

bp = Blueprint("oidc", __name__, url_prefix="/oidc")
log = structlog.get_logger()

_TIMEOUT_S = 10.0
_LEEWAY_S = 60  # between the provider's clock and ours
_AGAIN_S = 120  # how old a sign-on may be that was asked to be fresh
_SIGNED_BY = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
# what the libraries raise for an answer that is not as it should be
_BROKEN = (AuthlibBaseError, JoseError, ValueError, KeyError, TypeError, RuntimeError)


@bp.get("/start")
@requires(Permission.PUBLIC)
def start() -> ResponseReturnValue:
    """Send the browser to the provider."""
    return _send(request.args.get("next", ""), again=False)


@bp.get("/again")
@requires(Permission.PUBLIC)
def again() -> ResponseReturnValue:
    """Send the browser to the provider for a fresh login there, to unlock, to sign, or to add a passkey."""
    return _send(request.args.get("next", ""), again=bool(current_user.is_authenticated))


@bp.get("/callback")
@requires(Permission.PUBLIC)
def callback() -> ResponseReturnValue:
    """Take the provider's answer, once."""
    chosen = _settings()
    count_attempt()
    asked = session.pop("oidc", None) or {}
    try:
        claims = _claims(chosen)
    except RequestException as exc:
        raise PeerUnavailableError("the single sign-on does not answer; local accounts can log in") from exc
    except _BROKEN as exc:
        log.warning("oidc.refused", error=type(exc).__name__)
        raise NotAuthorisedError("the single sign-on did not work; go back to the login page and try again") from exc
    if asked.get("again"):
        return _again(claims, chosen, str(asked.get("next", "")))
    account = admit_external(_external(claims, chosen))
    if account is None:
        flash("Your account is closed or locked at this site. An administrator can help.", "bad")
        return redirect(url_for("auth.login"), 303)
    begin_session(account, "single sign-on")
    return land(str(asked.get("next", "")))


def _settings() -> OidcSettings:
    chosen = site().identity.oidc
    if not chosen.issuer:
        abort(404)
    return chosen


def _send(next_path: str, *, again: bool) -> ResponseReturnValue:
    chosen = _settings()
    session["oidc"] = {"next": inside(next_path), "again": again}
    fresh = {"prompt": "login", "max_age": 0} if again else {}
    root = (site().web.public_url or request.url_root).rstrip("/")
    try:
        answer: ResponseReturnValue = _client(chosen).authorize_redirect(f"{root}{url_for('oidc.callback')}", **fresh)
    except (RequestException, *_BROKEN) as exc:
        log.warning("oidc.unavailable", error=type(exc).__name__)
        raise PeerUnavailableError("the single sign-on does not answer; local accounts can log in") from exc
    return answer


def _client(chosen: OidcSettings) -> Any:
    """Return Authlib's client, which reads the provider's metadata at its first use."""
    found = current_app.extensions.get("firstread.oidc")
    if found is None:
        assert chosen.client_secret is not None
        found = OAuth(current_app).register(
            "sso",
            client_id=chosen.client_id,
            client_secret=chosen.client_secret.get_secret_value(),
            server_metadata_url=f"{chosen.issuer.rstrip('/')}/.well-known/openid-configuration",
            client_kwargs={
                "scope": chosen.scopes,
                "code_challenge_method": "S256",
                "default_timeout": _TIMEOUT_S,
            },
        )
        current_app.extensions["firstread.oidc"] = found
    metadata = found.load_server_metadata()
    if metadata.get("issuer") != chosen.issuer:
        raise ValueError("the metadata is another issuer's")
    offered = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
    # never "none", and no HMAC, whose key is our own secret
    metadata["id_token_signing_alg_values_supported"] = [name for name in offered if name in _SIGNED_BY]
    return found


def _claims(chosen: OidcSettings) -> Mapping[str, Any]:
    """Return the checked claims of the ID token; of the UserInfo answer what it lacks (OpenID Core 5.3.2)."""
    if request.args.get("iss", chosen.issuer) != chosen.issuer:  # RFC 9207
        raise ValueError("another issuer answers")
    client = _client(chosen)
    token = client.authorize_access_token(
        claims_options={
            "iss": {"essential": True, "values": [chosen.issuer]},
            "aud": {"essential": True, "values": [chosen.client_id]},
            "sub": {"essential": True},
        },
        leeway=_LEEWAY_S,
    )
    claims: dict[str, Any] = dict(token["userinfo"])  # absent without an ID token, or without our nonce
    if not {chosen.login_claim, chosen.role_claim, "name"} <= set(claims):
        more = dict(client.userinfo(token=token))
        if more.get("sub") != claims["sub"]:
            raise ValueError("the UserInfo answer is about somebody else")
        claims = more | claims
    return claims


def _external(claims: Mapping[str, Any], chosen: OidcSettings) -> External:
    groups = claims.get(chosen.role_claim)
    listed = [str(one) for one in groups] if isinstance(groups, list) else [str(groups or "")]
    login = str(claims.get(chosen.login_claim) or "")
    if not 1 <= len(login.strip()) <= 64 or not login.isprintable():
        raise NotAuthorisedError("the single sign-on names no login that can be used here")
    return External(
        AccountSource.OIDC,
        _external_id(claims),
        login.strip().lower(),
        str(claims.get("name") or login),
        role_of(listed, chosen.roles),
    )


def _external_id(claims: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"oidc\0{claims['iss']}\0{claims['sub']}".encode()).hexdigest()


def _again(claims: Mapping[str, Any], chosen: OidcSettings, next_path: str) -> ResponseReturnValue:
    """Take a sign-on as a fresh proof of who is logged in already; it opens a locked screen, or counts for one act."""
    is_recent = time.time() - float(claims.get("auth_time") or 0) < _AGAIN_S
    account = admit_external(_external(claims, chosen), again=True) if is_recent else None
    if account is None or not current_user.is_authenticated or account.id != person().id:
        raise NotAuthorisedError("that was no fresh login of the person whose session this is")
    session["signed_on"] = time.time()
    note_proof()
    opened("single sign-on")
    return land(next_path)
