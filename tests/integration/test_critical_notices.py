"""Mails and posts about critical results: without the patient, retried, never lost; and the clock that repeats them."""

import hashlib
import hmac
import json
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from uuid import UUID

import pytest
from pydantic import SecretStr
from werkzeug.wrappers import Response

from config.errors import LifecycleError
from config.settings import CriticalSettings, TlsSettings
from db.critical_models import Channel, NoticeState, Occasion
from db.lifecycle import critical
from db.lifecycle.critical_notices import claim_notice, notice_again, notice_sent
from db.types import utcnow
from db.uow import unit_of_work
from dicom_node.duties import DUTIES
from publishing.alerts import MAX_ATTEMPTS, mail_due, post_due, watch
from tests.critical_support import (
    SAID_OF_PATIENT,
    Mailbox,
    Webhook,
    alert,
    alerted,
    confirmed,
    mail_server,
    notices,
    settings_with,
    webhook,
)
from tests.db_support import SENDER, Sessions, person, tags
from tests.tls_support import Authority

KEY = "a shared key of this test"


@pytest.fixture
def hook():
    with webhook() as running:
        yield running


@pytest.fixture(scope="module")
def box():
    with mail_server() as running:
        yield running


@pytest.fixture
def mailbox(box: Mailbox):
    box.raw.clear()
    box.recipients.clear()
    box.secured.clear()
    box.refusal = ""
    return box


def states(sessions: Sessions) -> list[NoticeState]:
    return [one.state for one in notices(sessions)]


def test_a_post_says_where_to_look_and_nothing_of_the_patient(tmp_path: Path, sessions, hook: Webhook):
    settings = settings_with(tmp_path, webhook_url=hook.url, webhook_secret=SecretStr(KEY))
    journey = alerted(sessions)
    assert watch(sessions, settings, utcnow()) == 1
    assert post_due(sessions, settings, utcnow()) == 1
    (post,) = hook.posts
    everything = (post.body + json.dumps(post.headers).encode()).decode()
    assert [word for word in SAID_OF_PATIENT if word in everything] == []
    told = json.loads(post.body)
    assert told["alert"] == str(alert(sessions).id)
    assert told["link"] == f"https://pacs.example/fr/studies/{journey.study_id}"
    assert (told["occasion"], told["priority"], told["modality"], told["category"]) == ("suspected", "STAT", "CT", 1)
    assert told["since"] == alert(sessions).opened_at.isoformat(timespec="seconds")
    assert set(told) == {
        "alert", "category", "level", "link", "modality", "notice", "occasion", "priority", "sent_at", "since",
    }  # fmt: skip
    # as a receiver would check it, from the bytes and the key alone
    expected = hmac.new(KEY.encode(), post.body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(post.headers["x-firstread-signature"], f"sha256={expected}")
    (notice,) = notices(sessions)
    assert post.headers["idempotency-key"] == told["notice"] == str(notice.id)
    assert (notice.state, notice.attempts, notice.recipient) == (NoticeState.SENT, 1, hook.url.split("/")[2])
    assert tags(sessions, object_id=str(notice.id)) == ["notice:started", "notice:sent"]


@pytest.mark.requirement("REQ-PRIV-3")
def test_each_person_gets_one_mail_that_says_nothing_of_the_patient(tmp_path: Path, sessions, mailbox: Mailbox):
    people = ("on-call@hospital.example", "lead@hospital.example", "on-call@hospital.example")
    settings = settings_with(tmp_path, smtp_host="127.0.0.1", smtp_port=mailbox.port, mail_to=people)
    journey = alerted(sessions)
    for _ in range(3):  # asked again and again, as the node does
        watch(sessions, settings, utcnow())
        mail_due(sessions, settings, utcnow())
    assert sorted(mailbox.recipients) == ["lead@hospital.example", "on-call@hospital.example"]
    for raw, mail in zip(mailbox.raw, mailbox.mails, strict=True):
        body = mail.get_payload(decode=True)
        assert isinstance(body, bytes)
        assert [word for word in SAID_OF_PATIENT if word in (raw + body).decode()] == []
        assert f"https://pacs.example/fr/studies/{journey.study_id}" in body.decode()
        assert mail["Subject"] == "Suspected critical result (STAT, CT)"
        assert mail["Auto-Submitted"] == "auto-generated"
    assert {mail["X-Firstread-Notice"] for mail in mailbox.mails} == {str(one.id) for one in notices(sessions)}


def test_a_site_may_name_the_patient_and_hostile_text_adds_no_header(
    tmp_path: Path, sqlite_sessions, mailbox: Mailbox, hook: Webhook
):
    settings = settings_with(
        tmp_path,
        smtp_host="127.0.0.1",
        smtp_port=mailbox.port,
        mail_to=("a@b.example",),
        webhook_url=hook.url,
        patient_in_messages=True,
    )
    journey = alerted(sqlite_sessions)
    with unit_of_work(sqlite_sessions, SENDER) as uow:
        study = uow.session.get_one(type(journey.study()), journey.study_id)
        study.patient_name = "Evil\r\nBcc: spy@evil.example\r\n\r\n<script>"
        study.modalities = "CT,\r\nX-Evil: 1"
    watch(sqlite_sessions, settings, utcnow())
    mail_due(sqlite_sessions, settings, utcnow())
    post_due(sqlite_sessions, settings, utcnow())
    assert mailbox.recipients == ["a@b.example"]
    (mail,) = mailbox.mails
    assert {"bcc", "x-evil"} & {name.lower() for name in mail.keys()} == set()  # noqa: SIM118 a Message is no mapping
    assert "Evil Bcc: spy@evil.example <script>" in mail.get_payload(decode=True).decode()  # type: ignore[union-attr]
    told = json.loads(hook.posts[0].body)
    assert (told["finding"], told["patient_id"], told["accession_number"]) == ("nodule", "PAT-77310", "ACC-88412")
    assert told["modality"] == "CT"


def test_what_the_webhook_does_not_take_is_tried_again_later_with_the_same_identity(
    tmp_path: Path, sqlite_sessions, hook: Webhook
):
    sessions, settings = sqlite_sessions, settings_with(tmp_path, webhook_url=hook.url)
    hook.answers = [Response(status=500), Response(status=302, headers={"Location": f"{hook.url}/elsewhere"})]
    alerted(sessions)
    now = utcnow()
    watch(sessions, settings, now)
    assert post_due(sessions, settings, now) == 0
    (notice,) = notices(sessions)
    assert (notice.state, notice.last_error) == (NoticeState.PENDING, "the webhook answered 500")
    assert notice.next_attempt_at > now + timedelta(seconds=5)
    post_due(sessions, settings, utcnow())
    assert len(hook.posts) == 1  # not due yet
    later = utcnow() + timedelta(hours=2)
    assert post_due(sessions, settings, later) == 0
    assert notices(sessions)[0].last_error == "the webhook answered 302"  # and nobody followed it
    assert post_due(sessions, settings, later + timedelta(hours=2)) == 1
    assert {post.path for post in hook.posts} == {"/alerts"}
    assert {post.headers["idempotency-key"] for post in hook.posts} == {str(notice.id)}
    assert tags(sessions, object_id=str(notice.id)).count("notice:postponed") == 2


@pytest.mark.requirement("REQ-CRIT-5")
def test_after_the_last_attempt_a_person_sees_it_and_may_send_it_again(tmp_path: Path, sqlite_sessions):
    sessions = sqlite_sessions
    settings = settings_with(tmp_path, webhook_url="http://127.0.0.1:9/nobody", send_timeout_s=2)
    alerted(sessions)
    watch(sessions, settings, utcnow())
    for hour in range(MAX_ATTEMPTS):
        post_due(sessions, settings, utcnow() + timedelta(hours=2 * hour))
    (notice,) = notices(sessions)
    assert (notice.state, notice.attempts) == (NoticeState.FAILED, MAX_ATTEMPTS)
    assert notice.last_error == "no connection to the webhook"
    assert tags(sessions, object_id=str(notice.id), outcome="failure") == ["notice:failed"]
    with unit_of_work(sessions, SENDER) as uow:
        notice_again(uow, notice.id)
    assert states(sessions) == [NoticeState.PENDING]
    with webhook() as hook:
        again = settings_with(tmp_path, webhook_url=hook.url)
        assert post_due(sessions, again, utcnow()) == 1


@pytest.mark.requirement("REQ-CRIT-5")
def test_a_node_that_dies_between_commit_and_sending_loses_nothing(tmp_path: Path, sessions, hook: Webhook):
    settings = settings_with(tmp_path, webhook_url=hook.url)
    alerted(sessions)  # committed, and the node died before it wrote a notice
    watch(sessions, settings, utcnow())  # another one did, and died before sending
    with unit_of_work(sessions, SENDER) as uow:
        taken = claim_notice(uow, utcnow(), Channel.WEBHOOK, lease_s=60)  # the third died in the middle of it
    assert taken is not None
    assert post_due(sessions, settings, utcnow()) == 0
    assert post_due(sessions, settings, utcnow() + timedelta(seconds=61)) == 1
    assert [post.headers["idempotency-key"] for post in hook.posts] == [str(taken.notice_id)]
    with pytest.raises(LifecycleError, match="somebody else"), unit_of_work(sessions, SENDER) as uow:
        notice_sent(uow, taken)  # it was not dead after all; the record is that of the other
    assert notices(sessions)[0].attempts == 2


def test_an_answer_withdraws_what_was_not_sent_yet(tmp_path: Path, sqlite_sessions, hook: Webhook):
    settings = settings_with(tmp_path, webhook_url=hook.url)
    alerted(sqlite_sessions)
    watch(sqlite_sessions, settings, utcnow())
    with unit_of_work(sqlite_sessions, person(sqlite_sessions)) as uow:
        critical.dismiss(uow, alert(sqlite_sessions).id, "artefact")
    assert post_due(sqlite_sessions, settings, utcnow()) == 0
    assert states(sqlite_sessions) == [NoticeState.WITHDRAWN]
    assert hook.posts == []


def test_with_starttls_a_mail_goes_by_tls_and_not_at_all_without(tmp_path: Path, sqlite_sessions, mailbox: Mailbox):
    sessions, authority = sqlite_sessions, Authority(tmp_path / "ca")
    issued = authority.issue("mail", host="localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    wanted = CriticalSettings(
        smtp_host="localhost", smtp_port=mailbox.port, smtp_starttls=True, mail_to=("a@b.example",), smtp_user="sender",
        smtp_password=SecretStr("right"),
    )  # fmt: skip
    plain = settings_with(tmp_path).model_copy(update={"critical": wanted})
    alerted(sessions)
    watch(sessions, plain, utcnow())
    assert mail_due(sessions, plain, utcnow()) == 0  # this server knows no TLS
    assert notices(sessions)[0].last_error == "the mail server offers no STARTTLS"
    assert mailbox.raw == []
    with mail_server(context, login=True) as safe:
        settings = plain.model_copy(update={"critical": wanted.model_copy(update={"smtp_port": safe.port})})
        assert mail_due(sessions, settings, utcnow() + timedelta(hours=2)) == 0
        assert notices(sessions)[0].last_error == "the mail server's certificate is not trusted"
        dicom = settings.dicom.model_copy(update={"tls": TlsSettings(authorities=authority.file)})
        trusted = settings.model_copy(update={"dicom": dicom})
        assert mail_due(sessions, trusted, utcnow() + timedelta(hours=4)) == 1
        assert (safe.secured, safe.logins) == ([True], ["sender"])


def test_a_refused_recipient_is_named_by_the_servers_code_alone(tmp_path: Path, sqlite_sessions, mailbox: Mailbox):
    mailbox.refusal = "550 5.1.1 no such person Ragnhild here"
    settings = settings_with(tmp_path, smtp_host="127.0.0.1", smtp_port=mailbox.port, mail_to=("x@y.example",))
    alerted(sqlite_sessions)
    watch(sqlite_sessions, settings, utcnow())
    mail_due(sqlite_sessions, settings, utcnow())
    assert notices(sqlite_sessions)[0].last_error == "the mail server refused the recipient (550)"


@pytest.mark.requirement("REQ-CRIT-3")
def test_what_nobody_answers_is_escalated_at_each_interval_to_those_named_for_it(tmp_path: Path, sessions):
    settings = settings_with(
        tmp_path, escalate_s=600, smtp_host="127.0.0.1", mail_to=("first@b.example",), escalate_to=("lead@b.example",)
    )
    alerted(sessions)
    start = alert(sessions).opened_at
    assert watch(sessions, settings, start) == 1
    assert watch(sessions, settings, start + timedelta(seconds=599)) == 0
    for minutes in (10, 20):
        for _ in range(2):
            watch(sessions, settings, start + timedelta(minutes=minutes, seconds=1))
    assert [(one.level, one.occasion, one.recipient) for one in notices(sessions)] == [
        (0, Occasion.SUSPECTED, "first@b.example"),
        (1, Occasion.NOT_ANSWERED, "lead@b.example"),
        (2, Occasion.NOT_ANSWERED, "lead@b.example"),
    ]
    assert tags(sessions, object_id=str(alert(sessions).id)) == ["critical:opened", *["critical:escalated"] * 2]


@pytest.mark.requirement("REQ-CRIT-3")
@pytest.mark.parametrize(("category", "limit_s"), [(1, 60), (2, 120), (3, 240)])
def test_what_is_confirmed_and_not_told_is_escalated_after_the_time_of_its_category(
    tmp_path: Path, sqlite_sessions, category, limit_s
):
    sessions = sqlite_sessions
    settings = settings_with(
        tmp_path, communicate_s=60, communicate_2_s=120, communicate_3_s=240, webhook_url="http://127.0.0.1:9/"
    )
    alerted(sessions)
    confirmed(sessions, person(sessions), alert(sessions).id, category)
    since = alert(sessions).clock_at
    watch(sessions, settings, since + timedelta(seconds=limit_s - 1))
    assert (alert(sessions).level, notices(sessions)) == (0, [])  # a radiologist knows; nothing is late
    watch(sessions, settings, since + timedelta(seconds=limit_s))
    assert [(one.level, one.occasion) for one in notices(sessions)] == [(1, Occasion.NOT_TOLD)]


def test_a_night_without_a_node_makes_one_escalation(tmp_path: Path, sqlite_sessions):
    settings = settings_with(tmp_path, escalate_s=600)
    alerted(sqlite_sessions)
    morning = alert(sqlite_sessions).opened_at + timedelta(hours=9)
    assert [watch(sqlite_sessions, settings, morning + timedelta(seconds=n)) for n in range(3)] == [1, 0, 0]
    assert alert(sqlite_sessions).level == 1


def test_two_watchers_at_one_moment_escalate_once(tmp_path: Path, sessions):
    settings = settings_with(tmp_path, escalate_s=60, webhook_url="http://127.0.0.1:9/")
    keys: list[UUID] = [alerted(sessions, f"1.2.826.0.{n}").study_id for n in range(1, 5)]
    watch(sessions, settings, utcnow())
    late, start = utcnow() + timedelta(seconds=61), Barrier(2)

    def sweep(_number: int) -> int:
        start.wait()
        return sum(watch(sessions, settings, late) for _ in range(4))

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(sweep, range(2))) == len(keys)
    assert sorted(one.level for one in notices(sessions)) == [0] * 4 + [1] * 4
    assert tags(sessions).count("critical:escalated") == 4


def test_two_senders_at_one_moment_send_once(tmp_path: Path, sessions, hook: Webhook):
    settings = settings_with(tmp_path, webhook_url=hook.url)
    for number in range(1, 5):
        alerted(sessions, f"1.2.826.0.{number}")
    watch(sessions, settings, utcnow())
    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(lambda _: post_due(sessions, settings, utcnow()), range(2))) == 4
    assert len({post.headers["idempotency-key"] for post in hook.posts}) == len(hook.posts) == 4


def test_the_node_does_it_all_by_itself():
    assert {watch, mail_due, post_due} <= {duty.run for duty in DUTIES}
