"""Addenda and corrections in the lifecycle: what is refused, and what each signature is bound to, on both databases."""

import pytest
from sqlalchemy import select

from config.errors import LifecycleError, NotAuthorisedError, RefusedInputError
from db import lifecycle
from db.models import Delivery, ResultObject
from db.report_models import Amendment, ReportRevision
from db.types import ReportState, Role, utcnow
from tests.db_support import (
    Journey,
    act,
    addend,
    an_object,
    correct,
    decide_all,
    header,
    open_review,
    person,
    receive,
    received,
    sign,
)


@pytest.fixture
def signed(sessions) -> Journey:
    journey = received(sessions).queued().running().drafted()
    reader = person(sessions, "author")
    sign(journey, reader, decide_all(journey, reader, open_review(journey, reader)))
    return journey


@pytest.mark.requirement("REQ-SIGN-11")
def test_every_signature_is_over_a_revision_that_is_kept(signed, sessions):
    reader = person(sessions)
    made = (
        addend(signed, reader, "One."),
        addend(signed, reader, "Two."),
        correct(signed, reader),
        addend(signed, reader),
    )
    with sessions() as session:
        revisions = session.scalars(select(ReportRevision).order_by(ReportRevision.number)).all()
    kept = {lifecycle.text_sha256(one.sections) for one in revisions}
    assert {one.text_sha256 for one in made} <= kept
    assert len({one.text_sha256 for one in made}) == 4
    assert revisions[-1].sections == {
        "findings": "A nodule.",
        "impression": "Nodule on the left.",
        "addendum": "Addendum 1:\nOne.\n\nAddendum 2:\nTwo.\n\nAddendum 3:\nSeen again.",
    }
    assert "addendum" not in signed.report().sections


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"authenticated_at": utcnow().replace(year=2020)}, NotAuthorisedError),
        ({"printed_name": "Dr Somebody Else"}, NotAuthorisedError),
        ({"meaning": " "}, RefusedInputError),
        ({"objects": []}, RefusedInputError),
        ({"seen_version": 1}, LifecycleError),
        ({"seen_images": ""}, LifecycleError),
    ],
    ids=["old-authentication", "name", "meaning", "object", "version", "images"],
)
def test_an_amendment_that_lacks_something_changes_nothing(signed, sessions, changes, error):
    reader = person(sessions)
    with pytest.raises(error):
        addend(signed, reader, **changes)
    with pytest.raises(error):
        correct(signed, reader, **changes)
    assert signed.report().state is ReportState.FINAL
    with sessions() as session:
        assert session.scalars(select(Amendment)).all() == []


@pytest.mark.parametrize(
    ("sections", "reason", "message"),
    [
        ({"impression": "Nodule."}, "why", "changes the text"),
        ({"billing": "x"}, "why", "unknown report sections"),
        ({"addendum": "x"}, "why", "unknown report sections"),
        ({"findings": "", "impression": " "}, "why", "without findings or impression"),
        ({"impression": "Other."}, " ", "needs text"),
        ({"impression": "x" * 65_537}, "why", "65536 characters"),
    ],
)
def test_a_correction_that_is_none_is_refused(signed, sessions, sections, reason, message):
    with pytest.raises(RefusedInputError, match=message):
        correct(signed, person(sessions), reason, sections=sections)


def test_an_auditor_amends_nothing(signed, sessions):
    with pytest.raises(NotAuthorisedError):
        addend(signed, person(sessions, "auditor", Role.AUDITOR))


def test_images_that_come_while_the_addendum_is_written_are_not_signed_unseen(signed, sessions):
    reader = person(sessions)
    shown = act(signed, reader)
    receive(sessions, header(9))
    with pytest.raises(LifecycleError, match="images"):
        addend(signed, reader, seen_version=signed.report().version, seen_images=shown.seen_images)
    addend(signed, reader)
    assert signed.report().late_images is False


def test_what_an_addendum_makes_is_owed_and_the_signed_report_stays_owed(signed, sessions):
    addend(signed, person(sessions), objects=[an_object(destinations=["ris"])])
    with sessions() as session:
        owed = session.execute(
            select(Delivery.destination, ResultObject.kind)
            .join(ResultObject, ResultObject.id == Delivery.result_object_id)
            .where(ResultObject.signature_id.is_not(None))
        ).all()
    assert sorted(map(tuple, owed)) == [("pacs", "SIGNED_SR"), ("ris", "SIGNED_SR")]
