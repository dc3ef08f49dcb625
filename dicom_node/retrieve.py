"""Fetch one Study from an archive into our own Inbox: C-GET, C-MOVE to ourselves, or WADO-RS.

However it comes, each Instance ends like one that was sent by C-STORE: its bytes as they were sent, hashed, flushed,
indexed, or refused with the same reasons. What came before a retrieval was lost stays.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EncapsulatedPDFStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import build_role, evt
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as StudyRootGet
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as StudyRootMove

from config.errors import AppError, InvalidUidError, PeerUnavailableError
from dicom_node import scu
from dicom_node.library import MAX_CONTEXTS
from dicom_node.query import SYNTAXES, find, query_keys
from dicom_node.scu import Address
from dicom_node.transfer_syntaxes import ACCEPTED, is_storage_sop_class
from instances import storing
from instances.arrival import Announced
from instances.header import valid_uid
from instances.storing import Keeper

_NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_COMPRESSED = [syntax for syntax in ACCEPTED if syntax not in _NATIVE]
_PENDING = frozenset({0xFF00, 0xFF01})
_PARTLY = 0xB000  # some sub-operations failed (PS3.4 tables C.4-2 and C.4-3)
_LOOKED_AT = 2000  # Instances of one Series
_USUAL: Mapping[str, tuple[str, ...]] = {
    "CT": (CTImageStorage, EnhancedCTImageStorage),
    "MR": (MRImageStorage, EnhancedMRImageStorage),
    "CR": (ComputedRadiographyImageStorage,),
    "DX": (DigitalXRayImageStorageForPresentation,),
    "SR": (BasicTextSRStorage, EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage),
    "DOC": (EncapsulatedPDFStorage,),
    "OT": (SecondaryCaptureImageStorage, EncapsulatedPDFStorage),
}
_WORDS = {
    0xA701: "it is out of resources to count matches",
    0xA702: "it is out of resources to send",
    0xA801: "it does not know our AE title {ae}: add {ae} with our address and port to its destinations",
    0xA900: "the request does not suit its information model",
    0xFE00: "it cancelled the retrieval",
    0x0122: "it does not serve this kind of retrieval",
    0x0124: "we are not authorised to retrieve from it",
}


@dataclass(frozen=True)
class Retrieval:
    """One Study to fetch; ``message_id`` tells what arrives because of it from what others send."""

    study_instance_uid: str
    message_id: int


@dataclass
class Fetched:
    """What a retrieval brought; ``failed`` are SOP Instance UIDs the archive could not send, as far as it says."""

    completed: int = 0
    failed: list[str] = field(default_factory=list)
    failures: int = 0  # sub-operations

    @property
    def is_whole(self) -> bool:
        """Whether everything the archive has came."""
        return not self.failures and not self.failed


def study_classes(peer: Address, study_instance_uid: str) -> list[str]:
    """Return the storage SOP Classes an archive holds of a Study, so that only those are negotiated.

    Asked for each Series, since few archives answer SOP Classes in Study; an archive that does not name the classes
    of Instances either is taken to hold the usual ones of the Series' Modality.

    Raises:
        PeerUnavailableError: see :func:`dicom_node.query.find`; or it holds nothing we store.
    """
    series = find(peer, query_keys("SERIES", StudyInstanceUID=study_instance_uid, SeriesInstanceUID="", Modality=""))
    classes: set[str] = set()
    for one in series:
        keys = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": _uid(one, "SeriesInstanceUID")}
        asked = query_keys("IMAGE", **keys, SOPInstanceUID="", SOPClassUID="")
        named = [_uid(instance, "SOPClassUID") for instance in find(peer, asked, limit=_LOOKED_AT) if _has(instance)]
        classes.update(named or _USUAL.get(str(one.get("Modality", "")), ()))
    stored = sorted(uid for uid in classes if is_storage_sop_class(uid))
    if not stored:
        raise PeerUnavailableError("it names no SOP Class that we store in this study")
    return stored


def _has(instance: Dataset) -> bool:
    return bool(instance.get("SOPClassUID"))


def get_contexts(classes: Sequence[str]) -> list[PresentationContext]:
    """Return the presentation contexts of a C-GET: at most 128, of which one is the retrieval's own.

    Each class has a context for native pixels, and where there is room one for each compressed transfer syntax: in
    one context with several, the archive would have to pick one for all, and decompress what is stored otherwise.
    """
    kept = list(islice(classes, MAX_CONTEXTS - 1))
    contexts = [build_context(StudyRootGet, SYNTAXES)]
    room = MAX_CONTEXTS - len(contexts) - len(kept)
    contexts += [build_context(UID(uid), _NATIVE) for uid in kept]
    wanted = ((uid, syntax) for syntax in _COMPRESSED for uid in kept)
    contexts += [build_context(UID(uid), [syntax]) for uid, syntax in islice(wanted, room)]
    return contexts


def get(peer: Address, retrieval: Retrieval, keeper: Keeper, classes: Sequence[str]) -> Fetched:
    """Fetch a Study by C-GET: the archive stores on our own association (PS3.4 C.4.3).

    Args:
        peer: the archive.
        retrieval: what to fetch.
        keeper: where Instances go.
        classes: storage SOP Classes the Study holds, see :func:`study_classes`.

    Raises:
        PeerUnavailableError: refused in the archive's words, or lost before the last answer.
    """
    arrivals: list[bool] = []
    handler = (evt.EVT_C_STORE, _stored, [peer, retrieval, keeper, arrivals])
    roles = [build_role(UID(uid), scp_role=True) for uid in classes[: MAX_CONTEXTS - 1]]
    assoc = scu.associate(peer, get_contexts(classes), roles=roles, handlers=[handler])
    request = query_keys("STUDY", StudyInstanceUID=retrieval.study_instance_uid)
    try:
        answers = _send(lambda: assoc.send_c_get(request, StudyRootGet, msg_id=retrieval.message_id))
        fetched = _outcome(peer, answers)
    finally:
        scu.end(assoc)
    fetched.completed = sum(arrivals)
    fetched.failures = max(fetched.failures, len(arrivals) - fetched.completed)
    return fetched


def move(peer: Address, retrieval: Retrieval) -> Fetched:
    """Have an archive send a Study to our own node by C-MOVE (PS3.4 C.4.2); it arrives there as any other.

    The archive has to know our AE title, address and port, and to name us in Move Originator (0000,1030) and our
    Message ID in (0000,1031): only by these is a prior told from a Study that somebody routes to us.

    Raises:
        PeerUnavailableError: refused in the archive's words, or lost before the last answer.
    """
    assoc = scu.associate(peer, [build_context(StudyRootMove, SYNTAXES)])
    request = query_keys("STUDY", StudyInstanceUID=retrieval.study_instance_uid)
    try:
        answers = _send(lambda: assoc.send_c_move(request, peer.calling_ae, StudyRootMove, msg_id=retrieval.message_id))
        return _outcome(peer, answers)
    finally:
        scu.end(assoc)


def _send(ask: Callable[[], Iterable[tuple[Dataset, Dataset | None]]]) -> Iterable[tuple[Dataset, Dataset | None]]:
    try:
        yield from ask()
    except (ValueError, RuntimeError) as exc:
        raise PeerUnavailableError("it does not serve this kind of retrieval, or ended the association") from exc


def _outcome(peer: Address, answers: Iterable[tuple[Dataset, Dataset | None]]) -> Fetched:
    """Return what the last answer of a retrieval says.

    Raises:
        PeerUnavailableError: it is a refusal, or never came.
    """
    last, identifier = next(iter(deque(answers, maxlen=1)), (Dataset(), None))
    status = int(last.Status) if "Status" in last else None
    if status is None or status in _PENDING:
        raise PeerUnavailableError("the association was lost before the study was there")
    counted = Fetched(
        completed=int(last.get("NumberOfCompletedSuboperations", 0) or 0),
        failed=_failed_uids(identifier),
        failures=int(last.get("NumberOfFailedSuboperations", 0) or 0),
    )
    if status in (0x0000, _PARTLY):
        return counted
    words = _WORDS.get(status, "it cannot process it").format(ae=peer.calling_ae)
    raise PeerUnavailableError(f"the retrieval was answered 0x{status:04X}: {words}")


def _failed_uids(identifier: Dataset | None) -> list[str]:
    value = identifier.get("FailedSOPInstanceUIDList") if identifier else None
    if not value:
        return []
    return [value] if isinstance(value, str) else [str(uid) for uid in value]


def _stored(event: Event, peer: Address, retrieval: Retrieval, keeper: Keeper, arrivals: list[bool]) -> int | Dataset:
    """Answer one C-STORE sub-operation of our C-GET as our node answers any other."""
    request = event.request
    announced = Announced(
        transfer_syntax_uid=str(event.context.transfer_syntax),
        sop_class_uid=str(request.AffectedSOPClassUID or ""),
        sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
        calling_ae=peer.called_ae,
        called_ae=peer.calling_ae,
        move_originator_ae=peer.calling_ae,
        move_message_id=retrieval.message_id,
    )
    dataset = request.DataSet.getbuffer() if request.DataSet else memoryview(b"")
    status, comment = received(keeper, announced, [dataset], abstract_syntax=str(event.context.abstract_syntax))
    arrivals.append(status == storing.SUCCESS)
    if not comment:
        return status
    response = Dataset()
    response.Status, response.ErrorComment = status, comment
    return response


def received(
    keeper: Keeper, announced: Announced, pieces: Iterable[memoryview], *, abstract_syntax: str
) -> storing.Answer:
    """Keep one Data Set that comes in pieces; the answer is that of a C-STORE.

    Raises:
        PeerUnavailableError: the peer was lost between two pieces.
    """
    try:
        arrival = keeper.open(announced)
    except AppError as exc:
        return storing.refuse(keeper, announced, None, exc)
    with arrival:
        try:
            for piece in pieces:
                arrival.write(piece)
        except PeerUnavailableError:
            raise
        except AppError as exc:
            return storing.refuse(keeper, announced, None, exc)
        return storing.keep(keeper, arrival, abstract_syntax=abstract_syntax)


def _uid(ds: Dataset, keyword: str) -> str:
    """Return a UID an archive answered; what is none ends the retrieval.

    Raises:
        PeerUnavailableError: it is none.
    """
    try:
        return valid_uid(str(ds.get(keyword, "")), what=keyword)
    except (InvalidUidError, ValueError, TypeError) as exc:
        raise PeerUnavailableError("it answered with a UID that is none") from exc
