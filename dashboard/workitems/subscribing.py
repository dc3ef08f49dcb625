"""Who wants to hear of which workitems (PS3.18 sections 11.10 to 11.12)."""

from urllib.parse import quote

from flask import Response, request

from config.errors import RefusedInputError
from dashboard.dicomweb.door import client
from dashboard.people import sessions
from dashboard.permissions import Permission, requires
from dashboard.workitems.asked import parse_filter
from dashboard.workitems.channel import require_own
from dashboard.workitems.service import base, bp
from db.lifecycle.subscriptions import EVERYTHING
from db.lifecycle.subscriptions import subscribe as keep_subscription
from db.lifecycle.subscriptions import suspend as suspend_subscription
from db.lifecycle.subscriptions import unsubscribe as end_subscription
from db.uow import unit_of_work
from db.workitem_values import FILTERED_UID
from instances.header import valid_uid

_WEB_SOCKETS = {"http": "ws", "https": "wss"}


@bp.post("/workitems/<uid>/subscribers/<ae_title>")
@requires(Permission.STUDY_READ)
def subscribe(uid: str, ae_title: str) -> Response:
    """Subscribe to a workitem, to all, or to those that a filter fits; the answer says where the channel is."""
    require_own(ae_title)
    valid_uid(uid, what="the workitem UID")
    lock = request.args.get("deletionlock", "false").lower()
    if lock not in {"true", "false"}:
        raise RefusedInputError("deletionlock is true or false")
    given = request.args.get("filter", "")
    if (uid == FILTERED_UID) != bool(given):
        raise RefusedInputError("a filtered subscription has a filter, and no other has")
    wanted = parse_filter(given) if given else []
    with unit_of_work(sessions(), client().actor) as uow:
        keep_subscription(uow, ae_title, uid, deletion_lock=lock == "true", wanted=wanted)
    scheme, _, rest = base().partition("://")
    answer = Response(b"", 201)
    answer.headers["Content-Location"] = f"{_WEB_SOCKETS[scheme]}://{rest}/subscribers/{quote(ae_title)}"
    return answer


@bp.delete("/workitems/<uid>/subscribers/<ae_title>")
@requires(Permission.STUDY_READ)
def unsubscribe(uid: str, ae_title: str) -> Response:
    """End a subscription; of everything when it is a global one."""
    require_own(ae_title)
    with unit_of_work(sessions(), client().actor) as uow:
        end_subscription(uow, ae_title, valid_uid(uid, what="the workitem UID"))
    return Response(b"", 200)


@bp.post("/workitems/<uid>/subscribers/<ae_title>/suspend")
@requires(Permission.STUDY_READ)
def suspend(uid: str, ae_title: str) -> Response:
    """Subscribe to nothing new; what is subscribed to goes on."""
    require_own(ae_title)
    if uid not in EVERYTHING:
        raise RefusedInputError("only a global subscription is suspended")
    with unit_of_work(sessions(), client().actor) as uow:
        suspend_subscription(uow, ae_title, uid)
    return Response(b"", 200)
