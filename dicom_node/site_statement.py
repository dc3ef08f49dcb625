"""What the settings of one installation make of the conformance statement."""

from collections.abc import Sequence

from config.settings import Destination, DicomSettings, Peer, Settings
from dicom_node.conformance import markdown_table, table_or_none, yes_or_no


def site_statement(settings: Settings, peers: Sequence[Peer]) -> str:
    """Return what this installation answers to, whom it lets in and whom it calls; no secret is in it."""
    dicom = settings.dicom
    parts = ["# DICOM conformance of this installation", "", markdown_table(("", ""), _listening(settings))]
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
    parts += [
        "",
        "## AE titles we answer to",
        "",
        markdown_table(("AE title", "Routing", "Accepts", "Quiet time"), names),
    ]
    parts += ["", "## Who may call", ""]
    parts.append(markdown_table(_PEER_COLUMNS, [_peer(one, dicom) for one in peers]) if peers else _NOBODY)
    parts += ["", "## Where results go", ""]
    parts.append(
        table_or_none(
            ("Name", "Protocol", "AE title", "Address", "TLS", "Drafts", "Commitment asked", "Counted"),
            [
                (
                    *(d.name, d.protocol, d.ae_title, _address(d), yes_or_no(d.tls or d.url.startswith("https:"))),
                    *(yes_or_no(d.drafts), yes_or_no(d.commitment), yes_or_no(d.count)),
                )
                for d in settings.destinations
            ],
        )
    )
    parts += ["", "## Archives asked for earlier studies", ""]
    parts.append(
        table_or_none(
            ("Name", "Method", "AE title", "Address", "TLS"),
            [
                (
                    s.name,
                    s.method,
                    s.ae_title,
                    s.url or f"{s.host}:{s.port}",
                    yes_or_no(s.tls or s.url.startswith("https:")),
                )
                for s in settings.priors.sources
            ],
        )
    )
    keep = settings.retention
    parts += [
        "",
        "## Retention",
        "",
        markdown_table(
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
                ("Studies never reported go too", yes_or_no(keep.unreported)),
                ("Associations that store are refused below", f"{keep.refuse_free_bytes} bytes"),
                ("C-STORE is refused below", f"{dicom.min_free_bytes} bytes"),
            ],
        ),
    ]
    return "\n".join(parts) + "\n"


def _address(destination: Destination) -> str:
    return destination.url or f"{destination.host}:{destination.port}"


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
