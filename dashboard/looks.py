"""Parts of pages that show a patient's data: whoever asks for one without its page is on record all the same.

A page records that it was shown (`dashboard.people.audit_view`). The parts it fetches afterwards, its images' geometry,
drawings, questions, the pulse of a list, are of that look and make no event of their own. Asked for without the page,
the first of them in a session makes it. Every GET of a Study's address passes here, so that a view that comes later
cannot be forgotten.
"""

from collections.abc import Mapping
from typing import cast

from flask import Flask, current_app, g, request
from flask_login import current_user
from werkzeug.wrappers import Response as BaseResponse

from dashboard.people import audit_view, session_name, work
from dashboard.slices import LruCache
from db.audit import AuditTag

_OWN_RECORDS = frozenset({"dicomweb", "fhir", "workitems", "images", "audit", "trace"})  # they write for each look
# lists that name studies: endpoint → the list it is a part of
_LISTS: Mapping[str, str] = {
    "worklist.show": "worklist",
    "worklist.pulse": "worklist",
    "queue.show": "queue",
    "queue.rows": "queue",
    "disk.show": "disk",
}
NO_PATIENT = frozenset(
    {
        "breaking.ask",  # the question for a reason; the Study is named by its id
        "checking.session_state",  # whether the session goes on
    }
)
"""Addresses with a Study's id that show nothing of its patient."""


def install_looks(app: Flask) -> None:
    """Look at every answer of ``app`` before it leaves; one that cannot be recorded does not."""
    app.extensions["firstread.looks"] = LruCache(8192)

    @app.after_request
    def look(answer: BaseResponse) -> BaseResponse:
        if request.method == "GET" and answer.status_code == 200:
            _record()
        return answer


def _record() -> None:
    endpoint = request.endpoint or ""
    study_id = (request.view_args or {}).get("study_id")
    shown = _LISTS.get(endpoint)
    if shown is None and (study_id is None or request.blueprint in _OWN_RECORDS or endpoint in NO_PATIENT):
        return
    if not current_user.is_authenticated:
        return

    def write() -> bool:
        if "look_recorded" not in g:
            with work() as uow:
                if shown is not None:
                    audit_view(uow, AuditTag.WORKLIST_VIEWED, detail={"tab": shown})
                else:
                    audit_view(uow, AuditTag.REPORT_VIEWED, study_id=study_id, detail={"part": endpoint})
        return True

    looks = cast("LruCache[tuple[str, object], bool]", current_app.extensions["firstread.looks"])
    looks.get((session_name(), shown or study_id), write)
