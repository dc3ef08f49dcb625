"""Look at a peer step by step, as an administrator would: name, TCP, TLS, association, C-ECHO, what it accepts."""

import socket
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from config.errors import PeerUnavailableError
from config.settings import Destination
from dicom_node import scu, tls
from dicom_node.library import CONNECT_TIMEOUT_S
from dicom_node.sop_classes import SOP_CLASS, name_of, sent_to

OURS = {
    **{uid: name_of(uid) for uid in SOP_CLASS.values()},
    StorageCommitmentPushModel: "Storage Commitment Push Model",
}
"""What we may want of a peer beside Verification."""
_SOON_DAYS = 30


@dataclass(frozen=True)
class Step:
    """One thing that was looked at; ``note`` is what was seen, or why it failed."""

    name: str
    is_good: bool
    note: str
    milliseconds: float


def wanted_of(destination: Destination) -> frozenset[str]:
    """Return the SOP Classes a destination has to accept for all it is sent."""
    wanted = {str(uid) for uid in sent_to(destination)}
    if destination.commitment:
        wanted.add(str(StorageCommitmentPushModel))
    return frozenset(wanted)


def examine(peer: scu.Address, wanted: frozenset[str] = frozenset()) -> Iterator[Step]:
    """Yield each step as it is done; the first that fails is the last, except among what the peer accepts.

    Args:
        peer: whom to look at.
        wanted: SOP Classes whose refusal is a failure; that of the others of `OURS` is only told.
    """
    if (yield from reach(peer)):
        yield from _association(peer, wanted)


def reach(peer: scu.Address) -> Generator[Step, None, bool]:
    """Yield the steps up to a connection: name, TCP and, where it is used, TLS; return whether all were good."""
    for name, look in (("name", _name), ("TCP", _tcp), *((("TLS", _tls),) if peer.tls else ())):
        began = time.monotonic()
        try:
            note = look(peer)
        except PeerUnavailableError as exc:
            yield _step(name, began, str(exc), is_good=False)
            return False
        yield _step(name, began, note)
    return True


def _name(peer: scu.Address) -> str:
    try:
        found = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise PeerUnavailableError(f"the host name {peer.host} cannot be resolved") from exc
    return f"{peer.host} is {', '.join(dict.fromkeys(str(address[0]) for *_, address in found))}"


def _tcp(peer: scu.Address) -> str:
    with _connected(peer) as sock:
        return f"connected to {sock.getpeername()[0]} port {peer.port}"


def _tls(peer: scu.Address) -> str:
    assert peer.tls is not None
    context = tls.client_context(peer.tls)
    try:
        with _connected(peer) as plain, context.wrap_socket(plain, server_hostname=peer.host) as sock:
            shown, version = tls.certificate_of(sock), sock.version()
    except OSError as exc:
        raise PeerUnavailableError(tls.in_words(exc)) from exc
    assert shown is not None
    days = (shown.valid_until - datetime.now(UTC)).days
    warning = ": SOON" if days < _SOON_DAYS else ""
    return (
        f"{version}, certificate of {shown.subject} by {shown.issuer}, "
        f"until {shown.valid_until:%Y-%m-%d} ({days} days{warning})"
    )


def _connected(peer: scu.Address) -> socket.socket:
    try:
        return socket.create_connection((peer.host, peer.port), timeout=CONNECT_TIMEOUT_S)
    except TimeoutError as exc:
        raise PeerUnavailableError(f"no answer from port {peer.port}: wrong address, or a firewall drops it") from exc
    except OSError as exc:
        raise PeerUnavailableError(f"port {peer.port}: {exc.strerror or type(exc).__name__}") from exc


def _association(peer: scu.Address, wanted: frozenset[str]) -> Iterator[Step]:
    syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    began = time.monotonic()
    try:
        assoc = scu.associate(peer, [build_context(uid, syntaxes) for uid in (Verification, *OURS)])
    except PeerUnavailableError as exc:
        yield _step("association", began, str(exc), is_good=False)
        return
    try:
        yield _step("association", began, f"{peer.calling_ae} called {peer.called_ae}, {_implementation(assoc)}")
        yield _echo(assoc)
        yield from _contexts(assoc, wanted)
    finally:
        scu.end(assoc)


def _implementation(assoc: Association) -> str:
    version = str(assoc.acceptor.implementation_version_name or "").strip() or "without a version name"
    longest = assoc.acceptor.maximum_length
    return f"implementation {version}, PDUs {f'up to {longest} bytes' if longest else 'of any length'}"


def _echo(assoc: Association) -> Step:
    began = time.monotonic()
    try:
        answer = assoc.send_c_echo()
    except (ValueError, RuntimeError):  # no presentation context for it, or the association is gone
        return _step("C-ECHO", began, "the peer accepts no Verification, or ended the association", is_good=False)
    if "Status" not in answer:
        return _step("C-ECHO", began, "no answer", is_good=False)
    return _step("C-ECHO", began, f"status 0x{answer.Status:04X}", is_good=answer.Status == 0x0000)


def _contexts(assoc: Association, wanted: frozenset[str]) -> Iterator[Step]:
    accepted = {str(cx.abstract_syntax): cx.transfer_syntax[0].name for cx in assoc.accepted_contexts}
    refused = {str(cx.abstract_syntax): cx.result for cx in assoc.rejected_contexts}
    for uid, name in OURS.items():
        if str(uid) in accepted:
            yield Step(name, True, f"accepted, {accepted[str(uid)]}", 0.0)
            continue
        reason = {3: "SOP Class not supported", 4: "no common transfer syntax"}.get(refused.get(str(uid), 0), "refused")
        needed = uid in wanted
        yield Step(name, not needed, f"{reason}{'' if needed else ' (nothing of it is sent there)'}", 0.0)


def _step(name: str, began: float, note: str, *, is_good: bool = True) -> Step:
    return Step(name, is_good, note, (time.monotonic() - began) * 1000)
