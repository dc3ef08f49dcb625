"""Questions to the model: asked by who holds the report, answered once, kept, and used only by an explicit act."""

from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from config.errors import LifecycleError, NotAuthorisedError, RefusedInputError
from db import lifecycle
from db.asking_models import Answer, AnswerCopy, ErrandState, Question
from db.lifecycle import asking, errands
from db.models import AuditEvent
from db.report_models import ReportRevision
from db.types import Role, utcnow
from db.uow import unit_of_work
from tests.asking_support import ANSWER, under_review
from tests.db_support import (
    SWEEPER,
    WORKER,
    decide_all,
    header,
    messages,
    open_review,
    person,
    receive,
    received,
    sign,
    tags,
)


@pytest.fixture
def review(sqlite_sessions):
    return under_review(sqlite_sessions)


def sweep(review, later_s=0.0, max_attempts=3):
    with unit_of_work(review.journey.sessions, SWEEPER) as uow:
        return errands.requeue(uow, utcnow() + timedelta(seconds=later_s), max_attempts=max_attempts)


def copy(review, question_id, section="findings", version=None):
    seen = review.journey.report().version if version is None else version
    with unit_of_work(review.journey.sessions, review.reader) as uow:
        return asking.copy_answer(uow, review.report_id, question_id, section, seen_version=seen)


def test_a_question_its_message_and_its_event_are_one_act_and_its_answer_changes_no_report(sessions):
    review = under_review(sessions)
    before = review.journey.report()
    question_id = review.ask("  Is there \n an\x00 effusion? ", sop_instance_uid="1.2.826.0.1.1.2")
    assert messages(sessions)[-1] == {"question_id": str(question_id)}
    answer_id = review.answered(question_id)
    after, row = review.journey.report(), review.question(question_id)
    assert (row.text, row.state) == ("Is there an effusion?", ErrandState.ANSWERED)
    assert (after.sections, after.version, after.draft_id) == (before.sections, before.version, before.draft_id)
    (answer,) = review.rows(Answer, id=answer_id)
    assert (answer.text, answer.prompt, answer.demonstration) == (ANSWER.text, ANSWER.prompt, True)
    assert tags(sessions, object_type="question") == ["question:asked", "question:started", "question:answered"]
    with sessions() as session, session.connection() as connection:
        told = str([one.detail for one in session.scalars(sa.select(AuditEvent))])
        connection.rollback()
    assert "effusion" not in told  # the record names the row, the text stays there


def test_an_answer_is_written_once(engine, sessions):
    review = under_review(sessions)
    review.answered(question_id := review.ask())
    copy(review, question_id)
    for table, column in (("answer", "text"), ("answer_copy", "section")):
        for statement in (f"UPDATE {table} SET {column} = 'x'", f"DELETE FROM {table}"):
            with pytest.raises(IntegrityError, match="append-only"), engine.begin() as connection:
                connection.execute(sa.text(statement))


@pytest.mark.parametrize("text", ["", " \n\t ", "x" * 501, "\x00\x07"])
def test_a_question_without_words_or_with_too_many_is_refused(review, text):
    with pytest.raises(RefusedInputError):
        review.ask(text)
    assert review.rows(Question) == []


def test_a_question_of_500_characters_is_asked(review):
    assert len(review.question(review.ask("x" * 500)).text) == 500


def test_an_image_of_another_study_is_refused(review, sqlite_sessions):
    received(sqlite_sessions, "1.2.826.0.7")
    for forged in ("1.2.826.0.7.1.1", "9.9.9", "' OR 1=1 --"):
        with pytest.raises(RefusedInputError, match="none of this study"):
            review.ask(sop_instance_uid=forged)
    with pytest.raises(RefusedInputError, match="none of this study"):
        review.ask(sop_instance_uid="1.2.826.0.1.1.1", frame_number=0)


def test_only_who_holds_the_report_asks(review, sqlite_sessions):
    other = person(sqlite_sessions, "other")
    with pytest.raises(LifecycleError, match="not locked by this reader"):
        review.ask(actor=other)
    with pytest.raises(NotAuthorisedError):
        review.ask(actor=person(sqlite_sessions, "viewer", Role.VIEWER))
    open_review(review.journey, other, take_over=True)
    assert review.question(review.ask(actor=other)).asked_by == other.user_id
    with pytest.raises(LifecycleError, match="not locked"):
        review.ask("Something else?")


def test_a_draft_is_asked_only_so_many_questions_and_none_twice_at_once(review):
    review.answered(review.ask(limit=2))
    review.ask(limit=2)
    with pytest.raises(RefusedInputError, match="2 are allowed"):
        review.ask("And now?", limit=2)
    with pytest.raises(RefusedInputError, match="waiting for its answer"):
        review.ask()
    with pytest.raises(RefusedInputError, match="0 are allowed"):
        review.ask("And now?", limit=0)


def test_a_signed_report_is_asked_nothing_and_takes_no_answer(review):
    review.answered(question_id := review.ask())
    sign(review.journey, review.reader, decide_all(review.journey, review.reader, review.version))
    with pytest.raises(LifecycleError, match="FINAL"):
        review.ask("More?")
    with pytest.raises(LifecycleError, match="FINAL"):
        copy(review, question_id)


def test_a_second_message_finds_nothing_to_do(review):
    question_id = review.ask()
    assert review.take_question(question_id) is not None
    assert review.take_question(question_id) is None


def test_a_lost_worker_is_replaced_and_cannot_answer_afterwards(review):
    question_id = review.ask()
    dead = review.take_question(question_id, lease_s=-1)
    assert sweep(review) == 1
    assert messages(review.journey.sessions)[-1] == {"question_id": str(question_id)}
    alive = review.take_question(question_id, owner="w2")
    with (
        pytest.raises(LifecycleError, match="no longer this worker's"),
        unit_of_work(review.journey.sessions, WORKER) as uow,
    ):
        asking.answered(uow, dead, ANSWER)
    with pytest.raises(LifecycleError), unit_of_work(review.journey.sessions, WORKER) as uow:
        errands.keep_alive(uow, Question, dead.held, lease_s=60)
    with unit_of_work(review.journey.sessions, WORKER) as uow:
        errands.keep_alive(uow, Question, alive.held, lease_s=60)
        asking.answered(uow, alive, ANSWER)
    assert review.question(question_id).state is ErrandState.ANSWERED
    assert len(review.rows(Answer)) == 1


def test_workers_that_are_lost_again_and_again_end_in_a_failure_that_says_so(review):
    question_id = review.ask()
    for _ in range(2):
        assert review.take_question(question_id, lease_s=-1) is not None
        sweep(review, max_attempts=2)
    row = review.question(question_id)
    assert (row.state, row.reason) == (ErrandState.FAILED, "the worker stopped answering, 2 times")


def test_a_lost_message_is_repeated_and_a_postponed_question_comes_again(review):
    question_id = review.ask()
    assert sweep(review) == 0
    assert sweep(review, later_s=61) == 1
    claim = review.take_question(question_id)
    with unit_of_work(review.journey.sessions, WORKER) as uow:
        state = errands.try_later(uow, Question, claim.held, "no memory left", base_s=30, max_attempts=3)
    assert state is ErrandState.ASKED
    assert sweep(review, later_s=20) == 0
    assert sweep(review, later_s=31) == 1
    waiting = [one for one in messages(review.journey.sessions) if "question_id" in one]
    assert waiting == [{"question_id": str(question_id)}] * 3


def test_later_images_end_what_was_asked_about_fewer(review):
    asked, running = review.ask("First?"), review.ask("Second?")
    claim = review.take_question(running)
    receive(review.journey.sessions, header(9))
    for question_id in (asked, running):
        row = review.question(question_id)
        assert row.state is ErrandState.REFUSED
        assert row.reason.startswith("images arrived later")
    with pytest.raises(LifecycleError), unit_of_work(review.journey.sessions, WORKER) as uow:
        asking.answered(uow, claim, ANSWER)


def test_a_copy_is_an_act_of_its_own_marked_as_the_models(review):
    question_id = review.ask()
    with pytest.raises(LifecycleError, match="no such answer"):
        copy(review, question_id)
    answer_id = review.answered(question_id)
    version = copy(review, question_id)
    report = review.journey.report()
    assert report.version == version
    assert report.sections["findings"] == "A nodule.\n[AI answer, not verified] No pleural effusion is seen."
    assert report.sections["impression"] == "Nodule."
    (kept,) = review.rows(AnswerCopy, answer_id=answer_id)
    (revision,) = review.rows(ReportRevision, report_id=report.id, number=kept.revision)
    assert (kept.section, revision.sections) == ("findings", report.sections)
    assert tags(review.journey.sessions, object_type="answer") == ["answer:copied"]
    with pytest.raises(LifecycleError, match="changed since it was shown"):
        copy(review, question_id, version=version - 1)
    with pytest.raises(RefusedInputError):
        copy(review, question_id, section="history")


def test_an_answer_about_another_patient_cannot_be_copied(review, sqlite_sessions):
    other = under_review(sqlite_sessions, "1.2.826.0.2")
    other.answered(foreign := other.ask())
    with pytest.raises(LifecycleError, match="no such answer about this report"):
        copy(review, foreign)
    with unit_of_work(sqlite_sessions, review.reader) as uow:
        lifecycle.release(uow, review.report_id)
    with pytest.raises(LifecycleError, match="not locked"):
        copy(review, foreign)
