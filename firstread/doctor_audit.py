"""What ``firstread doctor`` says of the audit trail: where its keys are, and how old its last head is."""

from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from config.settings import Settings


def audit_trail(settings: Settings) -> str:
    """Return a note on keys, heads and anchors.

    Raises:
        AppError: a key is missing where one must be.
        ValueError: events wait for their seal, or heads for their anchor, too long; or the log does not hold.
    """
    from db.engine import make_engine, make_sessions
    from db.queries.audit.sealed import seal_state
    from db.types import utcnow

    where = _keys(settings)
    try:
        with make_sessions(make_engine(settings.database))() as session:
            state = seal_state(session)
    except SQLAlchemyError as exc:
        raise ValueError("the database cannot say what is sealed: run firstread migrate") from exc
    waits = timedelta(seconds=settings.audit.unsealed_alarm_s)
    if state.waiting_since is not None and utcnow() - state.waiting_since > waits:
        raise ValueError(
            f"an event has waited for its seal since {state.waiting_since:%Y-%m-%d %H:%M}: run firstread sealer"
        )
    if state.verified == "failure":
        raise ValueError("the last verification found that the log does not hold: run firstread audit verify")
    if state.failing:
        raise ValueError(f"heads cannot be anchored: {', '.join(state.failing)}")
    head = (
        "no head yet" if state.head_at is None else f"head of {state.size} events at {state.head_at:%Y-%m-%d %H:%M} UTC"
    )
    places = [name for name, on in (("folder", settings.audit.anchor_dir), ("syslog", settings.audit.syslog.host),
                                    ("time stamp", settings.audit.timestamp_url)) if on]  # fmt: skip
    kept = f"anchored by {', '.join(places)}" if places else "anchored nowhere: set audit.anchor_dir"
    return f"keys in {where}; {head}; {kept}"


def _keys(settings: Settings) -> str:
    """Return where the keys are; in the data folder they come with the first event."""
    from audit.keys import SealKeys
    from db.origin import read_keys

    folder = settings.key_dir
    if settings.audit.key_dir is not None or (folder / "origin.key").exists():
        read_keys(folder)
    if settings.audit.key_dir is not None or (folder / "seal.key").exists():
        SealKeys(folder).current()
    beside = " (beside the data: put them elsewhere with audit.key_dir)" if settings.audit.key_dir is None else ""
    return f"{folder.resolve()}{beside}"
