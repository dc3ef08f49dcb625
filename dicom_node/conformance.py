"""The tables of docs/conformance.md, written from the code they speak of, and the statement of one installation.

A table that is typed by hand promises what the node did once. Here each row is read from what the node negotiates,
answers or judges by; a test compares the page with them.
"""

import re
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence

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
from config.settings import AeProfile, DicomSettings, Peer, Settings
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
    tls,
)
from dicom_node.connection import SLOW_GRACE_S
from dicom_node.context import Rejection
from dicom_node.handlers import FULL_STORAGE
from dicom_node.sop_classes import name_of
from dicom_node.transfer_syntaxes import ACCEPTED
from instances.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from instances.storing import INTERNAL_ERROR, STATUS

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


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    # an AE title may hold a bar, which would end the cell
    lines += [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _rows(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return _table(head, rows) if rows else "None."


def _name(uid: str) -> str:
    return name_of(uid)


def _dicomweb(routes: Iterable[Route]) -> str:
    rows = sorted(routes, key=lambda route: (route[1].count("/"), route[1], route[0]))
    return _table(("Method", "Resource"), [(method, f"`{path}`") for method, path in rows])


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
    rows = [[_name(uid), f"`{uid}`", _yes(uid in asks), _yes(uid in answers)] for uid in listed]
    stored = [f"Storage: {len(AllStoragePresentationContexts)} classes by name (appendix A)", "", "yes", "yes"]
    return _table(("Service", "SOP Class UID", "User (SCU)", "Provider (SCP)"), [rows[0], stored, *rows[1:]])


def _yes(claim: bool) -> str:
    return "yes" if claim else "no"


def _implementation() -> str:
    dicom = DicomSettings()
    return _table(
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
    return _table(
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
    return _table(
        ("Result", "Source", "Diagnostic", "When"),
        [(one.result, one.source, one.diagnostic, one.reason) for one in rejections()],
    )


def _fields(model: type[BaseModel]) -> str:
    return _table(("Key", "Meaning"), [(f"`{name}`", field.description) for name, field in model.model_fields.items()])


def _extended_negotiation() -> str:
    level, _, signatures, _, coercion, _ = FULL_STORAGE
    return _table(
        ("Byte of Service-class-application-information", "Value", "Means"),
        [
            (1, level, "Level of support: 2, every attribute is kept"),
            (3, signatures, "Level of Digital Signature support: 3, every bit is kept"),
            (5, coercion, "Element coercion: 0, none"),
        ],
    )


def _transfer_syntaxes() -> str:
    return _table(
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
    return _table(("Status", "Error comment", "Error class", "Bytes kept"), rows)


def _normalised_statuses() -> str:
    known = {
        name: value
        for name, value in vars(attributes).items()
        if name.isupper() and name[0] != "_" and type(value) is int
    }
    return _table(
        ("Status", "PS3.7 annex C"),
        [
            (f"`{value:04X}`", name.replace("_", " ").capitalize())
            for name, value in sorted(known.items(), key=lambda i: i[1])
        ],
    )


def _storage_classes() -> str:
    rows = sorted(
        (_name(str(one.abstract_syntax)), f"`{one.abstract_syntax}`") for one in AllStoragePresentationContexts
    )
    return _table(("SOP Class", "UID"), rows)


def _tls() -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(tls.CIPHERS)
    suites = sorted(one["name"] for one in context.get_ciphers() if one["protocol"] == "TLSv1.2")
    return _table(
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


def site_statement(settings: Settings, peers: Sequence[Peer]) -> str:
    """Return what this installation answers to, whom it lets in and whom it calls; no secret is in it."""
    dicom = settings.dicom
    parts = ["# DICOM conformance of this installation", "", _table(("", ""), _listening(settings))]
    names = [(dicom.ae_title, "", "every storage class", f"{dicom.quiet_s:g} s")]
    names += [
        (
            one.ae_title,
            one.routing.name if one.routing else "",
            f"storage classes listed: {len(one.sop_classes)}" if one.sop_classes else "every storage class",
            f"{one.quiet_s or dicom.quiet_s:g} s",
        )
        for one in dicom.profiles
    ]
    parts += ["", "## AE titles we answer to", "", _table(("AE title", "Routing", "Accepts", "Quiet time"), names)]
    parts += ["", "## Who may call", ""]
    parts.append(_table(_PEER_COLUMNS, [_peer(one, dicom) for one in peers]) if peers else _NOBODY)
    parts += ["", "## Where results go", ""]
    parts.append(
        _rows(
            ("Name", "AE title", "Address", "TLS", "Drafts", "Commitment asked"),
            [
                (d.name, d.ae_title, f"{d.host}:{d.port}", _yes(d.tls), _yes(d.drafts), _yes(d.commitment))
                for d in settings.destinations
            ],
        )
    )
    parts += ["", "## Archives asked for earlier studies", ""]
    parts.append(
        _rows(
            ("Name", "Method", "AE title", "Address", "TLS"),
            [
                (s.name, s.method, s.ae_title, s.url or f"{s.host}:{s.port}", _yes(s.tls or s.url.startswith("https:")))
                for s in settings.priors.sources
            ],
        )
    )
    keep = settings.retention
    parts += [
        "",
        "## Retention",
        "",
        _table(
            ("", ""),
            [
                (
                    "Pixel data of delivered Studies go after",
                    f"{keep.keep_days:g} days" if keep.keep_days else "never by age",
                ),
                (
                    "They go when less is free than",
                    f"{keep.wanted_free_bytes} bytes" if keep.wanted_free_bytes else "never",
                ),
                ("Studies never reported go too", _yes(keep.unreported)),
                ("Associations that store are refused below", f"{keep.refuse_free_bytes} bytes"),
                ("C-STORE is refused below", f"{dicom.min_free_bytes} bytes"),
            ],
        ),
    ]
    return "\n".join(parts) + "\n"


_NOBODY = "No peer is configured: only callers on this machine, and any of them."
_PEER_COLUMNS = ("Calling AE title", "From", "Certificate subject", "May call", "User identity", "Associations")


def _listening(settings: Settings) -> list[tuple[str, str]]:
    dicom = settings.dicom
    secure = f"{dicom.tls.host}:{dicom.tls.port}, both sides with certificate" if dicom.tls.certificate else "off"
    return [
        ("Without TLS", f"{dicom.host}:{dicom.port}"),
        ("With TLS", secure),
        ("Associations at once", str(dicom.max_associations)),
        ("DICOMweb", f"port {settings.web.port}, below /dicomweb" if settings.web.dicomweb else "off"),
    ]


def _peer(peer: Peer, dicom: DicomSettings) -> tuple[str, ...]:
    return (
        peer.ae_title,
        peer.host or "any address",
        peer.certificate_subject or "any",
        ", ".join(peer.called_ae) or "all of ours",
        "required" if peer.user else "not asked",
        str(peer.max_associations or dicom.max_associations_per_peer),
    )
