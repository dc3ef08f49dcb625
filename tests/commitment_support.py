"""Peers that ask for storage commitment, and peers that are asked: both as real pynetdicom application entities."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

MODEL, WELL_KNOWN = StorageCommitmentPushModel, StorageCommitmentPushModelInstance
Pair = tuple[str, str]


def references(pairs: Iterable[Pair], reasons: dict[str, int] | None = None) -> list[Dataset]:
    """Items of a Referenced or a Failed SOP Sequence."""
    items = []
    for sop_class, sop_instance in pairs:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
        if reasons is not None:
            item.FailureReason = reasons[sop_instance]
        items.append(item)
    return items


def action_information(pairs: Iterable[Pair], transaction: str = "") -> Dataset:
    """What an N-ACTION carries; a new Transaction UID unless given."""
    ds = Dataset()
    ds.TransactionUID = transaction or generate_uid()
    ds.ReferencedSOPSequence = references(pairs)
    return ds


def event_information(transaction: str, committed: Iterable[Pair], failed: dict[Pair, int] | None = None) -> Dataset:
    """What an N-EVENT-REPORT carries."""
    ds = Dataset()
    ds.TransactionUID = transaction
    committed = list(committed)
    if committed:
        ds.ReferencedSOPSequence = references(committed)
    if failed:
        ds.FailedSOPSequence = references(failed, {instance: reason for (_, instance), reason in failed.items()})
    return ds


@dataclass
class Told:
    """One N-EVENT-REPORT as a peer received it."""

    event_type: int
    transaction: str
    committed: list[Pair]
    failed: dict[str, int]
    calling_ae: str
    failed_pairs: list[Pair] = field(default_factory=list)


def told(event: evt.Event) -> Told:
    """Read an N-EVENT-REPORT."""
    ds = event.event_information

    def pairs(items: Any) -> list[Pair]:
        return [(str(i.ReferencedSOPClassUID), str(i.ReferencedSOPInstanceUID)) for i in items]

    failed = ds.get("FailedSOPSequence") or []
    return Told(
        event.event_type,
        str(ds.TransactionUID),
        pairs(ds.get("ReferencedSOPSequence") or []),
        {str(i.ReferencedSOPInstanceUID): int(i.FailureReason) for i in failed},
        str(event.assoc.requestor.ae_title).strip(),
        pairs(failed),
    )


class Modality:
    """Asks a node for commitment, and listens for its report on a port of its own."""

    def __init__(self, ae_title: str = "MODALITY", *, status: int = 0x0000, gives_role: bool = True) -> None:
        self.ae_title = ae_title
        self.reports: list[Told] = []
        self.status = status
        self._ae = AE(ae_title)
        if gives_role:
            self._ae.add_supported_context(MODEL, scu_role=False, scp_role=True)
        else:
            self._ae.add_supported_context(MODEL)
        self._server = self._ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._on_report)]
        )
        self.port: int = self._server.server_address[1]

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        self.reports.append(told(event))
        return self.status, None

    def stop(self) -> None:
        self._ae.shutdown()

    def associate(self, port: int, called_ae: str = "FIRSTREAD") -> Association:
        """An association on which this modality is the SCU, and takes reports too."""
        ae = AE(self.ae_title)
        ae.dimse_timeout = 30
        ae.add_requested_context(MODEL, [ExplicitVRLittleEndian])
        assoc = ae.associate(
            "127.0.0.1", port, ae_title=called_ae, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._on_report)]
        )
        assert assoc.is_established
        return assoc

    def ask(self, port: int, information: Dataset | None, **changes: Any) -> int:
        """Send one N-ACTION on an association of its own; return the status."""
        assoc = self.associate(port)
        try:
            return send_action(assoc, information, **changes)[0]
        finally:
            assoc.release()


def send_action(
    assoc: Association,
    information: Dataset | None,
    *,
    action_type: int = 1,
    instance: str = WELL_KNOWN,
) -> tuple[int, str]:
    """Status and Error Comment of one N-ACTION."""
    answer, _ = assoc.send_n_action(information, action_type, MODEL, instance)
    return int(answer.Status), str(answer.get("ErrorComment", ""))


def send_raw_action(assoc: Association, data: bytes) -> int:
    """Status of an N-ACTION whose Action Information is any bytes."""
    request = N_ACTION()
    request.MessageID = 5
    request.RequestedSOPClassUID, request.RequestedSOPInstanceUID = MODEL, WELL_KNOWN
    request.ActionTypeID = 1
    request.ActionInformation = BytesIO(data)
    assoc._reactor_checkpoint.clear()
    while not assoc._is_paused:
        time.sleep(0.001)
    assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
    _, answer = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    return int(answer.Status)


def report(port: int, event_type: int, information: Dataset, *, calling_ae: str, instance: str = WELL_KNOWN) -> int:
    """Report to a node as SCP on an association of our own; return its status."""
    ae = AE(calling_ae)
    ae.add_requested_context(MODEL, [ExplicitVRLittleEndian])
    assoc = ae.associate("127.0.0.1", port, ae_title="FIRSTREAD", ext_neg=[build_role(MODEL, scp_role=True)])
    assert assoc.is_established
    try:
        answer, _ = assoc.send_n_event_report(information, event_type, MODEL, instance)
        return int(answer.Status)
    finally:
        assoc.release()


class Pacs:
    """Takes N-ACTION with ``status``, and reports on the same association when ``answer`` says what."""

    def __init__(
        self,
        ae_title: str = "ARCHIVE",
        *,
        status: int = 0x0000,
        answer: Callable[[str, list[Pair]], tuple[int, Dataset]] | None = None,
    ) -> None:
        self.asked: list[tuple[str, list[Pair]]] = []
        self.calling_aes: list[str] = []
        self.status = status
        self.statuses: list[int] = []
        self._answer = answer
        self._ae = AE(ae_title)
        self._ae.add_supported_context(MODEL)
        self._server = self._ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, self._on_action)]
        )
        self.port: int = self._server.server_address[1]

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        ds = event.action_information
        pairs = [(str(i.ReferencedSOPClassUID), str(i.ReferencedSOPInstanceUID)) for i in ds.ReferencedSOPSequence]
        self.asked.append((str(ds.TransactionUID), pairs))
        self.calling_aes.append(str(event.assoc.requestor.ae_title).strip())
        if self._answer:
            threading.Thread(target=self._report, args=(event.assoc, *self.asked[-1]), daemon=True).start()
        return self.status, None

    def _report(self, assoc: Association, transaction: str, pairs: list[Pair]) -> None:
        assert self._answer is not None
        time.sleep(0.3)
        event_type, information = self._answer(transaction, pairs)
        answer, _ = assoc.send_n_event_report(information, event_type, MODEL, WELL_KNOWN)
        self.statuses.append(int(answer.Status))

    def stop(self) -> None:
        self._ae.shutdown()
