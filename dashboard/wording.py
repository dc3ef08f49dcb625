"""Templates of report sections per procedure, and macros: the site's and one's own."""

from uuid import UUID

from flask import Blueprint, Response, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from config.errors import LifecycleError, RefusedInputError
from dashboard.people import person, sessions, work
from dashboard.permissions import Permission, requires
from dashboard.presentation import SECTION_TITLES
from dashboard.report_page import plain_text
from db.lifecycle.wording import (
    MAX_MACRO,
    MAX_NAME,
    MAX_TEMPLATE_SECTION,
    TEMPLATE_SECTIONS,
    NewTemplate,
    add_macro,
    add_template,
    retire_macro,
    retire_template,
)
from db.queries.wording import macros, templates

bp = Blueprint("wording", __name__, url_prefix="/wording")
_CRITERIA = ("modality", "body_part", "procedure")


@bp.get("")
@requires(Permission.REPORT_EDIT)
def show() -> ResponseReturnValue:
    """Show the site's templates, and the macros this reader can type."""
    return _page()


@bp.post("/macros")
@requires(Permission.REPORT_EDIT)
def keep_macro() -> ResponseReturnValue:
    """Keep a macro of one's own; with ``macro_id`` in place of an earlier one."""
    return _keep_macro(site=False)


@bp.post("/site-macros")
@requires(Permission.WORDING)
def keep_site_macro() -> ResponseReturnValue:
    """Keep a macro of the site; with ``macro_id`` in place of an earlier one."""
    return _keep_macro(site=True)


@bp.post("/macros/<uuid:macro_id>/retire")
@requires(Permission.REPORT_EDIT)
def drop_macro(macro_id: UUID) -> ResponseReturnValue:
    """Take a macro out of use: one's own, or, for who keeps the site's wording, the site's."""
    with work() as uow:
        retire_macro(uow, macro_id)
    flash("The macro is out of use.", "ok")
    return redirect(url_for("wording.show"), 303)


@bp.post("/templates")
@requires(Permission.WORDING)
def keep_template() -> ResponseReturnValue:
    """Keep a template of the site; with ``template_id`` in place of an earlier one."""
    form = request.form
    new = NewTemplate(
        name=form.get("name", ""),
        sections={key: plain_text(form[key]).replace("\x00", "") for key in TEMPLATE_SECTIONS if key in form},
        **{name: form.get(name, "") for name in _CRITERIA},
    )
    try:
        with work() as uow:
            add_template(uow, new, replaces=form.get("template_id", type=UUID))
    except (RefusedInputError, LifecycleError) as exc:
        return _refused(exc)
    flash(f"Template “{new.name.strip()}” kept.", "ok")
    return redirect(url_for("wording.show"), 303)


@bp.post("/templates/<uuid:template_id>/retire")
@requires(Permission.WORDING)
def drop_template(template_id: UUID) -> ResponseReturnValue:
    """Take a template out of use; it is kept, and reports that used it stay as they are."""
    with work() as uow:
        retire_template(uow, template_id)
    flash("The template is out of use.", "ok")
    return redirect(url_for("wording.show"), 303)


def _keep_macro(*, site: bool) -> ResponseReturnValue:
    form = request.form
    try:
        with work() as uow:
            add_macro(
                uow,
                form.get("word", ""),
                form.get("text", ""),
                site=site,
                replaces=form.get("macro_id", type=UUID),
            )
    except (RefusedInputError, LifecycleError) as exc:
        return _refused(exc)
    flash("Macro kept.", "ok")
    return redirect(url_for("wording.show"), 303)


def _refused(error: RefusedInputError | LifecycleError) -> Response:
    """Show the page with what was typed, and why it was not kept."""
    if isinstance(error, LifecycleError):
        return Response(_page("This word or name is in use, or somebody else changed it first."), 409)
    return Response(_page(f"Not kept: {error}."), 400)


def _page(error: str = "") -> str:
    with sessions()() as db:
        kept, mine = templates(db), macros(db, person().id)
    return render_template(
        "wording.html",
        templates=kept,
        own=[one for one in mine if one.owner_id is not None],
        site_macros=[one for one in mine if one.owner_id is None],
        titles={key: SECTION_TITLES[key] for key in TEMPLATE_SECTIONS},
        limits={"name": MAX_NAME, "macro": MAX_MACRO, "section": MAX_TEMPLATE_SECTION},
        typed=request.form,
        error=error,
    )
