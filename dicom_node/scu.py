"""Send DICOM files to a peer by C-STORE, exactly as they are stored, and ask whether it is there."""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification

from config.errors import PeerUnavailableError
from config.settings import Destination, Peer, PriorSource, Settings, TlsSettings
from dicom_node.checkpoint import pause_surely
from dicom_node.library import MAX_CONTEXTS, make_ae
from dicom_node.sop_classes import name_of
from dicom_node.tls import ClientContext, client_context, in_words

log = structlog.get_logger()
_MAX_PDU_BYTES = 131072
_IDLE_S = 120.0
_NOTICE_S = 10.0
_RESTARTS = 3  # associations that may be lost in one batch before the rest is given up
_REJECTIONS = {  # (source, diagnostic) of an A-ASSOCIATE-RJ, PS3.8 table 9-21
    (1, 1): "no reason given",
    (1, 2): "application context not supported",
    (1, 3): "calling AE title not recognised",
    (1, 7): "called AE title not recognised",
    (2, 1): "not authorised, or no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "too many associations",
}


@dataclass(frozen=True)
class Address:
    """A DICOM peer, the name we call it by and under, and with which TLS; None is without."""

    host: str
    port: int
    called_ae: str
    calling_ae: str
    tls: TlsSettings | None = None


@dataclass(frozen=True)
class Outgoing:
    """One DICOM file to send: a Part 10 file whose file meta information holds these three values."""

    path: Path
    sop_class_uid: str
    transfer_syntax_uid: str

    @property
    def syntax(self) -> tuple[str, str]:
        """The presentation context it needs: abstract and transfer syntax."""
        return self.sop_class_uid, self.transfer_syntax_uid


@dataclass(frozen=True)
class Sent:
    """What became of one file; ``status`` is None when the peer was not asked or did not answer."""

    item: Outgoing
    status: int | None
    error: str = ""
    was_declined: bool = False  # the peer accepted no presentation context for it
    comment: str = ""  # its Error Comment (0000,0902)

    @property
    def accepted(self) -> bool:
        """Whether the peer stored it: Success, or a warning after storing (PS3.4 table B.2-1)."""
        return self.status is not None and (self.status == 0x0000 or self.status & 0xF000 == 0xB000)


def address_of(peer: Destination | Peer | PriorSource, settings: Settings) -> Address:
    """Return where somebody of the settings is called.

    Raises:
        PeerUnavailableError: a Peer without host or port, or with a network instead of a host: it only calls us.
    """
    if not peer.host or not peer.port or "/" in peer.host:
        raise PeerUnavailableError(f"it is not known where {peer.ae_title} listens: host and port are needed")
    tls = settings.dicom.tls if peer.tls else None
    return Address(peer.host, peer.port, peer.ae_title, settings.dicom.ae_title, tls)


def echo(peer: Address) -> None:
    """Ask a peer with C-ECHO whether it is there.

    Raises:
        PeerUnavailableError: no connection, no association, or no Success.
    """
    assoc = associate(peer, [build_context(Verification, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])])
    try:
        status = status_of(assoc.send_c_echo())
    finally:
        end(assoc)
    if status != 0x0000:
        raise PeerUnavailableError(f"C-ECHO was answered {_hex(status)}")


def store(
    peer: Address, items: Sequence[Outgoing], *, is_wanted: Callable[[Outgoing], bool] = lambda _: True
) -> Iterator[Sent]:
    """Send files in order, over as few associations as their presentation contexts need.

    Nothing is transcoded: each file needs a context with its SOP Class and the transfer syntax it is
    stored in. An association that is lost is opened again for the rest. ``is_wanted`` is asked of each file at the
    moment it would be sent; without its consent the file is passed over.

    Raises:
        PeerUnavailableError: an association could not be opened. Files not yielded by then were not sent.
    """
    for batch in _batches(items):
        yield from _store_batch(peer, batch, is_wanted)


def _batches(items: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """Cut into runs that need at most 128 presentation contexts each, Verification included; order is kept."""
    batch: list[Outgoing] = []
    contexts: set[tuple[str, str]] = set()
    for item in items:
        if len(contexts | {item.syntax}) >= MAX_CONTEXTS:
            yield batch
            batch, contexts = [], set()
        batch.append(item)
        contexts.add(item.syntax)
    if batch:
        yield batch


def _store_batch(peer: Address, batch: Sequence[Outgoing], is_wanted: Callable[[Outgoing], bool]) -> Iterator[Sent]:
    # with Verification among them an association is accepted even if none of the files' contexts is,
    # and every file gets a reason of its own
    contexts = [build_context(Verification, [ImplicitVRLittleEndian])]
    contexts += [build_context(UID(sop), [UID(syntax)]) for sop, syntax in dict.fromkeys(i.syntax for i in batch)]
    losses = 0
    assoc = associate(peer, contexts)
    try:
        for item in batch:
            if not is_wanted(item):
                continue
            if not assoc.is_established:
                end(assoc)
                losses += 1
                if losses > _RESTARTS:
                    raise PeerUnavailableError("the peer keeps ending the association")
                assoc = associate(peer, contexts)
            yield _send(assoc, item)
    finally:
        end(assoc)


def _send(assoc: Association, item: Outgoing) -> Sent:
    taken = {(str(cx.abstract_syntax), str(cx.transfer_syntax[0])) for cx in assoc.accepted_contexts}
    if item.syntax not in taken:
        return Sent(item, None, _why_not(assoc, item), was_declined=True)
    try:
        answer = assoc.send_c_store(item.path)
    except (ValueError, AttributeError, RuntimeError, OSError) as exc:
        # a file that changed or vanished, a UID the command cannot hold, an association lost meanwhile
        return Sent(item, None, f"not sent: {type(exc).__name__}")
    status = status_of(answer)
    if status is None:
        assoc.join(_NOTICE_S)  # until its own thread knows too, or the next file would be sent into the void
        return Sent(item, None, "no answer: the association was lost")
    comment = str(answer.get("ErrorComment", "") or "")
    failed = not Sent(item, status).accepted
    return Sent(item, status, f"{_hex(status)} {comment}".strip() if failed else "", comment=comment)


def _why_not(assoc: Association, item: Outgoing) -> str:
    for cx in assoc.rejected_contexts:
        if (str(cx.abstract_syntax), str(cx.transfer_syntax[0])) == item.syntax:
            if cx.result == 0x03:
                return f"SOP Class not accepted by the peer: {name_of(item.sop_class_uid)}"
            if cx.result == 0x04:
                return f"transfer syntax not accepted by the peer: {UID(item.transfer_syntax_uid).name}"
    return f"presentation context not accepted by the peer: {name_of(item.sop_class_uid)}"


def associate(
    peer: Address,
    contexts: Sequence[PresentationContext],
    *,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[tuple[Any, ...]] = (),
) -> Association:
    """Open an association; the caller ends it with :func:`end`.

    Args:
        peer: whom to call.
        contexts: what is proposed, at most 128.
        roles: role selection items, see ``pynetdicom.build_role``.
        handlers: of events on this association, for what the peer sends: ``(event, function[, arguments])``.

    Raises:
        PeerUnavailableError: no connection, no TLS, or no association; the message says which and why.
    """
    ae = make_ae(peer.calling_ae, max_pdu_bytes=_MAX_PDU_BYTES, network_timeout_s=_IDLE_S)
    context = client_context(peer.tls) if peer.tls else None
    rejections: list[A_ASSOCIATE_RJ] = []

    def note(event: Event) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu)

    try:
        assoc = ae.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.called_ae,
            max_pdu=_MAX_PDU_BYTES,
            ext_neg=list(roles),
            evt_handlers=[(evt.EVT_CONN_OPEN, send_at_once), (evt.EVT_PDU_RECV, note), *handlers],
            tls_args=(context, peer.host) if context else None,
        )
    except socket.gaierror as exc:
        raise PeerUnavailableError(f"the host name {peer.host} cannot be resolved") from exc
    if assoc.is_established:
        pause_surely(assoc)
        assoc.unbind(evt.EVT_PDU_RECV, note)  # nothing of ours runs while data are transferred
        return assoc
    raise PeerUnavailableError(_refusal(assoc, context, rejections))


def _refusal(assoc: Association, context: ClientContext | None, rejections: Sequence[A_ASSOCIATE_RJ]) -> str:
    # not Association.is_rejected: when the connection is closed before pynetdicom looks whether it was opened, it takes
    # a rejection for a failure to connect
    if rejections:
        answer = rejections[0]
        reason = _REJECTIONS.get((answer.source, answer.reason_diagnostic), "no reason given")
        return f"the association was rejected: {reason}"
    if context is not None and context.failure is not None:
        return in_words(context.failure)
    if assoc.is_aborted and assoc.acceptor.primitive is not None:
        return "the association was aborted: no presentation context was accepted"
    return "no connection, or no answer to the association request"


def end(assoc: Association) -> None:
    """Release an association, unless the peer has ended it."""
    if assoc.is_established:
        assoc.release()


def send_at_once(event: Event) -> None:
    """Turn off Nagle's algorithm, which would hold small PDUs back for an acknowledgement."""
    with contextlib.suppress(OSError, AttributeError):
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def status_of(answer: Dataset) -> int | None:
    """Return the status of an answer; None when there was none."""
    return int(answer.Status) if "Status" in answer else None


def _hex(status: int | None) -> str:
    return "nothing" if status is None else f"0x{status:04X}"
