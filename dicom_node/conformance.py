"""The tables of docs/conformance.md, written from the code they speak of.

A table that is typed by hand promises what the node did once. Here each row is read from what the node negotiates,
answers or judges by; a test compares the page with them.
"""

import re
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

from pydantic import BaseModel
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.sop_class import (
    InstanceAvailabilityNotification,
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from config.errors import ConfigurationError
from config.results import ResultKind
from config.settings import AeProfile, DicomSettings, Peer
from config.tls import CIPHERS
from db.lifecycle import DeliveryJob
from dicom_node import (
    attributes,
    commitment_scp,
    commitment_scu,
    delivery,
    library,
    outcome,
    policy,
    priors,
    services,
)
from dicom_node.connection import SLOW_GRACE_S
from dicom_node.context import Rejection
from dicom_node.handlers import FULL_STORAGE
from dicom_node.sop_classes import OPTION, SOP_CLASS, name_of
from dicom_node.transfer_syntaxes import ACCEPTED
from instances.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from instances.storing import INTERNAL_ERROR, STATUS
from reports.values import SERIES_NUMBERS, ObjectKind

_STATUSES = (0x0110, 0x0111, 0x0117, 0x0119, 0x0122, 0x0124, 0xA700, 0xA900, 0xC000)
_SERIES: Mapping[ResultKind, ObjectKind] = {  # those whose object kind has another name
    ResultKind.DRAFT_TEXT_SR: "text_sr",
    ResultKind.REPORT_TEXT_SR: "text_sr",
    ResultKind.DRAFT_PDF: "pdf",
    ResultKind.REPORT_PDF: "pdf",
}
Route = tuple[str, str]
"""HTTP method and path of one DICOMweb transaction."""
_BLOCK = re.compile(r"(<!-- begin ([a-z-]+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def tables(routes: Iterable[Route]) -> dict[str, str]:
    """Return the generated tables by the name of their place; ``routes`` are the DICOMweb ones, which HTTP owns."""
    makers: dict[str, Callable[[], str]] = {
        "services": _services,
        "implementation": _implementation,
        "times": _times,
        "rejections": _rejections,
        "peer-policy": lambda: _fields(Peer),
        "profile-policy": lambda: _fields(AeProfile),
        "extended-negotiation": _extended_negotiation,
        "transfer-syntaxes": _transfer_syntaxes,
        "store-statuses": _store_statuses,
        "normalised-statuses": _normalised_statuses,
        "results": _results,
        "refusals": _refusals,
        "storage-classes": _storage_classes,
        "tls": _tls,
        "dicomweb": lambda: _dicomweb(routes),
    }
    return {name: make() for name, make in makers.items()}


def fill(page: str, generated: Mapping[str, str]) -> str:
    """Return ``page`` with each generated table between its two marks.

    Raises:
        ConfigurationError: the page lacks a place, or has one that nothing is written for.
    """
    found = [match[1] for match in _BLOCK.findall(page)]
    if sorted(found) != sorted(generated):
        odd = sorted(set(found) ^ set(generated)) or sorted(name for name in found if found.count(name) > 1)
        raise ConfigurationError(f"the marks of the page and the tables differ: {', '.join(odd)}")
    return _BLOCK.sub(lambda match: f"{match[1]}{generated[match[2]]}\n{match[3]}", page)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown; a bar in a cell is escaped."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    # an AE title may hold a bar, which would end the cell
    lines += [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def table_or_none(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown, or a sentence when it would be empty."""
    return markdown_table(head, rows) if rows else "None."


def _name(uid: str) -> str:
    return name_of(uid)


def _dicomweb(routes: Iterable[Route]) -> str:
    rows = sorted(routes, key=lambda route: (route[1].count("/"), route[1], route[0]))
    return markdown_table(("Method", "Resource"), [(method, f"`{path}`") for method, path in rows])


def _services() -> str:
    asks = {
        Verification,
        StorageCommitmentPushModel,
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelGet,
        StudyRootQueryRetrieveInformationModelMove,
    }
    answers = {Verification, *services.N_CREATE, *services.N_SET, *services.N_ACTION}
    listed = (
        Verification,
        StorageCommitmentPushModel,
        ModalityPerformedProcedureStep,
        InstanceAvailabilityNotification,
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelMove,
        StudyRootQueryRetrieveInformationModelGet,
    )
    rows = [[_name(uid), f"`{uid}`", yes_or_no(uid in asks), yes_or_no(uid in answers)] for uid in listed]
    stored = [f"Storage: {len(AllStoragePresentationContexts)} classes by name (appendix A)", "", "yes", "yes"]
    return markdown_table(("Service", "SOP Class UID", "User (SCU)", "Provider (SCP)"), [rows[0], stored, *rows[1:]])


def yes_or_no(claim: bool) -> str:
    """Return a claim as a word."""
    return "yes" if claim else "no"


def _implementation() -> str:
    dicom = DicomSettings()
    return markdown_table(
        ("", ""),
        [
            ("Implementation Class UID", f"`{IMPLEMENTATION_CLASS_UID}`"),
            ("Implementation Version Name", f"`{IMPLEMENTATION_VERSION_NAME}`"),
            ("Application context", "`1.2.840.10008.3.1.1.1`"),
            ("Maximum PDU announced", f"{dicom.max_pdu_bytes} bytes (`dicom.max_pdu_bytes`)"),
            ("Associations at once", f"{dicom.max_associations} (`dicom.max_associations`)"),
            (
                "Of these, by one peer",
                f"{dicom.max_associations_per_peer} (`dicom.max_associations_per_peer`, or the peer's own)",
            ),
            ("Presentation contexts proposed at most", library.MAX_CONTEXTS),
            ("Asynchronous operations", "one at a time"),
        ],
    )


def _times() -> str:
    dicom = DicomSettings()
    return markdown_table(
        ("What", "After"),
        [
            ("ARTIM, and the answer to an association request", f"{library.ACSE_TIMEOUT_S:.0f} s"),
            ("TCP connection we open", f"{library.CONNECT_TIMEOUT_S:.0f} s"),
            ("Answer to a DIMSE request of ours", f"{library.DIMSE_TIMEOUT_S:.0f} s"),
            (
                "Idle association: A-ABORT",
                f"{dicom.network_timeout_s:.0f} s (`dicom.network_timeout_s`)",
            ),
            (
                "Object that comes too slowly: A-ABORT",
                f"below {dicom.slow_bytes_per_s} bytes/s after {SLOW_GRACE_S:.0f} s (`dicom.slow_bytes_per_s`)",
            ),
            (
                "Delivery: first retry, doubled each time, an hour at most",
                f"{delivery.RETRY_BASE_S:.0f} s, {outcome.MAX_ATTEMPTS} attempts; "
                f"{outcome.DECLINED_ATTEMPTS} or {outcome.ONCE} where waiting cures nothing",
            ),
            (
                "Storage commitment of what we delivered: asked again, doubled each time, a day at most",
                f"{commitment_scu.PATIENCE.wait_s:.0f} s, {commitment_scu.PATIENCE.max_attempts} attempts",
            ),
            (
                "Storage commitment report of ours: first retry, doubled each time, an hour at most",
                f"{commitment_scp.RETRY_BASE_S:.0f} s, {commitment_scp.MAX_ATTEMPTS} attempts",
            ),
            (
                "Retrieval of a prior: first retry, doubled each time",
                f"{priors.RETRY_BASE_S:.0f} s, {priors.MAX_ATTEMPTS} attempts",
            ),
        ],
    )


def rejections() -> list[Rejection]:
    """Return every rejection the policy knows."""
    return [value for value in vars(policy).values() if isinstance(value, Rejection)]


def _rejections() -> str:
    return markdown_table(
        ("Result", "Source", "Diagnostic", "When"),
        [(one.result, one.source, one.diagnostic, one.reason) for one in rejections()],
    )


def _fields(model: type[BaseModel]) -> str:
    return markdown_table(
        ("Key", "Meaning"), [(f"`{name}`", field.description) for name, field in model.model_fields.items()]
    )


def _extended_negotiation() -> str:
    level, _, signatures, _, coercion, _ = FULL_STORAGE
    return markdown_table(
        ("Byte of Service-class-application-information", "Value", "Means"),
        [
            (1, level, "Level of support: 2, every attribute is kept"),
            (3, signatures, "Level of Digital Signature support: 3, every bit is kept"),
            (5, coercion, "Element coercion: 0, none"),
        ],
    )


def _transfer_syntaxes() -> str:
    return markdown_table(
        ("Rank", "Transfer syntax", "UID"),
        [(rank, _name(str(uid)), f"`{uid}`") for rank, uid in enumerate(ACCEPTED, 1)],
    )


def _store_statuses() -> str:
    rows = [("`0000`", "", "", "in the instance store")]
    for kind, (status, comment) in STATUS.items():
        comes_back = 0xA700 <= status <= 0xA7FF
        kept = "no: the sender keeps its copy" if comes_back else "in the quarantine"
        rows.append((f"`{status:04X}`", comment, f"`{kind.__name__}`", kept))
    status, comment = INTERNAL_ERROR
    rows.append((f"`{status:04X}`", comment, "any other", "in the quarantine"))
    return markdown_table(("Status", "Error comment", "Error class", "Bytes kept"), rows)


def _normalised_statuses() -> str:
    known = {
        name: value
        for name, value in vars(attributes).items()
        if name.isupper() and name[0] != "_" and type(value) is int
    }
    return markdown_table(
        ("Status", "PS3.7 annex C"),
        [
            (f"`{value:04X}`", name.replace("_", " ").capitalize())
            for name, value in sorted(known.items(), key=lambda i: i[1])
        ],
    )


def _results() -> str:
    rows = [
        (
            kind.replace("_", " ").capitalize().replace(" sr", " SR").replace("pdf", "PDF"),
            name_of(uid),
            f"`{uid}`",
            SERIES_NUMBERS[_SERIES.get(kind, cast("ObjectKind", kind.lower()))],
            f"`{OPTION[kind]}`",
        )
        for kind, uid in SOP_CLASS.items()
    ]
    return markdown_table(("Result", "SOP Class", "UID", "Series Number", "Sent where"), rows)


def _refusals() -> str:
    job = DeliveryJob(UUID(int=0), "", "", "", "", "", UUID(int=0), 1, datetime(2026, 1, 1, tzinfo=UTC))
    rows = []
    for status in _STATUSES:
        found = outcome.refused(job, status)
        words = found.error.partition("0x")[2][5:] or "it holds this object already"
        last = "delivered" if found.accepted else f"{found.attempts} attempt{'s' if found.attempts > 1 else ''}"
        rows.append((f"`{status:04X}`{'…' if status & 0xFF == 0 and status != 0xC000 else ''}", words, last))
    return markdown_table(("Status or Failure Reason", "Means", "Consequence"), rows)


def _storage_classes() -> str:
    rows = sorted(
        (_name(str(one.abstract_syntax)), f"`{one.abstract_syntax}`") for one in AllStoragePresentationContexts
    )
    return markdown_table(("SOP Class", "UID"), rows)


def _tls() -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(CIPHERS)
    suites = sorted(one["name"] for one in context.get_ciphers() if one["protocol"] == "TLSv1.2")
    return markdown_table(
        ("", ""),
        [
            ("Versions", "TLS 1.3 and TLS 1.2; nothing older"),
            ("Cipher suites of TLS 1.2", ", ".join(f"`{name}`" for name in suites)),
            ("Cipher suites of TLS 1.3", "those of OpenSSL, all AEAD"),
            ("Both sides", "show a certificate of an authority in `dicom.tls.authorities`"),
            ("Port", f"{DicomSettings().tls.port} (`dicom.tls.port`)"),
            ("Renegotiation, compression, session tickets", "off"),
        ],
    )
