"""Figures over drafts and what people made of them; names no patient."""

import csv
import io
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, abort, jsonify, render_template, request
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from dashboard.figures import sheets
from dashboard.figures.agreement import agreements
from dashboard.figures.drift import rate_shift, shift
from dashboard.figures.sheets import GROUPS, Outcomes, Sheet
from dashboard.people import audit_view, person, sessions, work
from dashboard.permissions import Permission, requires
from db.audit import AuditTag
from db.queries import quality as rows
from db.queries.quality import Choice, Period
from db.types import utcnow

bp = Blueprint("quality", __name__, url_prefix="/quality")
PERIODS = {"30": "30 days", "90": "90 days", "365": "a year"}
_RECENT, _BEFORE = timedelta(days=30), timedelta(days=120)  # drift: the last 30 days against the 90 before


@bp.get("")
@requires(Permission.QUALITY)
def show() -> str:
    """Show acceptance, agreement, turnaround and drift."""
    chosen, grouped_by = _asked()
    with sessions()() as db:
        decided = rows.outcomes(db, chosen)
        made = _sheets(db, chosen, decided, grouped_by)
        known = rows.known_values(db, chosen.period)
    return render_template(
        "quality.html",
        summary=sheets.summary(decided),
        sheets=made,
        known={name: known[name] for name in _dimensions()},
        chosen=chosen,
        grouped_by=grouped_by,
        groups={name: words for name, words in GROUPS.items() if name in _dimensions()},
        periods=PERIODS,
        days=_days(),
    )


@bp.get("/<key>.csv")
@requires(Permission.QUALITY)
def table_csv(key: str) -> Response:
    """Return one table as CSV (RFC 4180)."""
    sheet = next((one for one in _export() if one.key == key), None)
    if sheet is None:
        abort(404)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(sheet.columns)
    writer.writerows([_safe(cell) for cell in row] for row in sheet.rows)
    answer = Response(text.getvalue(), mimetype="text/csv")
    answer.headers["Content-Disposition"] = f'attachment; filename="firstread-{sheet.key}.csv"'
    return answer


@bp.get("/all.json")
@requires(Permission.QUALITY)
def all_json() -> Response:
    """Return every table as JSON."""
    made = [
        {"key": one.key, "title": one.title, "note": one.note, "columns": list(one.columns), "rows": list(one.rows)}
        for one in _export()
    ]
    answer = jsonify(sheets=made, made_at=utcnow().isoformat(timespec="seconds"), days=_days())
    answer.headers["Content-Disposition"] = 'attachment; filename="firstread-quality.json"'
    return answer


def _export() -> Sequence[Sheet]:
    """Return the sheets that were asked for; taking them away is on the record."""
    chosen, grouped_by = _asked()
    with sessions()() as db:
        made = _sheets(db, chosen, rows.outcomes(db, chosen), grouped_by)
    with work() as uow:
        detail = {"path": request.path, "days": _days(), "by": grouped_by, "only": dict(chosen.values)}
        audit_view(uow, AuditTag.QUALITY_EXPORTED, detail=detail)
    return made


def _sheets(db: Session, chosen: Choice, decided: Outcomes, grouped_by: str) -> list[Sheet]:
    now = chosen.period.end
    recent, before = Period(now - _RECENT, now), Period(now - _BEFORE, now - _RECENT)
    came, came_before = rows.received(db, recent), rows.received(db, before)
    said, said_before = rows.asserted(db, recent), rows.asserted(db, before)
    bins, bins_before = rows.score_counts(db, recent), rows.score_counts(db, before)
    labels = sorted({*said, *said_before})
    return [
        sheets.by_week(decided),
        sheets.by_group(decided, grouped_by),
        sheets.findings(agreements(rows.finding_counts(db, chosen))),
        sheets.turnaround(decided),
        sheets.inputs([shift(name, came_before[name], came[name]) for name in came]),
        sheets.outputs([rate_shift(one, said_before.get(one, (0, 0)), said.get(one, (0, 0))) for one in labels]),
        sheets.scores(
            [shift(one, bins_before.get(one, {}), bins.get(one, {})) for one in sorted({*bins, *bins_before})]
        ),
    ]


def _dimensions() -> list[str]:
    """Return what may be looked at; how single readers do is for leads and auditors."""
    sees_readers = person().may(Permission.STUDY_ASSIGN) or person().may(Permission.AUDIT)
    return [name for name in GROUPS if name != "reader" or sees_readers]


def _days() -> str:
    days = request.args.get("days", "90")
    if days not in PERIODS:
        raise RefusedInputError(f"days is one of {', '.join(PERIODS)}")
    return days


def _asked() -> tuple[Choice, str]:
    """Return the chosen drafts and what they are grouped by.

    Raises:
        RefusedInputError: a period or dimension that is not offered.
    """
    grouped_by = request.args.get("by", "model")
    if grouped_by not in _dimensions():
        raise RefusedInputError(f"by is one of {', '.join(_dimensions())}")
    end = utcnow()
    values = {name: value[:200] for name in _dimensions() if (value := request.args.get(name, ""))}
    period = Period(end - timedelta(days=int(_days())), end)
    return Choice(period, values, with_demonstrations=request.args.get("demo", "1") != "0"), grouped_by


def _safe(cell: Any) -> Any:
    """Return a cell that a spreadsheet does not take for a formula: scanner names come from outside."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in {"=", "+", "-", "@", "\t", "\r"} else cell
