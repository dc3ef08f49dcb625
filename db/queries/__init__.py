"""Questions that change nothing; pass a plain session, not a unit of work."""

from db.image_set import image_set_sha256
from db.queries.details import (
    DeliveryRow,
    InstancePath,
    ReadingDetail,
    ReportDetail,
    SeriesRow,
    StudyDetail,
    deliveries,
    instance_paths,
    reading_detail,
    report_detail,
    study_detail,
    waiting_readings,
)
from db.queries.provenance import draft, human_side, newest_draft
from db.queries.record import Problems, ReadingProblem, audit_events, find_studies, problems
from db.queries.waiting import CompletionTimer, completion_timers
from db.queries.worklist import COUNT_LIMIT, Sort, Worklist, WorklistRow, worklist, worklist_row, worklist_rows
from db.queries.worklist_lists import NOBODY, Tab, Wanted

__all__ = [
    "COUNT_LIMIT",
    "NOBODY",
    "CompletionTimer",
    "DeliveryRow",
    "InstancePath",
    "Problems",
    "ReadingDetail",
    "ReadingProblem",
    "ReportDetail",
    "SeriesRow",
    "Sort",
    "StudyDetail",
    "Tab",
    "Wanted",
    "Worklist",
    "WorklistRow",
    "audit_events",
    "completion_timers",
    "deliveries",
    "draft",
    "find_studies",
    "human_side",
    "image_set_sha256",
    "instance_paths",
    "newest_draft",
    "problems",
    "reading_detail",
    "report_detail",
    "study_detail",
    "waiting_readings",
    "worklist",
    "worklist_row",
    "worklist_rows",
]
