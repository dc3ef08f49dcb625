"""Which transfer syntaxes and SOP Classes the node takes, and in which order it prefers them."""

from collections.abc import Iterable
from functools import lru_cache

from pydicom.uid import (
    HEVCM10P51,
    HEVCMP51,
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    MPEG2MPHL,
    MPEG2MPHLF,
    MPEG2MPML,
    MPEG2MPMLF,
    MPEG4HP41,
    MPEG4HP41BD,
    MPEG4HP41BDF,
    MPEG4HP41F,
    MPEG4HP42STEREO,
    MPEG4HP42STEREOF,
    MPEG4HP422D,
    MPEG4HP422DF,
    MPEG4HP423D,
    MPEG4HP423DF,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEG2000MCLossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import ServiceClass
from pynetdicom.sop_class import Verification, uid_to_service_class

# pydicom has no names for these
_JPEG_XL_LOSSLESS, _JPEG_XL_RECOMPRESSED, _JPEG_XL = (UID(f"1.2.840.10008.1.2.4.{n}") for n in (110, 111, 112))
_DEFLATED_FRAMES = UID("1.2.840.10008.1.2.8.1")
_JPEG_SPECTRAL_RETIRED, _JPEG_PROGRESSIVE_RETIRED = UID("1.2.840.10008.1.2.4.53"), UID("1.2.840.10008.1.2.4.55")

LOSSLESS = (
    JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL, JPEGLosslessSV1, JPEGLossless, RLELossless,
    JPEG2000MCLossless, _JPEG_XL_LOSSLESS, _DEFLATED_FRAMES, DeflatedExplicitVRLittleEndian,
)  # fmt: skip
LOSSY = (
    JPEGLSNearLossless, JPEG2000, HTJ2K, JPEG2000MC, JPEGBaseline8Bit, JPEGExtended12Bit, _JPEG_XL_RECOMPRESSED,
    _JPEG_XL, MPEG2MPML, MPEG2MPMLF, MPEG2MPHL, MPEG2MPHLF, MPEG4HP41, MPEG4HP41F, MPEG4HP41BD, MPEG4HP41BDF,
    MPEG4HP422D, MPEG4HP422DF, MPEG4HP423D, MPEG4HP423DF, MPEG4HP42STEREO, MPEG4HP42STEREOF, HEVCMP51, HEVCM10P51,
    _JPEG_SPECTRAL_RETIRED, _JPEG_PROGRESSIVE_RETIRED,
)  # fmt: skip
ACCEPTED: tuple[UID, ...] = (ExplicitVRLittleEndian, *LOSSLESS, *LOSSY, ImplicitVRLittleEndian)
"""In our order of preference: the first of these that a context offers is taken, so nobody is made to
decompress because Implicit VR stands beside it, nor to compress. Not taken: Explicit VR Big Endian
(retired), JPIP (the pixels are elsewhere) and SMPTE ST 2110 (streams)."""

_STORAGE = frozenset(str(cx.abstract_syntax) for cx in AllStoragePresentationContexts)
_DICOM_ROOT = "1.2.840.10008."
_STORAGE_ARC = "1.2.840.10008.5.1.4.1.1."


def is_storage_sop_class(uid: str) -> bool:
    """Return whether a proposed abstract syntax is taken as a patient's storage SOP Class.

    Besides the classes pynetdicom names these are: retired and future ones below the storage arc of the
    Standard, and private ones, so that a vendor's raw data does not stop a Study from arriving.
    """
    if uid in _STORAGE:
        return True
    if uid.startswith(_STORAGE_ARC):
        return uid_to_service_class(uid) is ServiceClass  # not one of another service, such as protocol approval
    return bool(uid) and not uid.startswith(_DICOM_ROOT)


def is_unnamed(uid: str) -> bool:
    """Return whether pynetdicom needs to be told that this storage SOP Class belongs to the Storage Service."""
    return is_storage_sop_class(uid) and uid not in _STORAGE


def supported_contexts(proposed: Iterable[str]) -> list[PresentationContext]:
    """Return what we support of the ``proposed`` abstract syntaxes: Verification and every storage SOP Class.

    Built per association from what the peer asks for, since private classes cannot be listed beforehand.
    """
    contexts = [build_context(Verification, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])]
    wanted = sorted({str(uid) for uid in proposed if is_storage_sop_class(str(uid))})
    contexts += [_storage_context(uid) for uid in wanted]
    return contexts


@lru_cache(maxsize=1024)
def _storage_context(uid: str) -> PresentationContext:
    """Return the context of a storage SOP Class; shared, because negotiation only reads it and making it is slow."""
    return build_context(uid, list(ACCEPTED))
