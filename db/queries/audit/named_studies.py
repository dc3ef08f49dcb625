"""Which Studies somebody means by what they typed."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db.models import Instance, ResultObject, Study
from db.queries.audit.questions import Kind, Parameter

_UID = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_MOST = 200  # Studies of one Accession Number or patient

STUDY = Parameter(
    "study",
    Kind.TEXT,
    "Accession number, UID or study id",
    private=True,
    longest=64,
    hint="then of all times; a UID may be of the study, an image or a result",
)
"""A Study somebody may name instead of a stretch of time."""
ONE_STUDY = replace(STUDY, required=True, hint="a UID may be of the study, an image or a result")
"""A Study somebody has to name."""


def named_studies(session: Session, text: str) -> Sequence[UUID]:
    """Return the Studies with this id, UID, SOP Instance UID or Accession Number, the first kind that there is.

    Raises:
        RefusedInputError: nothing has that name, or too much.
    """
    for condition in _conditions(text.strip()):
        found = session.scalars(select(Study.id).where(condition).order_by(Study.id).limit(_MOST + 1)).all()
        if len(found) > _MOST:
            raise RefusedInputError(f"study: more than {_MOST} studies have this number")
        if found:
            return found
    raise RefusedInputError("study: there is none of this name")


def one_study(session: Session, text: str) -> Study:
    """Return the only Study of this name.

    Raises:
        RefusedInputError: there is none, or there are several: their ids are in the text.
    """
    found = named_studies(session, text)
    if len(found) > 1:
        raise RefusedInputError(f"study: {len(found)} studies have this number; ask for one by its id: {_first(found)}")
    return session.get_one(Study, found[0])


def _first(found: Sequence[UUID]) -> str:
    return ", ".join(str(one) for one in found[:5])


def _conditions(text: str) -> Iterator[ColumnElement[bool]]:
    """Yield what the text may be, one after the other: each has its index, all together would have none."""
    with suppress(ValueError):
        yield Study.id == UUID(text)
    if _UID.fullmatch(text):
        yield Study.study_instance_uid == text
        yield Study.id.in_(select(Instance.study_id).where(Instance.sop_instance_uid == text))
        yield Study.id.in_(select(ResultObject.study_id).where(ResultObject.sop_instance_uid == text))
    yield Study.accession_number == text
