"""Who may open an association: called and calling AE title, address, certificate, user identity, and how many at once.

Everything here is a question about values; files, names and counts are the door's.
"""

import hmac
import ipaddress
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from config.settings import AeProfile, DicomSettings, Peer
from dicom_node.context import Asking, Rejection
from dicom_node.tls import same_subject

AddressesOf = Callable[[str], Collection[str]]
"""The addresses of a host name; none when it cannot be resolved."""

_ADD = "firstread node peers add"

CALLED_AE = Rejection(1, 1, 7, "called AE title is not ours")
CALLING_AE = Rejection(1, 1, 3, "calling AE title is not configured")
NOT_LOOPBACK = Rejection(1, 1, 3, "no peers are configured: loopback only")
ADDRESS = Rejection(1, 1, 3, "calling AE title from another address")
NO_CERTIFICATE = Rejection(1, 1, 3, "this calling AE title is bound to a certificate: TLS only")
CERTIFICATE = Rejection(1, 1, 3, "calling AE title with another certificate")
NOT_FOR_THIS_PEER = Rejection(1, 1, 7, "this peer may not use this called AE title")
# PS3.7 section D.3.3.7.3: a failed authorisation is permanent, of the ACSE, and gives no reason
NO_IDENTITY = Rejection(1, 2, 1, "a user identity is required")
UNCHECKABLE = Rejection(1, 2, 1, "this type of user identity cannot be checked")
IDENTITY = Rejection(1, 2, 1, "user identity is not the one required")
TOO_MANY = Rejection(2, 3, 2, "too many associations")
TOO_MANY_OF_PEER = Rejection(2, 3, 2, "too many associations of this peer")
NO_SPACE = Rejection(2, 3, 1, "the instance store is nearly full")
NOT_READY = Rejection(2, 3, 1, "the database cannot be asked who may call")


@dataclass(frozen=True)
class Welcome:
    """The caller may come in, ``at_once`` associations of it together."""

    at_once: int
    is_identified: bool = False


def judge_caller(
    dicom: DicomSettings, asking: Asking, peers: Sequence[Peer] = (), *, addresses_of: AddressesOf = lambda _: ()
) -> Rejection | Welcome:
    """Return why a caller is rejected, with the command that would let it in, or its welcome.

    Default deny: a caller has to be a peer, from its address, and where they are asked for with its certificate and
    user identity. While there is no peer at all, anybody on this machine may call.
    """
    if asking.called_ae not in dicom.called_ae:
        return replace(CALLED_AE, hint=_ours(dicom, asking))
    if asking.identity_type not in {0, 1, 2}:
        return replace(UNCHECKABLE, hint="the peer must send user name and passcode, or no user identity")
    if not peers:
        open_house = Welcome(dicom.max_associations_per_peer)
        return open_house if is_loopback(asking.address) else replace(NOT_LOOPBACK, hint=command_for(asking))
    known = [peer for peer in peers if peer.ae_title == asking.calling_ae]
    if not known:
        return replace(CALLING_AE, hint=command_for(asking))
    faults = [_fault(peer, asking, addresses_of) for peer in known]
    passing = [peer for peer, fault in zip(known, faults, strict=True) if fault is None]
    if not passing:
        _, nearest = max((fault for fault in faults if fault), key=lambda fault: fault[0])
        return nearest
    return Welcome(
        max(peer.max_associations or dicom.max_associations_per_peer for peer in passing),
        is_identified=any(peer.user for peer in passing),
    )


def judge_crowd(dicom: DicomSettings, asking: Asking, others: Collection[Asking], *, at_once: int) -> Rejection | None:
    """Return why one more association is too many beside the ``others`` that are open; None when it is not."""
    if len(others) >= dicom.max_associations:
        return replace(TOO_MANY, hint=f"dicom.max_associations is {dicom.max_associations}")
    same = sum(
        other.calling_ae == asking.calling_ae and bare_address(other.address) == bare_address(asking.address)
        for other in others
    )
    if same >= at_once:
        return replace(TOO_MANY_OF_PEER, hint=f"this peer may have {at_once}; --max-associations, or wait")
    return None


def profile_of(dicom: DicomSettings, called_ae: str) -> AeProfile | None:
    """Return what is said of a called AE title of ours beside its name."""
    return next((profile for profile in dicom.profiles if profile.ae_title == called_ae), None)


def command_for(asking: Asking, *, with_called_ae: bool = False) -> str:
    """Return the command that lets this caller in; a sentence when its AE title can never be let in."""
    try:
        Peer(ae_title=asking.calling_ae, host=bare_address(asking.address) or None)
    except ValidationError:
        return "the peer must be given a calling AE title of 1 to 16 characters, without control characters"
    options = ["--host", bare_address(asking.address)] if bare_address(asking.address) else []
    if asking.tls_subject:
        options += ["--certificate-subject", shlex.quote(asking.tls_subject)]
    if with_called_ae:
        options += ["--called-ae", shlex.quote(asking.called_ae)]
    title = shlex.quote(asking.calling_ae)
    # what begins with a hyphen would be taken for an option
    return " ".join([_ADD, *options, "--", title] if title.startswith("-") else [_ADD, title, *options])


def is_loopback(address: str) -> bool:
    """Return whether an address is this machine's own."""
    bare = bare_address(address)
    return bool(bare) and ipaddress.ip_address(bare).is_loopback


def bare_address(address: str) -> str:
    """Return an address without zone, IPv4 also where it came as IPv6; empty when it is none."""
    try:
        parsed = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    except ValueError:
        return ""
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def _fault(peer: Peer, asking: Asking, addresses_of: AddressesOf) -> tuple[int, Rejection] | None:
    """Return the first thing by which a caller is not this peer, and how far it came; None when it is."""
    command, called = command_for(asking), command_for(asking, with_called_ae=True)
    checks: tuple[tuple[Rejection, str, Callable[[], bool]], ...] = (
        (ADDRESS, command, lambda: not peer.host or is_from(peer.host, asking.address, addresses_of)),
        (NO_CERTIFICATE, "the peer must call the TLS port", lambda: not peer.certificate_subject or asking.is_tls),
        (CERTIFICATE, command, lambda: _has_certificate(peer, asking)),
        (NOT_FOR_THIS_PEER, called, lambda: not peer.called_ae or asking.called_ae in peer.called_ae),
        (NO_IDENTITY, "the peer must send its user identity", lambda: not peer.user or asking.identity_type > 0),
        (IDENTITY, "compare user and passcode_file of this peer", lambda: not peer.user or _is_user(peer, asking)),
    )
    for step, (rejection, hint, holds) in enumerate(checks):
        if not holds():
            return step, replace(rejection, hint=hint)
    return None


def is_from(host: str, address: str, addresses_of: AddressesOf) -> bool:
    """Return whether an address is that of a configured host: an address, network or name."""
    bare = bare_address(address)
    if not bare:
        return False
    if host == "localhost":
        return is_loopback(bare)
    try:
        network = ipaddress.ip_network(bare_address(host) or host)
    except ValueError:
        return bare in {bare_address(found) for found in addresses_of(host)}
    return ipaddress.ip_address(bare) in network


def _has_certificate(peer: Peer, asking: Asking) -> bool:
    return not peer.certificate_subject or same_subject(peer.certificate_subject, asking.tls_subject)


def _is_user(peer: Peer, asking: Asking) -> bool:
    """Compare name and passcode in a time that tells nothing about either."""
    right = _same(peer.user, asking.user)
    if peer.passcode_file is None:
        return right
    wanted = _passcode(peer.passcode_file)
    given = asking.passcode if asking.identity_type == 2 else ""
    return _same(wanted or "", given) and right and bool(wanted)


def _passcode(file: Path) -> str:
    """Return the passcode of a file; empty, which fits nobody, when it cannot be read."""
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeError):
        return ""


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(*(text.encode("utf-8", errors="surrogateescape") for text in (one, other)))


def _ours(dicom: DicomSettings, asking: Asking) -> str:
    titles = ", ".join(dicom.called_ae)
    if not asking.called_ae:
        return f"the peer must call {titles}"
    return f"the peer must call {titles}; or add its called AE title to dicom.profiles"
