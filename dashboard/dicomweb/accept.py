"""Which representation a client takes: its Accept ranges against what can be offered (PS3.18 section 8.7)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydicom.uid import ExplicitVRLittleEndian
from werkzeug.exceptions import NotAcceptable

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_ELEMENT = re.compile(rf"(?:{_QUOTED}|[^,\"])+")
_PARAMETER = re.compile(rf";\s*([A-Za-z0-9_-]+)\s*=\s*({_QUOTED}|[^;,\"]*)")
_TYPE = re.compile(r"\s*([A-Za-z0-9*][A-Za-z0-9!#$&^_.+*-]*/[A-Za-z0-9*][A-Za-z0-9!#$&^_.+*-]*)\s*(?=;|$)")


@dataclass(frozen=True)
class MediaRange:
    """One element of an Accept header; ``inner`` is what a multipart carries, or the type itself."""

    media_type: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    q: float = 1.0

    @property
    def is_multipart(self) -> bool:
        """Whether the answer may be multipart/related."""
        return self.media_type in {"multipart/related", "multipart/*", "*/*"}

    @property
    def inner(self) -> str:
        """The media type of the payload."""
        if self.media_type.startswith("multipart/"):
            return self.parameters.get("type", "*/*").lower()
        return self.media_type

    @property
    def specificity(self) -> int:
        """How exactly it names a representation; the most exact range that fits decides (RFC 9110 section 12.5.1)."""
        names = 2 - self.inner.count("*")
        return 2 * names + ("transfer-syntax" in self.parameters)


@dataclass(frozen=True)
class Offer:
    """One representation that can be sent; ``is_default`` is what its media type means without transfer-syntax."""

    media_type: str
    transfer_syntax: str = ""
    is_multipart: bool = False
    is_default: bool = True

    @property
    def content_type(self) -> str:
        """The Content-Type of the payload, or of each part."""
        return f"{self.media_type}; transfer-syntax={self.transfer_syntax}" if self.transfer_syntax else self.media_type

    def fits(self, one: MediaRange) -> bool:
        """Return whether ``one`` lets this representation through."""
        if one.media_type != "*/*" and self.is_multipart != one.is_multipart:
            return False
        if not _covers(one.inner, self.media_type):
            return False
        wanted = one.parameters.get("transfer-syntax", "")
        if wanted in {"*", self.transfer_syntax}:
            return True
        return not wanted and (self.is_default or one.inner == "*/*")


def parse_accept(header: str) -> list[MediaRange]:
    """Return the ranges of an Accept header in its order; an element that is none is passed over."""
    ranges = []
    for element in _ELEMENT.findall(header):
        media_type = _TYPE.match(element)
        if media_type is None:
            continue
        parameters = {name.lower(): _unquoted(value) for name, value in _PARAMETER.findall(element[media_type.end() :])}
        q = _quality(parameters.pop("q", "1"))
        ranges.append(MediaRange(media_type[1].lower(), parameters, q))
    return ranges


def choose(header: str, offers: Sequence[Offer]) -> Offer:
    """Return the offer the client likes best; our order decides between equals.

    Args:
        header: the Accept header, or the ``accept`` query parameter in its place; ``""`` takes anything.
        offers: what can be sent, best first.

    Raises:
        NotAcceptable: none of them.
    """
    ranges = parse_accept(header) if header.strip() else [MediaRange("*/*")]
    best, best_q = None, 0.0
    for offer in offers:
        fitting = [one for one in ranges if offer.fits(one)]
        if not fitting:
            continue
        top = max(one.specificity for one in fitting)
        q = max(one.q for one in fitting if one.specificity == top)
        if q > best_q:
            best, best_q = offer, q
    if best is None:
        kinds = ", ".join(sorted({offer.content_type for offer in offers}))
        raise NotAcceptable(f"Available: {kinds}." if kinds else "This object cannot be sent in any requested form.")
    return best


def both_ways(media_type: str, transfer_syntax: str = "", *, is_default: bool = True) -> list[Offer]:
    """Return an offer as a part of a multipart, then by itself."""
    return [Offer(media_type, transfer_syntax, way, is_default) for way in (True, False)]


def dicom_offers(stored: str, *, decodable: bool) -> list[Offer]:
    """Return how an Instance can be sent: Explicit VR Little Endian is what application/dicom means by itself.

    Args:
        stored: transfer syntax it is kept in.
        decodable: whether it can be sent in Explicit VR Little Endian too.
    """
    default = stored == ExplicitVRLittleEndian
    offers = both_ways("application/dicom", stored, is_default=default)
    if not default and decodable:
        offers += both_ways("application/dicom", str(ExplicitVRLittleEndian))
    return offers


def _covers(pattern: str, media_type: str) -> bool:
    kind, _, name = pattern.partition("/")
    its_kind, _, its_name = media_type.partition("/")
    return kind in {"*", its_kind} and name in {"*", its_name}


def _quality(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0


def _unquoted(value: str) -> str:
    value = value.strip()
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
