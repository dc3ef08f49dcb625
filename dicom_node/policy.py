"""Who may open an association: called and calling AE title, address, and how many at once."""

import ipaddress
from dataclasses import dataclass

from config.settings import DicomSettings


@dataclass(frozen=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 section 9.3.4) and the reason for our own record."""

    result: int
    source: int
    diagnostic: int
    reason: str


CALLED_AE = Rejection(1, 1, 7, "called AE title is not ours")
CALLING_AE = Rejection(1, 1, 3, "calling AE title is not configured")
ADDRESS = Rejection(1, 1, 3, "calling AE title from another address")
NOT_LOOPBACK = Rejection(1, 1, 3, "no peers are configured: loopback only")
TOO_MANY = Rejection(2, 3, 2, "too many associations")


def judge_association(
    settings: DicomSettings, *, calling_ae: str, called_ae: str, address: str, active: int
) -> Rejection | None:
    """Return why an association is rejected, or None when it is accepted.

    AE titles prove nothing by themselves, so a configured peer can be bound to its address; without
    configured peers, only this machine may call. ``active`` counts associations, the asking one included.
    """
    if called_ae.strip() != settings.ae_title:
        return CALLED_AE
    if active > settings.max_associations:
        return TOO_MANY
    if not settings.peers:
        return None if _is_loopback(address) else NOT_LOOPBACK
    known = [peer for peer in settings.peers if peer.ae_title == calling_ae.strip()]
    if not known:
        return CALLING_AE
    if any(peer.host is None or _same_host(peer.host, address) for peer in known):
        return None
    return ADDRESS


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def _same_host(configured: str, address: str) -> bool:
    if configured == "localhost":
        return _is_loopback(address)
    return configured == address.split("%", maxsplit=1)[0].removeprefix("::ffff:")
