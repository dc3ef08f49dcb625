"""A new key to mark events with; the old one stays beside it, to check what it marked."""

from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from audit.sealing import SEALER
from config.errors import ConfigurationError
from db.audit import AuditTag
from db.origin import CURRENT, read_keys, write_key
from db.uow import unit_of_work


def rotate_origin(sessions: sessionmaker[Session], folder: Path) -> tuple[str, str]:
    """Let a new key mark events; return the names of the old and the new. Running processes take it at their start.

    The event that says so is marked with the old key, and written before the new one is in its place.

    Raises:
        ConfigurationError: there is no key to replace, or the folder cannot be written.
    """
    old = read_keys(folder).current
    kept = folder / f"origin-{old}.key"
    draft = folder / ".origin.next"
    try:
        draft.mkdir(mode=0o700, exist_ok=True)
        (draft / CURRENT).unlink(missing_ok=True)
        write_key(draft)
        new = read_keys(draft).current
        with unit_of_work(sessions, SEALER) as uow:
            detail = {"key": "origin", "before": old, "after": new}
            uow.audit(AuditTag.AUDIT_KEY_ROTATED, object_type="key", object_id=new, detail=detail)
        if not kept.exists():
            kept.hardlink_to(folder / CURRENT)
        (draft / CURRENT).replace(folder / CURRENT)
        draft.rmdir()
    except OSError as exc:
        raise ConfigurationError(f"the keys in {folder} cannot be changed") from exc
    return old, new
