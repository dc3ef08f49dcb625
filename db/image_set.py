"""Which images a text speaks of: one hash over the Instances of a Study."""

import hashlib
from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Instance


def hash_image_set(sha256s: Iterable[str]) -> str:
    """Return the SHA-256 over the sorted hashes of the Instances, one a line."""
    return hashlib.sha256("\n".join(sorted(sha256s)).encode("ascii")).hexdigest()


def image_set_sha256(session: Session, study_id: UUID, revision: int | None = None) -> str:
    """Return the hash of a Study's Instances up to ``revision``; all of them when it is None."""
    query = select(Instance.sha256).where(Instance.study_id == study_id)
    if revision is not None:
        query = query.where(Instance.revision <= revision)
    return hash_image_set(session.scalars(query))
