"""Drafts made anew: offered beside the one under review, and adopted or left by its reader."""

import json
from dataclasses import asdict
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from config.errors import LifecycleError, RefusedInputError
from db.asking_models import ErrandState, Redraft, RedraftOffer
from db.lifecycle import errands, redrafting
from db.lifecycle.rejecting import undone
from db.models import Delivery, Reading, ResultObject
from db.report_models import Draft, DraftRejection, Finding, ReportRevision, Signature
from db.types import Decision, DeliveryState, Presence, Priority, ReadingState, ReportState
from db.uow import unit_of_work
from tests.asking_support import edit, under_review
from tests.db_support import (
    SENDER,
    WORKER,
    an_object,
    decide_all,
    header,
    messages,
    new_draft,
    open_review,
    person,
    receive,
    sign,
    tags,
)


@pytest.fixture
def review(sqlite_sessions):
    return under_review(sqlite_sessions)


def discard(review, redraft_id, actor=None):
    with unit_of_work(review.journey.sessions, actor or review.reader) as uow:
        redrafting.discard(uow, review.report_id, redraft_id)


def delivered(review, kind):
    """Let what is owed of this kind be delivered."""
    sessions = review.journey.sessions
    (made,) = review.rows(ResultObject, kind=kind, draft_id=review.journey.draft_id)
    with unit_of_work(sessions, SENDER) as uow:
        uow.session.execute(
            sa.update(Delivery)
            .where(Delivery.result_object_id == made.id)
            .values(state=DeliveryState.DELIVERED, delivered_at=sa.func.current_timestamp())
        )
    return made


def test_what_is_offered_touches_neither_report_nor_archive(sessions):
    review = under_review(sessions)
    before = review.journey.report()
    redraft_id = review.ask_redraft()
    assert messages(sessions)[-1] == {"redraft_id": str(redraft_id)}
    review.offered(redraft_id)
    after = review.journey.report()
    assert (after.draft_id, after.sections, after.version) == (before.draft_id, before.sections, before.version)
    assert len(review.rows(Draft)) == 1
    assert {one.draft_id for one in review.rows(ResultObject)} == {before.draft_id}
    assert review.redraft(redraft_id).state is ErrandState.OFFERED


def test_an_adopted_draft_is_the_reports_and_the_one_before_is_refused_with_all_its_evidence(sessions):
    review = under_review(sessions)
    old_draft = review.journey.draft_id
    first = review.journey.findings()[0]
    version = decide_all(review.journey, review.reader, review.version)
    edit(review, findings="My own words.", recommendation="CT in three months.")
    redraft_id = review.ask_redraft()
    review.offered(redraft_id)
    assert review.adopt(redraft_id) > version
    report = review.journey.report()
    assert report.state is ReportState.IN_REVIEW
    assert report.sections == {
        "findings": "Two nodules.", "impression": "Nodules.", "recommendation": "CT in three months."
    }  # fmt: skip
    assert report.draft_id != old_draft
    assert [one.decision for one in review.journey.findings()] == [Decision.PENDING] * 2
    (kept,) = review.rows(Finding, id=first.id)
    assert kept.decision is Decision.ACCEPTED  # what was decided about the draft before stays decided
    texts = [one.sections.get("findings") for one in review.rows(ReportRevision, report_id=report.id)]
    assert texts == ["A nodule.", "My own words.", "Two nodules."]
    (refusal,) = review.rows(DraftRejection)
    assert (refusal.draft_id, refusal.rejected_by) == (old_draft, review.reader.user_id)
    (draft,) = review.rows(Draft, id=report.draft_id)
    (reading,) = review.rows(Reading, superseded=False)
    assert (draft.reading_id, reading.id, reading.state) == (redraft_id, redraft_id, ReadingState.DRAFTED)
    assert tags(sessions, object_type="redraft") == [
        "redraft:asked", "redraft:started", "redraft:offered", "redraft:adopted"
    ]  # fmt: skip


def test_the_signature_binds_the_adopted_draft(review):
    redraft_id = review.ask_redraft()
    review.offered(redraft_id)
    version = review.adopt(redraft_id)
    with pytest.raises(LifecycleError, match="nobody decided"):
        sign(review.journey, review.reader, version)
    sign(review.journey, review.reader, decide_all(review.journey, review.reader, version))
    (signature,) = review.rows(Signature)
    (draft,) = review.rows(Draft, reading_id=redraft_id)
    assert signature.draft_id == draft.id
    assert signature.image_set_sha256 == draft.image_set_sha256


def test_what_was_sent_of_the_draft_before_is_taken_back_and_the_rest_is_not_sent(review):
    sent = delivered(review, "SEG")
    redraft_id = review.ask_redraft()
    review.offered(redraft_id)
    with review.journey.sessions() as session:
        assert undone(session, ["pacs"]) == []
    review.adopt(redraft_id)
    with review.journey.sessions() as session:
        taken = undone(session, ["pacs"])
    assert [(one.sop_instance_uid, one.reasons) for one in taken] == [(sent.sop_instance_uid, (redrafting.REPLACED,))]
    states = {}
    with review.journey.sessions() as session:
        for state, draft_id, kind in session.execute(
            sa.select(Delivery.state, ResultObject.draft_id, ResultObject.kind).join(
                ResultObject, ResultObject.id == Delivery.result_object_id
            )
        ):
            states[kind, draft_id == review.journey.draft_id] = state
    assert states == {
        ("SEG", True): DeliveryState.DELIVERED,
        ("DRAFT_SR", True): DeliveryState.WITHDRAWN,
        ("SEG", False): DeliveryState.PENDING,
        ("DRAFT_SR", False): DeliveryState.PENDING,
    }


def test_keeping_mine_changes_nothing_and_lets_another_be_asked(review):
    redraft_id = review.ask_redraft()
    with pytest.raises(LifecycleError, match="cannot move"):
        discard(review, redraft_id)
    review.offered(redraft_id)
    with pytest.raises(LifecycleError, match="decide on that one first"):
        review.ask_redraft("Another.")
    before = review.journey.report()
    discard(review, redraft_id)
    after = review.journey.report()
    assert (after.sections, after.draft_id, after.version) == (before.sections, before.draft_id, before.version)
    assert len(review.rows(RedraftOffer)) == 1  # what was offered stays on the record
    with pytest.raises(LifecycleError, match="not offered"):
        review.adopt(redraft_id)
    second = review.ask_redraft("Another.")
    review.offered(second)
    review.adopt(second)
    with pytest.raises(LifecycleError, match="not offered"):
        review.adopt(second)


def test_two_redrafts_can_be_adopted_one_after_the_other(review):
    for text in ("First.", "Second."):
        redraft_id = review.ask_redraft(text)
        review.offered(redraft_id, sections={"findings": text, "impression": text})
        review.adopt(redraft_id)
    assert review.journey.report().sections["findings"] == "Second."
    assert len(review.rows(DraftRejection)) == 2
    assert [one.id for one in review.rows(Reading, superseded=False)] == [redraft_id]


@pytest.mark.parametrize(
    "wanted",
    [
        {"instruction": " \n"},
        {"instruction": "x" * 501},
        {"style": "rude"},
        {"package_id": uuid4()},
    ],
    ids=["nothing changed", "too long", "style", "package"],
)
def test_a_wish_that_cannot_be_met_is_refused(review, wanted):
    with pytest.raises(RefusedInputError):
        review.ask_redraft(**({"instruction": ""} | wanted))
    assert review.rows(Redraft) == []


def test_only_so_many_drafts_are_made_anew(review):
    review.offered(redraft_id := review.ask_redraft(limit=1))
    discard(review, redraft_id)
    with pytest.raises(RefusedInputError, match="1 new drafts"):
        review.ask_redraft(limit=1)


def test_another_reader_neither_asks_nor_adopts(review, sqlite_sessions):
    other = person(sqlite_sessions, "other")
    with pytest.raises(LifecycleError, match="not locked"):
        review.ask_redraft(actor=other)
    review.offered(redraft_id := review.ask_redraft())
    with pytest.raises(LifecycleError, match="not locked"):
        review.adopt(redraft_id, actor=other)
    with pytest.raises(LifecycleError, match="not locked"):
        discard(review, redraft_id, other)
    with pytest.raises(LifecycleError, match="changed since it was shown"):
        review.adopt(redraft_id, version=review.version - 1)
    version = open_review(review.journey, other, take_over=True)
    assert review.adopt(redraft_id, actor=other, version=version) > version


def test_a_redraft_of_another_report_is_not_adopted(review, sqlite_sessions):
    other = under_review(sqlite_sessions, "1.2.826.0.2")
    other.offered(foreign := other.ask_redraft())
    with pytest.raises(LifecycleError, match="not offered"):
        review.adopt(foreign)


def test_a_signed_report_keeps_its_draft(review):
    review.offered(redraft_id := review.ask_redraft())
    version = decide_all(review.journey, review.reader, review.version)
    sign(review.journey, review.reader, version, state=ReportState.PRELIMINARY)
    with pytest.raises(LifecycleError, match="not IN_REVIEW"):
        review.adopt(redraft_id)
    open_review(review.journey, review.reader)
    with pytest.raises(LifecycleError, match="is signed"):
        review.adopt(redraft_id)
    discard(review, redraft_id)
    with pytest.raises(LifecycleError, match="is signed"):
        review.ask_redraft("Again.")


def test_later_images_end_a_redraft_wherever_it_stands(review):
    redraft_id = review.ask_redraft()
    claim = review.take_redraft(redraft_id)
    receive(review.journey.sessions, header(9))
    row = review.redraft(redraft_id)
    assert (row.state, row.reason) == (ErrandState.REFUSED, "images arrived later: open the report again")
    with pytest.raises(LifecycleError, match="no longer"), unit_of_work(review.journey.sessions, WORKER) as uow:
        redrafting.offered(uow, claim, new_draft(claim.held))


def test_an_offer_falls_with_the_draft_when_images_come_late(review):
    review.offered(redraft_id := review.ask_redraft())
    receive(review.journey.sessions, header(9))
    assert review.redraft(redraft_id).state is ErrandState.REFUSED
    assert review.journey.report().state is ReportState.UNREAD


def test_an_adopted_draft_falls_like_any_other_when_images_come_late(review):
    review.offered(redraft_id := review.ask_redraft())
    review.adopt(redraft_id)
    receive(review.journey.sessions, header(9))
    assert review.journey.report().state is ReportState.UNREAD
    (reading,) = review.rows(Reading, id=redraft_id)
    assert reading.superseded


def test_a_draft_of_other_images_is_not_offered(review):
    claim = review.take_redraft(review.ask_redraft())
    with pytest.raises(LifecycleError, match="other images"), unit_of_work(review.journey.sessions, WORKER) as uow:
        redrafting.offered(uow, claim, new_draft(claim.held, image_set_sha256="f" * 64))


def test_an_alarming_redraft_raises_the_priority_when_it_is_adopted(review):
    review.offered(redraft_id := review.ask_redraft(), priority=Priority.STAT)
    review.adopt(redraft_id)
    (reading,) = review.rows(Reading, id=redraft_id)
    assert reading.priority is Priority.STAT


def test_a_failed_redraft_says_why_and_another_may_be_asked(review):
    claim = review.take_redraft(redraft_id := review.ask_redraft())
    with unit_of_work(review.journey.sessions, WORKER) as uow:
        errands.refuse_or_fail(uow, Redraft, claim.held, ErrandState.FAILED, "the model did not stop")
    row = review.redraft(redraft_id)
    assert (row.state, row.reason) == (ErrandState.FAILED, "the model did not stop")
    assert review.ask_redraft("Again.")


def test_an_offer_is_written_once_and_comes_back_as_it_was(engine, sessions):
    review = under_review(sessions)
    redraft_id = review.ask_redraft()
    made = review.offered(redraft_id, objects=[an_object("SEG", tracking_uids=["2.25.1"])])
    with unit_of_work(sessions, WORKER) as uow:
        again = redrafting.offer(uow, redraft_id)
    assert json.dumps(asdict(again)) == json.dumps(asdict(made))
    assert again.findings[0].presence is Presence.PRESENT
    for statement in ("UPDATE redraft_offer SET content = '{}'", "DELETE FROM redraft_offer"):
        with pytest.raises(IntegrityError, match="append-only"), engine.begin() as connection:
            connection.execute(sa.text(statement))
