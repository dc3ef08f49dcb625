"""The fonts that pictures and PDF are set in: from this package or an installed one, never from the machine."""

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

Face = Literal["NotoSans", "NotoSansArabic", "NotoSansHebrew", "DejaVuSansSymbols"]
Weight = Literal["Regular", "Bold"]

_FOLDER = Path(__file__).with_name("fonts")
_EAST_ASIAN = ("noto_cjk_sans_jp_regular", "NotoSansCJKjp-Regular.otf")


def typeface(face: Face = "NotoSans", weight: Weight = "Regular") -> Path:
    """Return the file of a font that ships with this package (licences: ``fonts/*.txt``)."""
    return _FOLDER / f"{face}-{weight}.ttf"


def east_asian_typeface() -> Path | None:
    """Return the font for Chinese, Japanese and Korean, or None when its package is not installed.

    It is too large to ship here: package ``noto-cjk-sans-jp-regular``, one weight for all.
    """
    package, name = _EAST_ASIAN
    return Path(str(files(package).joinpath(name))) if find_spec(package) else None
