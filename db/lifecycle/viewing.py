"""How long a reader looked at the images of a Study: said by the page, believed no further than the clock."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.lifecycle.moves import locked
from db.models import Study
from db.signing_models import ImageView
from db.types import utcnow
from db.uow import UnitOfWork

MOST_AT_ONCE_S = 120.0  # a page tells every few seconds; a longer stretch is no looking


def open_view(uow: UnitOfWork, study_id: UUID, user_id: UUID) -> None:
    """Note that a reader opened a Study's page; nothing before this moment counts from now on."""
    locked(uow, Study, study_id)  # two tabs that open together make one row
    view = _view(uow.session, study_id, user_id)
    if view is None:
        view = ImageView(study_id=study_id, user_id=user_id, seconds=0.0)
        uow.session.add(view)
    view.counted_at = utcnow()
    uow.session.flush()


def count_view(uow: UnitOfWork, study_id: UUID, user_id: UUID, seconds: float) -> float:
    """Add the seconds a page says its images were on the screen; return those of this reader in all.

    Never more than the time since the page was opened or since it last told, and 120 s at once; nothing when the
    page was not opened. Two tabs do not count the same second twice.
    """
    now = utcnow()
    query = select(ImageView).where(ImageView.study_id == study_id, ImageView.user_id == user_id)
    view = uow.session.scalar(query.with_for_update(key_share=True).execution_options(populate_existing=True))
    if view is None:
        return 0.0
    passed = max(0.0, (now - view.counted_at).total_seconds())
    # a number that is none compares false, and counts as nothing
    view.seconds += min(seconds, passed, MOST_AT_ONCE_S) if seconds > 0 else 0.0
    view.counted_at = now
    view.images_at = view.images_at or now
    uow.session.flush()
    return view.seconds


def seconds_of(session: Session, study_id: UUID, user_id: UUID) -> float:
    """Return how long a reader looked at a Study's images; 0 when never."""
    view = _view(session, study_id, user_id)
    return view.seconds if view else 0.0


def has_seen_images(session: Session, study_id: UUID, user_id: UUID) -> bool:
    """Return whether an image of the Study was on this reader's screen."""
    view = _view(session, study_id, user_id)
    return view is not None and view.images_at is not None


def _view(session: Session, study_id: UUID, user_id: UUID) -> ImageView | None:
    return session.scalar(select(ImageView).where(ImageView.study_id == study_id, ImageView.user_id == user_id))
