"""Passwords checked by a directory (LDAP): find the entry, then bind as it.

Each check is one search and one bind, also for a login that is not there, so that both take the same time.
"""

import hashlib
import secrets
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import structlog
from ldap3 import NONE, SIMPLE, SUBTREE, Connection, Server, Tls
from ldap3.core.exceptions import LDAPException
from ldap3.utils.conv import escape_filter_chars

from config.errors import PeerUnavailableError
from config.identity_settings import LdapSettings
from db.types import Role

log = structlog.get_logger()

_IDENTITIES = ("entryUUID", "objectGUID")  # RFC 4530; Active Directory
_PASSING = frozenset({51, 52})  # busy, unavailable (RFC 4511 section 4.1.9): says nothing about the password
_DOWN_S = 30.0  # a directory that did not answer is left alone so long


@dataclass(frozen=True)
class DirectoryPerson:
    """Somebody whose password the directory accepted; ``role`` is None for somebody in none of the groups."""

    external_id: str
    printed_name: str
    role: Role | None


class Directory:
    """The directory of the settings; keeps in mind when it did not answer."""

    def __init__(self, settings: LdapSettings) -> None:
        self._settings = settings
        self._down_until = 0.0
        self._lock = threading.Lock()

    @property
    def is_down(self) -> bool:
        """Whether it did not answer a moment ago."""
        return time.monotonic() < self._down_until

    def check(self, login: str, password: str) -> DirectoryPerson | None:
        """Return who this is when the directory accepts the password, else None.

        An empty password is never sent: a directory takes it as anonymous and accepts it (RFC 4513 section 5.1.2).

        Raises:
            PeerUnavailableError: the directory does not answer, not in time, or not with its own certificate.
        """
        if self.is_down:
            raise PeerUnavailableError("the directory did not answer a moment ago")
        try:
            found = self._find(login)
            accepted = self._bind(found["dn"] if found else f"cn={secrets.token_hex(8)}", password)
        except (LDAPException, OSError, ssl.SSLError) as exc:
            with self._lock:
                self._down_until = time.monotonic() + _DOWN_S
            log.warning("directory.unavailable", error=type(exc).__name__)
            raise PeerUnavailableError("the directory does not answer") from exc
        return self._person(found) if found and accepted else None

    def rehearse(self, login: str) -> None:
        """Take as long as :meth:`check` for a login that is none of the directory's; nobody's password is sent."""
        if not self.is_down:
            try:
                self._find(login)
                self._bind(f"cn={secrets.token_hex(8)}", secrets.token_hex(8))
            except (LDAPException, OSError, ssl.SSLError) as exc:
                with self._lock:
                    self._down_until = time.monotonic() + _DOWN_S
                log.warning("directory.unavailable", error=type(exc).__name__)

    def _connection(self, dn: str, password: str) -> Connection:
        """Return a connection that speaks TLS already, not bound yet."""
        chosen = self._settings
        parts = urlsplit(chosen.url)
        secured = parts.scheme == "ldaps"
        server = Server(
            parts.hostname,
            port=parts.port or (636 if secured else 389),
            use_ssl=secured,
            tls=Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=str(chosen.ca_file) if chosen.ca_file else None),
            get_info=NONE,
            connect_timeout=chosen.timeout_s,
        )
        connection = Connection(
            server,
            user=dn or None,
            password=password or None,
            authentication=SIMPLE if dn else None,
            receive_timeout=max(1, round(chosen.timeout_s)),  # it takes whole seconds only
            auto_referrals=False,
            check_names=False,
            raise_exceptions=False,
        )
        connection.open()
        if not secured and chosen.starttls and not connection.start_tls():
            raise LDAPException("no StartTLS")
        return connection

    def _find(self, login: str) -> dict[str, Any] | None:
        """Return the one entry of a login; two are as good as none."""
        chosen = self._settings
        bind_password = chosen.bind_password.get_secret_value() if chosen.bind_password else ""
        with _unbound_after(self._connection(chosen.bind_dn, bind_password)) as connection:
            if not connection.bind():
                raise LDAPException("the searching account is refused")
            connection.search(
                chosen.base,
                chosen.user_filter.replace("{login}", escape_filter_chars(login)),
                search_scope=SUBTREE,
                attributes=[chosen.name_attribute, chosen.group_attribute, *_IDENTITIES],
                size_limit=2,
                time_limit=max(1, int(chosen.timeout_s)),
            )
            entries = [one for one in connection.response or [] if one.get("type") == "searchResEntry"]
        return entries[0] if len(entries) == 1 else None

    def _bind(self, dn: str, password: str) -> bool:
        with _unbound_after(self._connection(dn, password or secrets.token_hex(16))) as connection:
            accepted = bool(connection.bind())
            if connection.result["result"] in _PASSING:
                raise LDAPException("busy or unavailable")
        return accepted and bool(password)

    def _person(self, entry: Mapping[str, Any]) -> DirectoryPerson:
        attributes, raw = entry["attributes"], entry["raw_attributes"]
        kept = next((bytes(raw[one][0]) for one in _IDENTITIES if raw.get(one)), str(entry["dn"]).lower().encode())
        name = _texts(attributes.get(self._settings.name_attribute))
        role = role_of(_texts(attributes.get(self._settings.group_attribute)), self._settings.roles)
        external_id = hashlib.sha256(b"ldap\0" + kept).hexdigest()
        return DirectoryPerson(external_id, name[0] if name else "", role)


@contextmanager
def _unbound_after(connection: Connection) -> Iterator[Connection]:
    """Close the connection afterwards; ldap3's own context would bind, and raise for a wrong password."""
    try:
        yield connection
    finally:
        connection.unbind()


def role_of(groups: Sequence[str], roles: Mapping[str, str]) -> Role | None:
    """Return the role of the first group named in ``roles`` that is among ``groups``, whatever its case."""
    held = {group.casefold() for group in groups}
    return next((Role(role) for group, role in roles.items() if group.casefold() in held), None)


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(one) for one in values if one not in (None, "")]
