"""What fills the disk, when it will be full, and what retention may take."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flask import Blueprint, render_template
from flask.typing import ResponseReturnValue

from config.settings import Settings
from dashboard.people import sessions, site
from dashboard.permissions import Permission, requires
from db.queries.disk import newest_measure
from db.types import utcnow

bp = Blueprint("disk", __name__, url_prefix="/disk")

_FAR_DAYS = 3650.0
_DRAWN = 5  # parts with a colour of their own; the rest is one
_SOON_DAYS, _WARN_DAYS = 7.0, 30.0
LEAST_DAYS = 7.0  # a week has its weekend; a rate over less says nothing of the next


@dataclass(frozen=True)
class Part:
    """One piece of the bar; ``x`` and ``width`` are thousandths of the file system."""

    name: str
    files: int | None
    size: int
    x: float
    width: float
    colour: str


@dataclass(frozen=True)
class Outlook:
    """When images are refused for want of space, at one rate; ``days`` None is never, or beyond ten years.

    ``span`` is how far the rate looks back, in days; ``seen`` how long images have come at all.
    """

    span: int
    seen: float
    per_day: float
    days: float | None

    @property
    def is_early(self) -> bool:
        """Whether too little has been seen to forecast anything."""
        return self.seen < LEAST_DAYS

    @property
    def basis(self) -> str:
        """What the rate rests on."""
        if self.seen >= self.span:
            return f"the last {self.span} days"
        if self.seen < 2:
            hours = max(1, round(self.seen * 24))  # as the rate is reckoned
            return "the first hour" if hours == 1 else f"the first {hours} hours"
        return f"the first {self.seen:.0f} days"

    @property
    def words(self) -> str:
        """The outlook as a sentence's end."""
        if self.is_early:
            return f"too early for a forecast: {LEAST_DAYS:.0f} days of data are needed"
        if self.days is None:
            return "not within ten years" if self.per_day else "nothing arrives"
        if self.days < 1:
            return "now" if self.days <= 0 else "within a day"
        return f"in {self.days:.0f} day{'' if round(self.days) == 1 else 's'}"

    @property
    def level(self) -> str:
        """The colour class."""
        if self.is_early:
            return ""
        if self.days is None or self.days > _WARN_DAYS:
            return "ok"
        return "warn" if self.days > _SOON_DAYS else "bad"


@bp.get("")
@requires(Permission.RUNNING)
def show() -> ResponseReturnValue:
    """Show the last measure with the free space of this moment."""
    settings = site()
    with sessions()() as db:
        measured = newest_measure(db)
    try:
        disk = shutil.disk_usage(settings.data_dir)
    except OSError:
        disk = None
    floor = max(settings.retention.refuse_free_bytes, settings.dicom.min_free_bytes)
    facts: Mapping[str, Any] = measured.facts if measured else {}
    outlooks = [_outlook(span, facts, disk.free - floor) for span in (7, 30) if disk and measured]
    return render_template(
        "disk.html",
        measured=measured,
        disk=disk,
        floor=floor,
        floor_x=1000 - 1000 * floor / disk.total if disk else 0,
        parts=_parts(measured.parts if measured else {}, disk),
        outlooks=outlooks,
        facts=facts,
        rules=_rules(settings),
        age_s=(utcnow() - measured.taken_at).total_seconds() if measured else 0,
        stale=measured is not None and utcnow() - measured.taken_at > timedelta(hours=3),
    )


def _outlook(span: int, facts: Mapping[str, Any], left: float) -> Outlook:
    per_day, seen = float(facts.get(f"per_day_{span}", 0.0)), float(facts.get("days_of_data", 0.0))
    days = max(left, 0) / per_day if per_day else None
    return Outlook(span, seen, per_day, None if days is not None and days > _FAR_DAYS else days)


def _parts(found: Mapping[str, Mapping[str, int]], disk: Any) -> list[Part]:
    """Return the parts, largest first, then what others hold and what is free."""
    total = disk.total if disk else 1
    ours = sorted(((name, one["files"], one["bytes"]) for name, one in found.items()), key=lambda one: -one[2])
    other = (
        [("everything else on this disk", None, disk.total - disk.free - sum(one[2] for one in ours))] if disk else []
    )
    parts: list[Part] = []
    x = 0.0
    for number, (name, files, size) in enumerate([*ours, *other]):
        width = max(0.0, 1000 * size / total)
        last = name.startswith("everything")
        parts.append(Part(name, files, max(0, size), x, width, f"part-{5 if last else min(number, _DRAWN - 1)}"))
        x += width
    if disk:
        parts.append(Part("free", None, disk.free, x, 1000 * disk.free / total, "part-free"))
    return parts


def _rules(settings: Settings) -> list[str]:
    """Return what retention does, in words."""
    rules = settings.retention
    gone = f"pixel data go {rules.keep_days:g} days after the last image" if rules.keep_days else ""
    low = f"below {_gb(rules.wanted_free_bytes)} free the oldest go first" if rules.wanted_free_bytes else ""
    words = [one for one in (gone, low) if one] or ["nothing is deleted: retention.keep_days is 0"]
    words.append("only of studies whose signed report and results are all delivered, never under legal hold")
    if rules.unreported:
        words.append("also of studies that ended without a delivered report")
    words.append(f"below {_gb(rules.refuse_free_bytes)} free new associations are refused for the moment")
    words.append(f"below {_gb(settings.dicom.min_free_bytes)} free each C-STORE is refused (A700)")
    return words


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
