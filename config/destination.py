"""Where results go: one DICOM archive, DICOMweb server, RIS or EHR, and which of our objects it takes in which form."""

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, model_validator

NAME = r"^[A-Za-z0-9_-]{1,32}$"
AE_TITLE = r"^[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?$"  # VR AE: 1-16 characters, no backslash (PS3.5 6.2)
_HTTP = r"^(https?://[^?#\s]+)?$"


class Destination(BaseModel, frozen=True, extra="forbid"):
    """One peer that results are delivered to."""

    name: str = Field(pattern=NAME, description="Name shown to people and in the audit log.")
    protocol: Literal["c-store", "stow-rs", "mllp", "fhir"] = Field(
        default="c-store",
        description="How it is sent to: DICOM objects by c-store or stow-rs, ORU messages by mllp, bundles by fhir.",
    )
    ae_title: str = Field(default="", pattern=rf"^$|{AE_TITLE}", description="Called AE title, for c-store.")
    host: str = Field(default="", description="Host name or address, for c-store and mllp.")
    port: int = Field(default=104, ge=1, le=65535, description="TCP port, for c-store and mllp.")
    tls: bool = Field(default=False, description="Call it with TLS, by the certificate of dicom.tls.")
    url: str = Field(default="", pattern=_HTTP, description="Base URL, for stow-rs and fhir.")
    token_file: Path | None = Field(default=None, description="File with a bearer token for that URL.")
    drafts: bool = Field(
        default=False,
        description="Also send AI drafts before a person signed; to mllp they go with OBR-25 R, to fhir as partial.",
    )
    commitment: bool = Field(
        default=False,
        description="Ask for storage commitment, and keep our bytes until it is given; to report, it has to be a peer.",
    )
    count: bool = Field(
        default=False, description="Ask it afterwards, by C-FIND or QIDO-RS, whether it holds as many as were sent."
    )
    report: Literal["enhanced", "basic-text", "none"] = Field(
        default="enhanced", description="The narrative as Enhanced SR, as Basic Text SR for older viewers, or not."
    )
    segmentation: Literal["binary", "labelmap", "none"] = Field(
        default="binary", description="Segmentations as BINARY, which every viewer reads, as LABELMAP, or not."
    )
    findings: bool = Field(default=True, description="Send the coded findings (TID 1500 SR).")
    heat_maps: bool = Field(default=True, description="Send heat maps of radiographs (FRACTIONAL Segmentations).")
    key_images: bool = Field(default=True, description="Send Key Object Selections of the images findings rest on.")
    presentation_states: bool = Field(
        default=False, description="Send the outlines as GSPS, for viewers that show no Segmentation."
    )
    secondary_captures: bool = Field(
        default=False, description="Send key images with outlines burned in, for viewers that show neither."
    )
    pdf: bool = Field(default=False, description="Send the report as PDF too: encapsulated, or within the message.")
    rejection_notes: bool = Field(
        default=True, description="When a result that was sent is rejected, send an IHE IOCM rejection note."
    )
    application: str = Field(default="", max_length=64, description="Receiving application (MSH-5), for mllp.")
    facility: str = Field(default="", max_length=64, description="Receiving facility (MSH-6), for mllp.")
    addendum_status: Literal["C", "F"] = Field(
        default="C", description="Result status (OBR-25) of a report with an addendum, for mllp."
    )

    @model_validator(mode="after")
    def _complete(self) -> "Destination":
        needs = {"c-store": ("ae_title", "host"), "mllp": ("host",), "stow-rs": ("url",), "fhir": ("url",)}
        missing = [name for name in needs[self.protocol] if not getattr(self, name)]
        if missing:
            raise ValueError(f"destination {self.name} with protocol {self.protocol} needs {' and '.join(missing)}")
        if self.commitment and self.protocol != "c-store":
            raise ValueError(f"destination {self.name}: storage commitment is asked of c-store destinations only")
        if self.count and not self.takes_objects:
            raise ValueError(f"destination {self.name}: only c-store and stow-rs destinations can be asked for a count")
        return self

    @model_validator(mode="after")
    def _keeps_its_secrets(self) -> "Destination":
        parts = urlsplit(self.url)
        if parts.username or parts.password:
            raise ValueError(f"destination {self.name}: a password belongs into a token_file, not into url")
        if self.token_file and parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "::1", "localhost"}:
            raise ValueError(f"destination {self.name}: a token is sent to other machines by https only")
        return self

    @property
    def takes_objects(self) -> bool:
        """Whether it takes DICOM objects, not messages."""
        return self.protocol in {"c-store", "stow-rs"}
