"""What every page and act about one report begins with: the page, its report, the version a form was made from."""

from uuid import UUID

from flask import Response, abort, request

from dashboard.checks import conceal
from dashboard.desk import DeskPage, load_desk, report_id_of
from dashboard.images import shelf
from dashboard.people import audit_view, person, sessions, site, work
from dashboard.presentation import EDITABLE_SECTIONS
from db.audit import AuditTag


def desk(study_id: UUID, *, with_viewer: bool = False) -> DeskPage:
    """Return the page of a study for who is logged in; 404 when there is none."""
    with sessions()() as db:
        page = load_desk(
            db,
            study_id,
            reader=person(),
            settings=site(),
            server=shelf().slices,
            asked=request.args if with_viewer else None,
        )
        page = conceal(db, page) if page is not None else None
    if page is None:
        abort(404)
    return page


def report_of(study_id: UUID) -> UUID:
    """Return the Report of a study; 404 when there is none."""
    with sessions()() as db:
        found = report_id_of(db, study_id)
    if found is None:
        abort(404)
    return found


def record_view(page: DeskPage, what: str) -> None:
    """Record that this person saw this patient's report."""
    with work() as uow:
        audit_view(
            uow,
            AuditTag.REPORT_VIEWED,
            study_id=page.study.id,
            report_id=page.report.id,
            detail={"page": what, "state": page.report.state.value, "version": page.report.version},
        )


def seen_version() -> int:
    """Return the version the form was made from; 0, which is always stale, when it names none."""
    return request.form.get("version", type=int, default=0)


def sent_sections() -> dict[str, str]:
    """Return the section texts of the form, with the line ends of this system."""
    return {key: plain_text(request.form[key]) for key in EDITABLE_SECTIONS if key in request.form}


def plain_text(value: str) -> str:
    """Return what a text field sent, without the carriage returns HTML puts in and white space around it."""
    return value.replace("\r\n", "\n").strip()


def is_fragment() -> bool:
    """Whether the page's script asks for a part of the page."""
    return bool(request.headers.get("HX-Request"))


def with_version(response: Response, version: int) -> Response:
    """Tell every form on the page the new version."""
    response.headers["HX-Trigger"] = f'{{"reportVersion": {version}}}'
    return response
