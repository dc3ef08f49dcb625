"""The knobs of the audit trail's archive: where bundles go, and how long which texts are kept."""

from pathlib import Path

from pydantic import BaseModel, Field

_LEAST_YEARS = 0.5  # EU AI Act Articles 19 and 26(6): six months


class ArchiveSettings(BaseModel, frozen=True, extra="forbid"):
    """How old audit events are archived and how long they are kept; from the newest event of a bundle."""

    folder: Path | None = Field(
        default=None,
        description="Folder of audit bundles; it belongs on other disks than the database. `audit-archive` in data_dir "
        "when empty.",
    )
    keep_clinical_years: float = Field(
        default=10.0,
        ge=_LEAST_YEARS,
        description="Years that events on reports, models, signatures and configuration are kept.",
    )
    keep_access_years: float = Field(
        default=6.0, ge=_LEAST_YEARS, description="Years that events on who looked at what, and who came in, are kept."
    )
    keep_system_years: float = Field(
        default=2.0, ge=_LEAST_YEARS, description="Years that events on processes, associations and peers are kept."
    )

    def years(self) -> dict[str, float]:
        """Return the years of each retention class (``db.audit_classes``)."""
        return {
            "clinical": self.keep_clinical_years,
            "access": self.keep_access_years,
            "system": self.keep_system_years,
        }
