"""A process that starts says which program it is, and what of its configuration differs from its last start.

Both are events. A setting's value is not among what they say: only its name, and a digest that is keyed (by the key
that marks events), so that not even a short password can be guessed from the record.
"""

import socket
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from config.build import build, file_sha256
from config.settings import Settings
from db.audit import AuditTag
from db.audit_record import canonical
from db.models import AuditEvent
from db.origin import mark
from db.uow import Actor, UnitOfWork, unit_of_work

_SHORT = 24  # hex digits of a keyed digest: enough to see a change


def record_start(
    sessions: sessionmaker[Session], settings: Settings, process: str, detail: Mapping[str, Any] | None = None
) -> None:
    """Record that ``process`` starts and, when its configuration is not that of its last start here, what changed.

    Raises:
        AppError: it cannot be recorded; the process must not start.
    """
    with unit_of_work(sessions, Actor(process, "process", address=socket.gethostname()[:64])) as uow:
        about = {**build(), "image_digest": settings.image_digest, **(detail or {})}
        uow.audit(AuditTag.PROCESS_STARTED, object_type="process", object_id=process, detail=about)
        _compare(uow, settings, process)


def _compare(uow: UnitOfWork, settings: Settings, process: str) -> None:
    """Write ``config:changed`` unless the configuration is the one last recorded for this process on this machine."""
    now = configuration(settings)
    name = f"{process}@{uow.actor.address}"[:64]
    key = mark(b"").partition(":")[0]
    before = _last(uow.session, name, key)
    if before == now:
        return
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key)) if before else []
    uow.audit(
        AuditTag.CONFIG_CHANGED,
        object_type="configuration",
        object_id=name,
        detail={
            "compared": bool(before),  # not at the first start, and not after the key of the digests changed
            "key": key,
            "changed": changed,
            "digest_before": _digest(before) if before else "",
            "digest_after": _digest(now),
            "keys": now,
        },
    )


def configuration(settings: Settings) -> dict[str, str]:
    """Return each setting's name with a keyed digest of its value, and those of the files the settings name."""
    found = {f"settings.{name}": _digest(value) for name, value in _leaves("", settings)}
    files = {"routing": settings.routing, "models": settings.models.registry}
    found |= {f"file.{name}": _digest(file_sha256(path)) for name, path in files.items()}
    return found


def _leaves(prefix: str, group: BaseModel) -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for name in type(group).model_fields:
        value = getattr(group, name)
        leaves += _leaves(f"{prefix}{name}.", value) if isinstance(value, BaseModel) else [(f"{prefix}{name}", value)]
    return leaves


def _digest(value: Any) -> str:
    return mark(canonical(_plain(value))).rpartition(":")[2][:_SHORT]


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return str(value)


def _last(session: Session, name: str, key: str) -> dict[str, str]:
    query = select(AuditEvent).where(AuditEvent.object_id == name, AuditEvent.tag == AuditTag.CONFIG_CHANGED)
    event = session.scalar(query.order_by(AuditEvent.seq.desc()).limit(1))
    return dict(event.detail["keys"]) if event is not None and event.detail["key"] == key else {}


def record_stop(sessions: sessionmaker[Session], process: str) -> None:
    """Record that ``process`` ends in order."""
    with unit_of_work(sessions, Actor(process, "process", address=socket.gethostname()[:64])) as uow:
        uow.audit(AuditTag.PROCESS_STOPPED, object_type="process", object_id=process)
