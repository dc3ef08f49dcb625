"""Ask an archive what it has: Study Root C-FIND (PS3.4 C.4.1)."""

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRootFind

from config.errors import PeerUnavailableError
from dicom_node import scu
from dicom_node.scu import Address

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_MESSAGE_ID = 1
_PENDING = frozenset({0xFF00, 0xFF01})  # the second: some optional keys were not matched
_CANCELLED = 0xFE00
_WORDS = {  # PS3.4 table C.4-1, PS3.7 annex C
    0xA700: "it is out of resources",
    0xA900: "the query does not suit its information model",
    0x0122: "it does not answer Study Root queries",
    0x0124: "we are not authorised to query it",
}


def find(peer: Address, identifier: Dataset, *, limit: int = 500) -> list[Dataset]:
    """Return what an archive has that matches ``identifier``, in its order; no match is an empty list.

    Archives ignore keys they do not know, so what comes back may be more than was asked for: the caller compares.
    Text is decoded by each answer's own Specific Character Set.

    Args:
        peer: the archive.
        identifier: keys with Query/Retrieve Level; an empty value asks for it to be returned. Text beyond ASCII
            is sent as UTF-8.
        limit: after so many matches the query is cancelled.

    Raises:
        PeerUnavailableError: no association, no Study Root FIND, a refusal in the archive's words, or an
            association lost before the last answer.
    """
    if not _is_ascii(identifier):
        identifier.SpecificCharacterSet = "ISO_IR 192"
    assoc = scu.associate(peer, [build_context(StudyRootFind, SYNTAXES)])
    try:
        return _matches(assoc, identifier, limit)
    finally:
        scu.end(assoc)


def query_keys(level: str, **values: str) -> Dataset:
    """Return an Identifier: Query/Retrieve Level, and keys by keyword; an empty value asks for it to be returned."""
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def _matches(assoc: Association, identifier: Dataset, limit: int) -> list[Dataset]:
    found: list[Dataset] = []
    status: int | None = None
    try:
        for answer, match in assoc.send_c_find(identifier, StudyRootFind, msg_id=_MESSAGE_ID):
            status = int(answer.Status) if "Status" in answer else None
            if status not in _PENDING or match is None:
                continue
            if len(found) < limit:
                found.append(match)
                if len(found) == limit:
                    assoc.send_c_cancel(_MESSAGE_ID, query_model=StudyRootFind)
    except (ValueError, RuntimeError) as exc:
        raise PeerUnavailableError("it accepts no Study Root queries from us, or ended the association") from exc
    if status == 0x0000 or (status == _CANCELLED and len(found) == limit):
        return found
    if status is None or status in _PENDING:
        raise PeerUnavailableError("the association was lost before the query was answered")
    raise PeerUnavailableError(f"the query was answered 0x{status:04X}: {_WORDS.get(status, 'it cannot process it')}")


def _is_ascii(identifier: Dataset) -> bool:
    return all(str(element.value).isascii() for element in identifier)
