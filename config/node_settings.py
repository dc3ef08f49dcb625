"""The knobs of the DICOM node: who may call, under which names, how results leave, what is kept how long."""

import ipaddress
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, PositiveFloat, field_validator, model_validator

from config.destination import AE_TITLE, NAME

_HOST_NAME = re.compile(r"(?=.{1,253}$)(?:[\w-]{1,63}\.)*(?=[\w-]*[A-Za-z])[\w-]{1,63}\.?", re.ASCII)


class Peer(BaseModel, frozen=True, extra="forbid"):
    """A calling AE that may open associations."""

    ae_title: str = Field(pattern=AE_TITLE, description="Calling AE title.")
    host: str | None = Field(
        default=None, description="Only from this address or network (192.0.2.0/24); any address when empty."
    )
    port: int | None = Field(
        default=None, ge=1, le=65535, description="Where it listens itself: for echo and storage commitment reports."
    )
    certificate_subject: str = Field(
        default="", description="Under TLS, the subject its certificate must have (RFC 4514); any when empty."
    )
    called_ae: tuple[str, ...] = Field(default=(), description="Called AE titles it may use; all of ours when empty.")
    user: str = Field(default="", description="User identity it must give (PS3.7 D.3.3.7); none is asked when empty.")
    passcode_file: Path | None = Field(default=None, description="File with the passcode of that user identity.")
    max_associations: int | None = Field(
        default=None, ge=1, description="Associations of this peer at once; dicom.max_associations_per_peer when empty."
    )
    tls: bool = Field(default=False, description="We call it back with TLS.")
    quiet_s: float | None = Field(
        default=None, gt=0, description="Quiet time of this source; that of the called AE when empty."
    )

    @field_validator("host")
    @classmethod
    def _some_host(cls, host: str | None) -> str | None:
        if not host or _HOST_NAME.fullmatch(host):
            return host or None
        try:
            ipaddress.ip_network(host)
        except ValueError as exc:
            raise ValueError(f"{host!r} is no host name, address or network: {exc}") from exc
        return host

    @model_validator(mode="after")
    def _passcode_of_a_user(self) -> "Peer":
        if self.passcode_file and not self.user:
            raise ValueError(f"{self.ae_title} has a passcode_file and no user")
        return self

    @field_validator("certificate_subject")
    @classmethod
    def _some_subject(cls, subject: str) -> str:
        if not subject:
            return subject
        from cryptography.x509 import Name

        try:
            Name.from_rfc4514_string(subject)
        except ValueError as exc:
            raise ValueError(f"{subject!r} is no certificate subject like CN=CT1,O=Hospital (RFC 4514)") from exc
        return subject


class AeProfile(BaseModel, frozen=True, extra="forbid"):
    """A further AE title we answer to, and what is done with what is sent there."""

    ae_title: str = Field(pattern=AE_TITLE, description="Called AE title.")
    routing: Path | None = Field(default=None, description="Routing rules of its own; those of routing when empty.")
    quiet_s: float | None = Field(default=None, gt=0, description="Quiet time; dicom.quiet_s when empty.")
    quiet_by_modality: dict[str, PositiveFloat] = Field(
        default={}, description="Quiet time by Modality, in seconds; goes before quiet_s."
    )
    sop_classes: tuple[str, ...] = Field(
        default=(), description="Storage SOP Class UIDs accepted here; every one of ours when empty."
    )


class TlsSettings(BaseModel, frozen=True, extra="forbid"):
    """DICOM over TLS (PS3.15 B.12), listening beside the plain port."""

    certificate: Path | None = Field(default=None, description="PEM certificate chain; TLS is off when empty.")
    key: Path | None = Field(default=None, description="PEM private key.")
    authorities: Path | None = Field(
        default=None, description="PEM certificates of the authorities whose peers are trusted."
    )
    host: str = Field(default="0.0.0.0", description="Address the TLS port listens on.")  # noqa: S104 mutual TLS
    port: int = Field(default=2762, ge=0, le=65535, description="TLS port; 0 takes a free one.")
    check_host: bool = Field(default=True, description="Compare a called peer's certificate with its host name.")

    @model_validator(mode="after")
    def _complete(self) -> "TlsSettings":
        if self.certificate and not (self.key and self.authorities):
            raise ValueError("dicom.tls needs certificate, key and authorities together")
        return self


class DicomSettings(BaseModel, frozen=True, extra="forbid"):
    """The DICOM node."""

    ae_title: str = Field(
        default="FIRSTREAD", pattern=AE_TITLE, description="Our AE title; other called titles are rejected."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on without TLS; only loopback.")
    port: int = Field(default=11112, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    profiles: tuple[AeProfile, ...] = Field(default=(), description="Further AE titles we answer to.")
    peers: tuple[Peer, ...] = Field(
        default=(),
        description="Calling AEs allowed, beside those of firstread node peers; while there is none, any caller "
        "on loopback.",
    )
    quiet_s: float = Field(default=10.0, gt=0, description="Seconds without a new Instance that complete a Study.")
    quiet_by_modality: dict[str, PositiveFloat] = Field(
        default={}, description="The same by Modality, in seconds; goes before quiet_s."
    )
    max_associations: int = Field(default=25, ge=1, description="Associations served at once.")
    max_associations_per_peer: int = Field(default=10, ge=1, description="Of these, by one calling AE and address.")
    max_pdu_bytes: int = Field(default=131072, ge=4096, description="Maximum PDU size we announce.")
    network_timeout_s: float = Field(default=120.0, gt=0, description="An idle association is aborted after this.")
    slow_bytes_per_s: int = Field(
        default=1024, ge=0, description="A peer that sends an object more slowly than this is aborted; 0 never."
    )
    min_free_bytes: int = Field(
        default=512 * 1024**2,
        ge=0,
        description="C-STORE is refused (A700) when less space than this is free.",
    )
    receivers: int = Field(
        default=2, ge=0, le=64, description="Processes that receive on the one port; 0 receives in the node itself."
    )
    fast_receive: bool = Field(
        default=True, description="Our own path for C-STORE data; off leaves all of it to pynetdicom."
    )
    tls: TlsSettings = TlsSettings()

    @property
    def called_ae(self) -> tuple[str, ...]:
        """Every AE title of ours."""
        return tuple(dict.fromkeys([self.ae_title, *(profile.ae_title for profile in self.profiles)]))

    @model_validator(mode="after")
    def _own_titles(self) -> "DicomSettings":
        titles = [profile.ae_title for profile in self.profiles]
        if len(set(titles)) < len(titles):
            raise ValueError("two of dicom.profiles have the same ae_title")
        strange = sorted({title for peer in self.peers for title in peer.called_ae} - set(self.called_ae))
        if strange:
            raise ValueError(f"a peer is given the called AE title {strange[0]}, which is not ours")
        return self


class PriorSource(BaseModel, frozen=True, extra="forbid"):
    """An archive that is asked for earlier studies and for counts."""

    name: str = Field(pattern=NAME, description="Name shown to people and in the audit log.")
    method: Literal["c-get", "c-move", "dicomweb"] = Field(default="c-get", description="How studies are fetched.")
    ae_title: str = Field(default="", description="Called AE title.")
    host: str = Field(default="", description="Host name or address.")
    port: int = Field(default=104, ge=1, le=65535, description="TCP port.")
    tls: bool = Field(default=False, description="Call it with TLS, by the certificate of dicom.tls.")
    url: str = Field(default="", description="Base URL of its DICOMweb services, for method dicomweb.")
    token_file: Path | None = Field(default=None, description="File with a bearer token for that URL.")

    @model_validator(mode="after")
    def _complete(self) -> "PriorSource":
        if self.method == "dicomweb" and not self.url:
            raise ValueError("a prior source with method dicomweb needs url")
        if self.method != "dicomweb" and not (self.ae_title and self.host):
            raise ValueError("a prior source needs ae_title and host")
        return self


class PriorSettings(BaseModel, frozen=True, extra="forbid"):
    """Earlier studies of the same patient, fetched for comparison and never drafted."""

    sources: tuple[PriorSource, ...] = Field(default=(), description="Archives that are asked; nothing when empty.")
    at_most: int = Field(default=2, ge=1, le=10, description="Priors fetched for one Study.")
    years: float = Field(default=5.0, gt=0, description="How far back.")
    wait_s: float = Field(default=60.0, ge=0, description="A complete Study waits this long for its priors.")
    expected_count: bool = Field(
        default=False, description="Ask the first source how many Instances a Study has before it is complete."
    )

    @model_validator(mode="after")
    def _countable(self) -> "PriorSettings":
        if self.expected_count and all(source.method == "dicomweb" for source in self.sources):
            raise ValueError("priors.expected_count needs a source that is asked by C-FIND: method c-get or c-move")
        return self


class RetentionSettings(BaseModel, frozen=True, extra="forbid"):
    """How long pixel data stay; rows, results and the audit log are not touched by it."""

    keep_days: float = Field(
        default=0.0, ge=0, description="Pixel data of delivered, unheld Studies are deleted after this; 0 keeps them."
    )
    wanted_free_bytes: int = Field(
        default=0, ge=0, description="Below this, the oldest delivered, unheld Studies' pixel data go; 0 never."
    )
    refuse_free_bytes: int = Field(
        default=1024**3, ge=0, description="Below this, new associations that store are refused as transient."
    )
    unreported: bool = Field(
        default=False,
        description="Pixel data of Studies that ended without a delivered signed report (ignored, no draft, rejected) "
        "may go too: only where an archive holds them.",
    )
