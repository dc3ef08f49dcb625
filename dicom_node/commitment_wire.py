"""Storage commitment as Data Sets: request and report, read with suspicion and written (PS3.4 tables J.3-1, J.3-2)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import StorageCommitmentPushModel

from config.errors import InvalidUidError, RefusedInputError
from instances.header import valid_uid

REQUEST_COMMITMENT = 1  # Action Type ID
ALL_COMMITTED, FAILURES_EXIST = 1, 2  # Event Type ID
MOST_REFERENCES = 100_000
T = TypeVar("T")
Reference = tuple[str, str]
"""SOP Class UID and SOP Instance UID."""


@dataclass(frozen=True)
class Request:
    """The Action Information of an N-ACTION; each Instance is in it once."""

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class Report:
    """The Event Information of an N-EVENT-REPORT; ``failed`` is by SOP Instance UID, with the Failure Reason."""

    transaction_uid: str
    committed: frozenset[Reference]
    failed: Mapping[str, int]


def context() -> PresentationContext:
    """Return the presentation context of both directions."""
    return build_context(StorageCommitmentPushModel, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])


def read_request(information: Callable[[], Dataset]) -> Request:
    """Read what a peer asks for; the error's text fits an Error Comment and names nobody.

    Raises:
        RefusedInputError: no Data Set, no Transaction UID, no references, or one that is no UID or is there twice.
    """
    return _suspiciously(lambda: _request(information()))


def read_report(information: Callable[[], Dataset]) -> Report:
    """Read what a destination reports.

    Raises:
        RefusedInputError: no Data Set, no Transaction UID, or a reference that is no UID.
    """
    return _suspiciously(lambda: _report(information()))


def write_request(transaction_uid: str, references: Iterable[Reference]) -> Dataset:
    """Return the Action Information that asks for commitment."""
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    ds.ReferencedSOPSequence = [_item(reference) for reference in references]
    return ds


def write_report(request: Request, failed: Mapping[str, int]) -> tuple[int, Dataset]:
    """Return Event Type ID and Event Information: every Instance asked for is in exactly one of the two lists."""
    ds = Dataset()
    ds.TransactionUID = request.transaction_uid
    kept = [_item(reference) for reference in request.references if reference[1] not in failed]
    if kept:
        ds.ReferencedSOPSequence = kept
    if not failed:
        return ALL_COMMITTED, ds
    ds.FailedSOPSequence = [
        _item(reference, failed[reference[1]]) for reference in request.references if reference[1] in failed
    ]
    return FAILURES_EXIST, ds


def _item(reference: Reference, failure_reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
    if failure_reason is not None:
        item.FailureReason = failure_reason
    return item


def _suspiciously(read: Callable[[], T]) -> T:
    """pydicom decodes late and raises what it pleases: whatever it is, the peer sent it."""
    try:
        return read()
    except RefusedInputError:
        raise
    except Exception as exc:
        raise RefusedInputError("Data Set cannot be parsed") from exc


def _request(ds: Dataset) -> Request:
    transaction_uid = _transaction_uid(ds)
    items = ds.get("ReferencedSOPSequence") or []
    if not items:
        raise RefusedInputError("Referenced SOP Sequence is missing or empty")
    if len(items) > MOST_REFERENCES:
        raise RefusedInputError(f"More than {MOST_REFERENCES} references in one request")
    references = dict.fromkeys(_reference(item) for item in items)
    if len({instance for _, instance in references}) < len(references):
        raise RefusedInputError("An Instance is referenced under two SOP Classes")
    return Request(transaction_uid, tuple(references))


def _report(ds: Dataset) -> Report:
    failed = {}
    for item in ds.get("FailedSOPSequence") or []:
        failed[_reference(item)[1]] = int(item.get("FailureReason") or 0)
    committed = frozenset(_reference(item) for item in ds.get("ReferencedSOPSequence") or [])
    return Report(_transaction_uid(ds), committed, failed)


def _transaction_uid(ds: Dataset) -> str:
    return _uid(ds.get("TransactionUID"), "Transaction UID")


def _reference(item: Dataset) -> Reference:
    sop_class = _uid(item.get("ReferencedSOPClassUID"), "Referenced SOP Class UID")
    return sop_class, _uid(item.get("ReferencedSOPInstanceUID"), "Referenced SOP Instance UID")


def _uid(value: object, what: str) -> str:
    try:
        return valid_uid(str(value or ""), what=what)
    except InvalidUidError as exc:
        raise RefusedInputError(f"{what} is missing or malformed") from exc
