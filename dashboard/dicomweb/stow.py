"""STOW-RS: each part goes piece by piece into the inbox, as a C-STORE does (PS3.18 section 10.5)."""

import struct
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import chain
from typing import Any
from uuid import UUID, uuid4

import structlog
from pydicom.uid import UID, ImplicitVRLittleEndian
from werkzeug.exceptions import RequestEntityTooLarge

from config.errors import AppError, BrokenBodyError, RefusedInputError, SopMismatchError, UnreadableDatasetError
from dashboard.dicomweb.multipart import Part
from db.lifecycle import Received
from instances.arrival import Announced, Arrival
from instances.part10 import split_file
from instances.storing import STATUS, SUCCESS, Keeper, keep, refuse

log = structlog.get_logger()
_MOST_META = 1 << 20
_BEGINNING = 1024  # of a Data Set: its UIDs stand there
_AT_ONCE = 8  # parts of one request whose commit is awaited while the next is read
_DICOM_TYPES = frozenset({"application/dicom", "application/octet-stream", ""})
_WRONG_TYPE = 0xC004
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_LONG_HEADERS = frozenset({b"OB", b"OW", b"SQ", b"UN", b"UT"})  # none of them stands before the UIDs
# some libraries leave the preamble out when an object never was a file; nothing else is missing from it
_GROUP_2, _PREAMBLE = b"\x02\x00", bytes(128) + b"DICM"
_RESOURCES = range(0xA700, 0xA800)


@dataclass(frozen=True)
class Outcome:
    """What became of one part; ``sop_instance_uid`` is empty when it named none."""

    status: int
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    address: str = ""
    study_id: UUID | None = None


@dataclass
class Stored:
    """What became of one request; ``broken`` says why its body could not be read to the end."""

    outcomes: list[Outcome] = field(default_factory=list)
    broken: BrokenBodyError | RequestEntityTooLarge | None = None
    request_id: UUID = field(default_factory=uuid4)  # as the Instances' rows have it in place of an association

    @property
    def good(self) -> list[Outcome]:
        """The Instances that are stored."""
        return [one for one in self.outcomes if one.status == SUCCESS]

    @property
    def bad(self) -> list[Outcome]:
        """Those that are not."""
        return [one for one in self.outcomes if one.status != SUCCESS]

    @property
    def http_status(self) -> HTTPStatus:
        """The status of the answer (PS3.18 table 10.5.3-1)."""
        if self.good:
            return HTTPStatus.ACCEPTED if self.bad or self.broken else HTTPStatus.OK
        if isinstance(self.broken, RequestEntityTooLarge):
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        if self.broken or not self.outcomes:
            return HTTPStatus.BAD_REQUEST
        if any(one.status in _RESOURCES for one in self.bad):
            return HTTPStatus.SERVICE_UNAVAILABLE
        if all(one.status == _WRONG_TYPE for one in self.bad):
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
        return HTTPStatus.CONFLICT

    def model(self, base: str) -> dict[str, Any]:
        """Return the Store Instances Response Module (PS3.18 Annex I) in the DICOM JSON Model."""
        studies = {one.address.partition("/series/")[0] for one in self.good}
        out: dict[str, Any] = {}
        if len(studies) == 1:
            out["00081190"] = {"vr": "UR", "Value": [base + studies.pop()]}
        known = [one for one in self.bad if one.sop_instance_uid]
        others = [one for one in self.bad if not one.sop_instance_uid]
        for tag, items in (
            ("00081198", [{**_reference(one), **_reason(one)} for one in known]),
            ("00081199", [{**_reference(one), "00081190": _ur(base + one.address)} for one in self.good]),
            ("0008119A", [_reason(one) for one in others]),
        ):
            if items:
                out[tag] = {"vr": "SQ", "Value": items}
        return out


@dataclass(frozen=True)
class _OneStudy:
    """The inbox, for one request: it refuses other Studies than the address names, and tells what was kept."""

    keeper: Keeper
    study_instance_uid: str
    kept: dict[str, Received] = field(default_factory=dict)

    def open(self, announced: Announced) -> Arrival:
        return self.keeper.open(announced)

    def keep(self, arrival: Arrival) -> Received:
        header = arrival.header
        assert header is not None
        if self.study_instance_uid not in {"", header.study_instance_uid}:
            raise SopMismatchError("the Data Set is of another Study than the address")
        received = self.keeper.keep(arrival)
        self.kept[header.sop_instance_uid] = received
        return received

    def refuse(self, announced: Announced, arrival: Arrival | None, error: AppError | None, status: int) -> None:
        self.keeper.refuse(announced, arrival, error, status)


class Store:
    """One request on its way into the inbox."""

    def __init__(self, keeper: Keeper, *, calling_ae: str, called_ae: str, study_instance_uid: str = "") -> None:
        self._keeper = _OneStudy(keeper, study_instance_uid)
        self._calling_ae = calling_ae
        self._called_ae = called_ae
        self._stored = Stored()

    def take(self, parts: Iterable[Part]) -> Stored:
        """Store what ``parts`` bring, in their order; a part that is refused stops no other.

        While one part waits for its commit the next is read, so that commits of several are grouped.
        """
        stored = self._stored
        waiting: deque[Future[Outcome]] = deque()
        with ThreadPoolExecutor(_AT_ONCE, "stow") as pool:
            try:
                for part in parts:
                    waiting.append(self._receive(part, pool))
                    if len(waiting) > _AT_ONCE:
                        stored.outcomes.append(waiting.popleft().result())
            except (BrokenBodyError, RequestEntityTooLarge) as exc:
                stored.broken = exc
            stored.outcomes += [one.result() for one in waiting]
        return stored

    def _receive(self, part: Part, pool: ThreadPoolExecutor) -> Future[Outcome]:
        """Write one part into a file; its commit is left to the pool."""
        if part.media_type not in _DICOM_TYPES:
            return _done(Outcome(_WRONG_TYPE))
        try:
            announced, rest = self._announced(part.pieces)
        except UnreadableDatasetError as exc:
            log.warning("instance.refused", error=exc, calling_ae=self._calling_ae)
            return _done(Outcome(STATUS[UnreadableDatasetError][0]))
        try:
            arrival = self._keeper.open(announced)
        except AppError as exc:
            return _done(self._refused(announced, exc))
        try:
            for piece in rest:
                arrival.write(memoryview(piece))
        except (BrokenBodyError, RequestEntityTooLarge):
            arrival.close()
            raise
        except AppError as exc:
            arrival.close()
            return _done(self._refused(announced, exc))
        return pool.submit(self._keep, arrival)

    def _announced(self, pieces: Iterator[bytes]) -> tuple[Announced, Iterator[bytes]]:
        """Return what the file meta information of a part says, and the Data Set behind it."""
        head = next(pieces, b"")
        if head.startswith(_GROUP_2):
            head = _PREAMBLE + head
        for piece in chain((b"",), pieces):
            head += piece
            found = _split(head)
            if found is not None and len(head) >= found + _BEGINNING:
                return self._of(head, found), chain((head[found:],), pieces)
            if found is None and len(head) > _MOST_META:
                raise UnreadableDatasetError("the file meta information does not end")
        _, offset = split_file(head)
        return self._of(head, offset), iter((head[offset:],))

    def _of(self, head: bytes, offset: int) -> Announced:
        meta, _ = split_file(head[: offset + 2])
        if UID(meta.transfer_syntax_uid).type != "Transfer Syntax":
            raise UnreadableDatasetError("the file names no transfer syntax that is known")
        named = _named_inside(head[offset:], meta.transfer_syntax_uid)
        sop_class_uid, sop_instance_uid = named or (meta.sop_class_uid, meta.sop_instance_uid)
        return Announced(
            transfer_syntax_uid=meta.transfer_syntax_uid,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            calling_ae=self._calling_ae,
            called_ae=self._called_ae,
            association_id=self._stored.request_id,
        )

    def _keep(self, arrival: Arrival) -> Outcome:
        with arrival:
            announced = arrival.announced
            status, _ = keep(self._keeper, arrival, abstract_syntax=announced.sop_class_uid)
            header = arrival.header
        if status != SUCCESS or header is None:
            return self._outcome(announced, status)
        address = f"/studies/{header.study_instance_uid}/series/{header.series_instance_uid}"
        return Outcome(
            SUCCESS,
            header.sop_class_uid,
            header.sop_instance_uid,
            f"{address}/instances/{header.sop_instance_uid}",
            self._keeper.kept[header.sop_instance_uid].study_id,
        )

    def _refused(self, announced: Announced, exc: AppError) -> Outcome:
        status, _ = refuse(self._keeper, announced, None, exc)
        return self._outcome(announced, status)

    @staticmethod
    def _outcome(announced: Announced, status: int) -> Outcome:
        meta = announced.meta  # without what is no UID
        return Outcome(status, meta.sop_class_uid, meta.sop_instance_uid)


def counts_by_study(outcomes: Sequence[Outcome]) -> Mapping[UUID, int]:
    """Return how many Instances were stored of each Study."""
    counts: dict[UUID, int] = {}
    for one in outcomes:
        if one.study_id is not None:
            counts[one.study_id] = counts.get(one.study_id, 0) + 1
    return counts


def _split(head: bytes) -> int | None:
    """Return where the Data Set begins; None while that cannot be told."""
    try:
        _, offset = split_file(head)
    except RefusedInputError:
        return None
    return offset if offset + 2 <= len(head) else None


def _named_inside(beginning: bytes, transfer_syntax_uid: str) -> tuple[str, str] | None:
    """Return SOP Class and Instance UID as the Data Set itself says; None when its beginning does not tell.

    Anonymised files often keep the old UIDs in their file meta information, which is nobody's command here.
    """
    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    found: dict[int, str] = {}
    position = 0
    while len(found) < 2 and position + 8 <= len(beginning):
        group, number = struct.unpack_from("<HH", beginning, position)
        tag = group << 16 | number
        vr = beginning[position + 4 : position + 6]
        if tag > _SOP_INSTANCE or (not implicit and (not vr.isalpha() or vr in _LONG_HEADERS)):
            return None
        length = struct.unpack_from("<I" if implicit else "<H", beginning, position + (4 if implicit else 6))[0]
        if tag in {_SOP_CLASS, _SOP_INSTANCE}:
            found[tag] = beginning[position + 8 : position + 8 + length][:64].decode("ascii", "replace").rstrip("\0 ")
        position += 8 + length
    return (found[_SOP_CLASS], found[_SOP_INSTANCE]) if len(found) == 2 else None


def _done(outcome: Outcome) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def _ur(address: str) -> dict[str, Any]:
    return {"vr": "UR", "Value": [address]}


def _reference(one: Outcome) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [one.sop_class_uid]} if one.sop_class_uid else {"vr": "UI"},
        "00081155": {"vr": "UI", "Value": [one.sop_instance_uid]},
    }


def _reason(one: Outcome) -> dict[str, Any]:
    return {"00081197": {"vr": "US", "Value": [one.status]}}
