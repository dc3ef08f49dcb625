"""The reviewed code table (``config/codes.yaml``) as typed values: the only source of codes in our objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from highdicom.sr import CodedConcept

import config
from config.errors import ConfigurationError, RefusedInputError

Laterality = Literal["left", "right", "bilateral"]
Category = Literal["anatomy", "abnormal", "finding"]
Row = TypeVar("Row")


@dataclass(frozen=True)
class Concept:
    """One reviewed code: what is sent (value, scheme, meaning), and why we trust it.

    ``confidence`` is ``"H"`` or ``"M"``; ``source`` says where the code was checked.
    """

    value: str
    scheme: str
    meaning: str
    confidence: str
    source: str
    note: str = ""

    def coded(self) -> CodedConcept:
        """Return the code as an item of a Code Sequence (PS3.3 section 8.8); long values become Long Code Value."""
        return CodedConcept(self.value, self.scheme, self.meaning)


@dataclass(frozen=True)
class LabelCodes:
    """What one model label means in DICOM.

    Attributes:
        key: name of the row, for example ``"ct.left_kidney"``.
        family, index, label: the model family, its channel or label value (None when it has none), its words.
        concept: Finding in an SR, Segmented Property Type in a SEG.
        category: ``"finding"`` for classifier labels, which have no Segmented Property Category.
        site: Finding Site and Anatomic Region; for ``"anatomy"`` rows the concept itself when not given.
        side: the side that the label itself fixes (``"left kidney"``), never one guessed for a finding.
        description: what the code alone does not tell, for Segment Description; ``""`` when it tells everything.
    """

    key: str
    family: str
    index: int | None
    label: str
    concept: Concept
    category: Category
    site: Concept | None
    side: Laterality | None
    description: str = ""


@dataclass(frozen=True)
class SectionCodes:
    """Heading of a section's CONTAINER (CID 7001) and name of its TEXT (CID 7002)."""

    heading: Concept
    element: Concept


@dataclass(frozen=True)
class CodeTable:
    """The whole table; ask it by key, or by a model's own words.

    Attributes:
        version: version of the table, recorded with every draft.
        concepts, labels, sections: rows by key; sections are in reading order.
        staff_scheme, staff_scheme_name: private Coding Scheme Designator of the site's staff numbers.
    """

    version: str
    concepts: Mapping[str, Concept]
    labels: Mapping[str, LabelCodes]
    sections: Mapping[str, SectionCodes]
    staff_scheme: str
    staff_scheme_name: str

    def concept(self, key: str) -> CodedConcept:
        """Return the coded form of ``concepts[key]``.

        Raises:
            RefusedInputError: the table has no such row.
        """
        return _row(self.concepts, key, "concept").coded()

    def label(self, key: str) -> LabelCodes:
        """Return what the label row ``key`` means.

        Raises:
            RefusedInputError: the table has no such row; an unreviewed label is never coded.
        """
        return _row(self.labels, key, "label")

    def section(self, key: str) -> SectionCodes:
        """Return the codes of one report section.

        Raises:
            RefusedInputError: no such section.
        """
        return _row(self.sections, key, "section")

    def key_for_label(self, family: str, label: str) -> str | None:
        """Return the row for a model's own label (``"txrv"``, ``"Effusion"``), or None when none is reviewed."""
        rows = (row.key for row in self.labels.values() if row.family == family and row.label == label)
        return next(rows, None)

    def key_for_index(self, family: str, index: int) -> str | None:
        """Return the row for a channel id or label value (``"vista3d"``, ``5``), or None when none is reviewed."""
        rows = (row.key for row in self.labels.values() if row.family == family and row.index == index)
        return next(rows, None)


def _row(rows: Mapping[str, Row], key: str, kind: str) -> Row:
    try:
        return rows[key]
    except KeyError:
        raise RefusedInputError(f"{kind} {key!r} is not in config/codes.yaml ({len(rows)} rows)") from None


def load_code_table(path: Path) -> CodeTable:
    """Read and check a code table.

    Raises:
        ConfigurationError: not YAML, a row points at a concept that is not there, or two rows claim one index.
    """
    try:
        raw: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        concepts = {key: Concept(**row) for key, row in raw["concepts"].items()}
        staff = raw["private_schemes"]["staff"]
        table = CodeTable(
            version=str(raw["version"]),
            concepts=concepts,
            labels={key: _label(key, row, concepts) for key, row in raw["labels"].items()},
            sections={
                key: SectionCodes(heading=concepts[row["heading"]], element=concepts[row["element"]])
                for key, row in raw["sections"].items()
            },
            staff_scheme=staff["designator"],
            staff_scheme_name=staff["name"],
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as exc:
        raise ConfigurationError(f"{path}: not a code table: {type(exc).__name__}: {exc}") from exc
    _refuse_double_claims(table, path)
    return table


def _label(key: str, row: Mapping[str, Any], concepts: Mapping[str, Concept]) -> LabelCodes:
    concept = concepts[row["concept"]]
    category: Category = row["category"]
    if category not in ("anatomy", "abnormal", "finding"):
        raise KeyError(f"{key}: category {category!r}")
    site = concepts[row["site"]] if row.get("site") else None
    return LabelCodes(
        key=key,
        family=row["family"],
        index=row["index"],
        label=row["label"],
        concept=concept,
        category=category,
        site=concept if site is None and category == "anatomy" else site,
        side=row.get("side"),
        description=row.get("description", ""),
    )


def _refuse_double_claims(table: CodeTable, path: Path) -> None:
    claims = [(row.family, row.index) for row in table.labels.values() if row.index is not None]
    twice = {claim for claim in claims if claims.count(claim) > 1}
    if twice:
        raise ConfigurationError(f"{path}: claimed by two rows: {sorted(twice)}")


@lru_cache(maxsize=1)
def code_table() -> CodeTable:
    """Return the table shipped with the project, read once.

    Raises:
        ConfigurationError: the file is missing or damaged.
    """
    return load_code_table(Path(config.__file__).with_name("codes.yaml"))
