"""The knobs of who people are: single sign-on, directory, screen lock, rates."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, model_validator

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
RoleName = Literal["viewer", "resident", "radiologist", "lead", "admin", "auditor"]  # not service: that is no person


class OidcSettings(BaseModel, frozen=True, extra="forbid"):
    """Single sign-on with an OpenID Connect provider (code flow with PKCE)."""

    issuer: str = Field(default="", pattern=r"^(https?://\S+)?$", description="Issuer; off when empty.")
    client_id: str = Field(default="", description="Our client id there.")
    client_secret: SecretStr | None = Field(default=None, description="Our client secret there.")
    name: str = Field(default="Single sign-on", max_length=40, description="Words on the button of the login page.")
    scopes: str = Field(default="openid profile email", description="What we ask for.")
    login_claim: str = Field(default="preferred_username", description="Claim that holds the login.")
    role_claim: str = Field(default="groups", description="Claim that holds groups or roles.")
    roles: Mapping[str, RoleName] = Field(
        default={}, description="Role of each group; who is in none of them is refused, the first one named here wins."
    )

    @model_validator(mode="after")
    def _complete(self) -> "OidcSettings":
        if self.issuer and not (self.client_id and self.client_secret and self.roles):
            raise ValueError("oidc needs client_id, client_secret and roles")
        parts = urlsplit(self.issuer)
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError("oidc.issuer off loopback needs https")
        return self


class LdapSettings(BaseModel, frozen=True, extra="forbid"):
    """Passwords checked by a directory: search for the entry, then bind as it."""

    url: str = Field(
        default="", pattern=r"^(ldaps?://\S+)?$", description="ldap:// or ldaps:// address; off when empty."
    )
    starttls: bool = Field(default=True, description="Speak TLS on an ldap:// address; never off but on loopback.")
    ca_file: Path | None = Field(default=None, description="PEM certificates that it is checked by.")
    bind_dn: str = Field(default="", description="Who searches; anonymous when empty.")
    bind_password: SecretStr | None = Field(default=None, description="Password of who searches.")
    base: str = Field(default="", description="Where people are searched.")
    user_filter: str = Field(
        default="(uid={login})", description="Finds one person; {login} is replaced by the escaped login."
    )
    name_attribute: str = Field(default="cn", description="Attribute with the printed name.")
    group_attribute: str = Field(default="memberOf", description="Attribute with the groups.")
    roles: Mapping[str, RoleName] = Field(
        default={}, description="Role of each group; who is in none of them is refused, the first one named here wins."
    )
    timeout_s: float = Field(default=5.0, gt=0, description="An answer that takes longer is not waited for.")

    @model_validator(mode="after")
    def _secured(self) -> "LdapSettings":
        if not self.url:
            return self
        if not (self.base and self.roles and "{login}" in self.user_filter):
            raise ValueError("ldap needs base, roles, and {login} in user_filter")
        parts = urlsplit(self.url)
        if parts.scheme == "ldap" and not self.starttls and parts.hostname not in _LOOPBACK:
            raise ValueError("ldap.starttls is off only on loopback: a password would be readable on the way")
        return self


class IdentitySettings(BaseModel, frozen=True, extra="forbid"):
    """Who people are and how they prove it."""

    oidc: OidcSettings = OidcSettings()
    ldap: LdapSettings = LdapSettings()
    passkeys: bool = Field(default=True, description="Let people log in and sign with a passkey (WebAuthn).")
    lock_after_s: int = Field(
        default=600, ge=30, description="The screen locks after this without a key or a click; the text stays."
    )
    break_glass_s: int = Field(default=3600, ge=60, description="How long access for a stated reason lasts.")
    login_rate: str = Field(default="20 per minute", description="Logins and signatures tried from one address.")
    request_rate: str = Field(
        default="6000 per minute",
        description="Requests of one session or address; a study of 2000 slices is 2000 of them.",
    )
