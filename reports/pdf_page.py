"""The sheet a report is printed on: fonts for every script, and what stands on each page of the PDF."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import cast

import uharfbuzz  # type: ignore[import-untyped]
from fpdf import FPDF
from fpdf.fonts import TTFFont
from fpdf.prefs import ViewerPreferences

from reports.text import one_line, text_block
from reports.typefaces import Face, east_asian_typeface, typeface

Colour = tuple[int, int, int]

INK, QUIET, RULE, SHADE = (28, 33, 40), (90, 98, 108), (196, 202, 210), (243, 245, 248)
ACCENT, WARNING, WARNING_SHADE = (22, 72, 120), (146, 60, 0), (255, 240, 214)
MARGIN, WIDTH = 16.0, 178.0
"""Left and right margin and the width between them, mm."""

MISSING = "\u25a1"
"""White square: stands for a character that no font at hand can show; it is never dropped."""

_FAMILY = "NotoSans"
_BOTTOM = 20.0
_LONGEST_FACT = 300  # bytes; a longer one ends in an ellipsis, for the head must leave room on the page
_LINE = 1.42  # of the font size
_COLUMNS, _GAP, _INSET, _LABEL = 3, 4.0, 2.0, 3.2  # of the banner, mm
_COLUMN = (WIDTH - 2 * _INSET - (_COLUMNS - 1) * _GAP) / _COLUMNS
_NO_TEXT = 0x200B  # zero width space
_RIGHT_TO_LEFT = frozenset({"R", "AL"})
_INVISIBLE = re.compile("[\u200b\u2060\ufe00-\ufe0f]")  # no glyph of their own, and no font has one


@lru_cache(maxsize=8)
def _coverage(path: Path) -> frozenset[int]:
    return frozenset(uharfbuzz.Face(uharfbuzz.Blob.from_file_path(str(path))).unicodes)


def instant(moment: datetime) -> str:
    """Return a moment with its zone, to the second: ``2026-11-22 12:00:00 UTC+01:00``."""
    zone = moment.strftime("%z")
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC{zone[:3]}:{zone[3:5]}"


class Sheet(FPDF):
    """An A4 document whose every page has its head, the patient's banner and its foot.

    Attributes:
        unseen: how many characters were replaced by :data:`MISSING`.
    """

    def __init__(self, characters: Iterable[str], *, written_at: datetime, language: str) -> None:
        """Load the fonts that ``characters`` need; those of large scripts only when one of theirs is among them."""
        super().__init__(format="A4")
        self.set_creation_date(written_at)
        self.set_lang(language)
        self.set_producer("Firstread")
        self.viewer_preferences = ViewerPreferences(display_doc_title=True)
        self.set_margins(MARGIN, 12, MARGIN)
        self.set_auto_page_break(auto=True, margin=_BOTTOM)
        self.unseen = 0
        self._covered = self._load_fonts({ord(one) for text in [MISSING, *characters] for one in text})
        # without ligatures: some readers cannot split "fi" again, and a search for "verified" must find it
        self.set_text_shaping(use_shaping_engine=True, features={"liga": False})
        self.set_draw_color(*RULE)
        self._head: Head | None = None

    def _load_fonts(self, needed: set[int]) -> frozenset[int]:
        names: tuple[Face, ...] = ("NotoSans", "NotoSansArabic", "NotoSansHebrew", "DejaVuSansSymbols")
        faces: list[tuple[str, Path, Path]] = [(one, typeface(one), typeface(one, "Bold")) for one in names]
        if east := east_asian_typeface():
            faces.append(("EastAsian", east, east))
        covered: frozenset[int] = frozenset()
        fallbacks = []
        for name, regular, bold in faces:
            own = needed - covered
            if name != _FAMILY and (not own or not own & _coverage(regular)):
                continue
            covered |= _coverage(regular)
            self.add_font(name, "", regular)
            self.add_font(name, "B", bold)
            if name != _FAMILY:
                fallbacks.append(name)
        self.set_fallback_fonts(fallbacks)
        return covered

    def begin(self, head: "Head") -> None:
        """Start the first page; ``head`` stands on every one."""
        self._head = head
        self.add_page()

    def visible(self, text: str) -> str:
        """Return ``text`` with every character that no font can show replaced by :data:`MISSING`."""
        shown = [one if ord(one) in self._covered or one in "\r\n" else MISSING for one in _INVISIBLE.sub("", text)]
        self.unseen += shown.count(MISSING) - text.count(MISSING)
        return "".join(shown)

    def finished(self) -> bytes:
        """Return the document as a file.

        Fonts split letters (a base and its dots); only the first part carries the letter. The others are given no
        width of text, or readers that extract text would take the number of the glyph for a character.
        """
        for font in self.fonts.values():
            for glyph in dict(font.subset.items()) if isinstance(font, TTFFont) else ():
                if glyph is not None and not glyph.unicode:
                    glyph.unicode = (_NO_TEXT,)
        return bytes(self.output())

    # --- words ----------------------------------------------------------------------------------------------

    def pen(self, size: float = 9.5, *, bold: bool = False, ink: Colour = INK) -> None:
        """Choose size in points, weight and colour of what is written next."""
        self.set_font(_FAMILY, "B" if bold else "", size)
        self.set_text_color(*ink)

    def paragraph(self, text: str, *, x: float = MARGIN, width: float = WIDTH, line: float = _LINE) -> None:
        """Write wrapped text with the chosen pen, line by line as given; right to left when its script is."""
        for row in self.visible(text_block(text)).split("\r\n"):
            self.set_x(x)
            if not row:
                self.ln(self.font_size * 0.7)
                continue
            align = "R" if is_right_to_left(row) else "L"
            self.multi_cell(width, self.font_size * line, row, align=align, new_x="LMARGIN", new_y="NEXT")

    def keep_together(self, height: float) -> None:
        """Go to the next page unless ``height`` mm are left on this one."""
        if self.will_page_break(height):
            self.add_page()

    def heading(self, words: str) -> None:
        """Write the title of a part, with a rule below it, never as the last line of a page."""
        self.keep_together(22)
        self.ln(3.2)
        self.start_section(self.visible(one_line(words)))
        self.pen(10.5, bold=True, ink=ACCENT)
        self.paragraph(words)
        self.line(MARGIN, self.y + 0.3, MARGIN + WIDTH, self.y + 0.3)
        self.ln(1.6)

    # --- what stands on every page --------------------------------------------------------------------------

    def header(self) -> None:
        """Write notice, organisation and banner; called by fpdf2 for every page."""
        if self._head is not None:
            self._head.write(self)

    def footer(self) -> None:
        """Write the notice again, the version and the page number; called by fpdf2 for every page."""
        if self._head is None:
            return
        self.set_y(-_BOTTOM + 4)
        self.line(MARGIN, self.y, MARGIN + WIDTH, self.y)
        self.ln(1)
        if self._head.notice:
            self.pen(8, bold=True, ink=WARNING)
            self.cell(WIDTH, 4, self._head.notice, align="C", new_x="LMARGIN", new_y="NEXT")
        self.pen(7, ink=QUIET)
        self.cell(WIDTH - 30, 4, self._head.version, align="L")
        self.set_x(MARGIN + WIDTH - 24)  # left of its end: how wide the last number is shows only at the end
        self.cell(24, 4, f"Page {self.page_no()} of {{nb}}", align="L")


class Head:
    """What stands at the top of each page; its text is made showable once."""

    def __init__(
        self,
        sheet: Sheet,
        *,
        notice: str,
        organization: str,
        title: str,
        remark: str,
        facts: Sequence[tuple[str, str]],
        version: str,
    ) -> None:
        """Take the words.

        Args:
            sheet: whose fonts show them.
            notice: in a band above everything, and in the foot; may be empty.
            organization, title: left and right of the first line.
            remark: below the title, in the colour of warnings; may be empty.
            facts: label and value of the patient's banner, three in a row; the first is written larger.
            version: left in the foot.
        """
        self.notice = sheet.visible(notice)
        self.version = sheet.visible(one_line(version))
        self._organization, self._title = (
            sheet.visible(one_line(organization, _LONGEST_FACT)),
            sheet.visible(one_line(title)),
        )
        self._remark = sheet.visible(remark)
        values = [sheet.visible(one_line(value, _LONGEST_FACT)) or "–" for _, value in facts]
        self._facts = [
            (label, value, 9.0 if number else 11.0)
            for number, ((label, _), value) in enumerate(zip(facts, values, strict=True))
        ]
        self._heights: list[float] = []

    def write(self, sheet: Sheet) -> None:
        """Write it at the top of the page; the cursor ends below."""
        sheet.set_y(8)
        if self.notice:
            sheet.set_fill_color(*WARNING_SHADE)
            sheet.set_draw_color(*WARNING)
            sheet.pen(11, bold=True, ink=WARNING)
            sheet.multi_cell(WIDTH, 7.5, self.notice, align="C", border=1, fill=True, new_x="LMARGIN", new_y="NEXT")
            sheet.set_draw_color(*RULE)
            sheet.ln(2)
        sheet.pen(12, bold=True)
        title_width = sheet.get_string_width(self._title) + 4
        top = sheet.y
        sheet.multi_cell(WIDTH - title_width, 6, self._organization, align="L", new_x="LMARGIN", new_y="NEXT")
        below = sheet.y
        sheet.set_xy(MARGIN + WIDTH - title_width, top)
        sheet.pen(12, bold=True, ink=ACCENT)
        sheet.cell(title_width, 6, self._title, align="R")
        sheet.set_xy(MARGIN, below)
        if self._remark:
            sheet.pen(8, bold=True, ink=WARNING)
            sheet.multi_cell(WIDTH, 4.2, self._remark, align="R", new_x="LMARGIN", new_y="NEXT")
        sheet.ln(1)
        self._banner(sheet)
        sheet.ln(3)

    def _banner(self, sheet: Sheet) -> None:
        """Write the patient's facts in a shaded box, each row as high as its longest value."""
        rows = [self._facts[start : start + _COLUMNS] for start in range(0, len(self._facts), _COLUMNS)]
        if not self._heights:  # once: fpdf2 tries tables out, new pages included, and must not measure meanwhile
            self._heights = [max(_height(sheet, *fact) for fact in row) for row in rows]
        top = sheet.y
        sheet.set_fill_color(*SHADE)
        sheet.rect(MARGIN, top, WIDTH, sum(self._heights) + 2 * _INSET, style="DF")
        y = top + _INSET
        for row, height in zip(rows, self._heights, strict=True):
            for column, (label, value, size) in enumerate(row):
                sheet.set_xy(MARGIN + _INSET + column * (_COLUMN + _GAP), y)
                sheet.pen(6.5, ink=QUIET)
                sheet.cell(_COLUMN, _LABEL, label, new_x="LEFT", new_y="NEXT")
                sheet.pen(size, bold=size > 9)
                sheet.multi_cell(_COLUMN, sheet.font_size * 1.3, value, align="L")
            y += height
        sheet.set_xy(MARGIN, y + _INSET)


def _height(sheet: Sheet, label: str, value: str, size: float) -> float:
    """Return how high a fact is with its label, mm."""
    del label  # always one line
    sheet.pen(size, bold=size > 9)
    height = sheet.multi_cell(_COLUMN, sheet.font_size * 1.3, value, dry_run=True, output="HEIGHT")
    return _LABEL + cast("float", height) + 1.2


def is_right_to_left(text: str) -> bool:
    """Return whether the first letter with a direction runs right to left (Unicode Annex 9, P2 and P3)."""
    kinds = (unicodedata.bidirectional(one) for one in text)
    return next((kind in _RIGHT_TO_LEFT for kind in kinds if kind in _RIGHT_TO_LEFT or kind == "L"), False)
