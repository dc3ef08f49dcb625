"""JPEG Extended with 12 bits (PS3.5 A.4.2) for pydicom, decoded by GDCM.

pydicom's own GDCM plug-in refuses more than 8 bits in this transfer syntax; GDCM decodes them
(docs/adr/0002-pixel-decoders.md). The plug-in below is that one without the refusal, for grey images; colour is
left to Pillow. It stands here because worker and dashboard need the same images.
"""

import threading
from typing import Any

from pydicom.pixels.decoders import JPEGExtended12BitDecoder
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import JPEGExtended12Bit

_PLUGIN = "firstread-gdcm"
_lock = threading.Lock()

DECODER_DEPENDENCIES = {JPEGExtended12Bit: ("gdcm>=3.0.10",)}
"""Asked by pydicom for every plug-in."""


def decode_jpeg_extended() -> None:
    """Let pydicom decode JPEG Extended with 12 bits in this process; a second call changes nothing."""
    with _lock:
        if _PLUGIN in JPEGExtended12BitDecoder.available_plugins:
            return
        # plug-ins are asked in order, and each refusal is logged as an error: ours first
        for label in JPEGExtended12BitDecoder.available_plugins:
            JPEGExtended12BitDecoder.remove_plugin(label)
        JPEGExtended12BitDecoder.add_plugin(_PLUGIN, (__name__, "decode_frame"))
        JPEGExtended12BitDecoder.add_plugin("pillow", ("pydicom.pixels.decoders.pillow", "_decode_frame"))


def is_available(uid: str) -> bool:
    """Tell pydicom for which transfer syntax the plug-in works."""
    return str(uid) == str(JPEGExtended12Bit)


def decode_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """Decode one grey frame, as pydicom asks a plug-in to.

    Raises:
        ValueError: the bytes are no such frame; pydicom then tries its other plug-ins.
    """
    import gdcm  # type: ignore[import-untyped]  # a shared library of 20 MB that most processes never need

    if runner.samples_per_pixel != 1 or not 8 <= runner.bits_stored <= 12:
        raise ValueError("only one sample of 8 to 12 bits is decoded here")
    image = _encoded(gdcm, src, runner)
    stored = gdcm.PixelFormat(1, runner.bits_allocated, runner.bits_stored, runner.bits_stored - 1, 0)
    image.SetPixelFormat(stored)
    decoded: bytes = image.GetBuffer().encode("utf-8", "surrogateescape")  # GDCM returns char* as str
    if len(decoded) != runner.frame_length(unit="bytes"):
        raise ValueError("the frame is incomplete")
    return decoded


def _encoded(gdcm: Any, src: bytes, runner: DecodeRunner) -> Any:
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(src)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(runner.photometric_interpretation)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(JPEGExtended12Bit))))
    return image
