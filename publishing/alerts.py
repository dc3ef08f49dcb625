"""Send what there is to say of critical results, by mail and by webhook; recorded, retried, never lost."""

import hashlib
import hmac
import random
import smtplib
import ssl
from collections.abc import Callable
from datetime import datetime

import httpx2
import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.critical_settings import CriticalSettings
from config.errors import LifecycleError, PeerUnavailableError
from config.settings import Settings
from db.critical_models import Channel
from db.lifecycle.critical_clock import announce_new, escalate_due
from db.lifecycle.critical_notices import NoticeJob, claim_notice, notice_failed, notice_sent
from db.queries.critical import any_open
from db.types import utcnow
from db.uow import Actor, unit_of_work
from publishing.alert_text import mail, post_body

log = structlog.get_logger()
MAX_ATTEMPTS = 12
RETRY_BASE_S = 10.0
_BATCH = 50
_ACTOR = Actor("node", "process")


def watch(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Escalate what waits too long and write the notices of what is new; return of how many alerts.

    Safe beside others that do the same: each level of an alert is reached once.
    """
    with sessions() as session:
        if not any_open(session):
            return 0  # the usual moment: nobody who writes is held up
    with unit_of_work(sessions, _ACTOR) as uow:
        return escalate_due(uow, now, settings.critical) + announce_new(uow, now, settings.critical)


def mail_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Mail every notice that is due; return how many the mail server took. What is owed waits while mail is off."""
    if not settings.critical.smtp_host:
        return 0
    return _send_due(sessions, settings, now, Channel.MAIL, send_mail)


def post_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Post every notice that is due to the webhook; return how many it took. What is owed waits while it is off."""
    if not settings.critical.webhook_url:
        return 0
    return _send_due(sessions, settings, now, Channel.WEBHOOK, post)


def _send_due(
    sessions: sessionmaker[Session],
    settings: Settings,
    now: datetime,
    channel: Channel,
    send: Callable[[NoticeJob, Settings], None],
) -> int:
    taken = 0
    lease_s = 10 * settings.critical.send_timeout_s  # longer than the answers of one sending can take
    for _ in range(_BATCH):
        at = max(now, utcnow())  # sending takes its time
        with unit_of_work(sessions, _ACTOR) as uow:
            job = claim_notice(uow, at, channel, lease_s=lease_s)
        if job is None:
            break
        try:
            send(job, settings)
        except PeerUnavailableError as exc:
            _failed(sessions, job, str(exc), at)
        else:
            taken += _sent(sessions, job)
    return taken


def _sent(sessions: sessionmaker[Session], job: NoticeJob) -> bool:
    try:
        with unit_of_work(sessions, _ACTOR) as uow:
            notice_sent(uow, job)
    except LifecycleError:
        log.warning("notice.overtaken", study_id=job.study_id)
        return False
    log.info("notice.sent", study_id=job.study_id)
    return True


def _failed(sessions: sessionmaker[Session], job: NoticeJob, error: str, at: datetime) -> None:
    base_s = RETRY_BASE_S * random.uniform(0.75, 1.25)
    try:
        with unit_of_work(sessions, _ACTOR) as uow:
            state = notice_failed(uow, job, error, at, base_s=base_s, max_attempts=MAX_ATTEMPTS)
    except LifecycleError:
        log.warning("notice.overtaken", study_id=job.study_id)
        return
    log.warning("notice.postponed", study_id=job.study_id, state=state, error=error)


def send_mail(job: NoticeJob, settings: Settings) -> None:
    """Give one mail to the site's mail server.

    Raises:
        PeerUnavailableError: it did not take it, in words that hold nothing it said but its status code (RFC 5321
            4.2); with ``smtp_starttls``, also when there is no TLS with it.
    """
    wanted = settings.critical
    try:
        message = mail(job, settings)
        with smtplib.SMTP(wanted.smtp_host, wanted.smtp_port, timeout=wanted.send_timeout_s) as server:
            if wanted.smtp_starttls:
                server.starttls(context=_trusted(settings))
            if wanted.smtp_user:
                server.login(wanted.smtp_user, _secret(wanted.smtp_password))
            server.send_message(message, from_addr=wanted.mail_from, to_addrs=[job.recipient])
    except (OSError, smtplib.SMTPException) as exc:  # a certificate's error is both an OSError and a ValueError
        raise PeerUnavailableError(_mail_words(exc, wanted)) from exc
    except ValueError as exc:
        raise PeerUnavailableError("the sender or the recipient is no mail address") from exc


_PLAIN_WORDS: tuple[tuple[type[Exception], str], ...] = (  # first match wins
    (ssl.SSLCertVerificationError, "the mail server's certificate is not trusted"),
    (ssl.SSLError, "no TLS with the mail server"),
    (smtplib.SMTPServerDisconnected, "the mail server closed the connection"),
    (TimeoutError, "the mail server did not answer in time"),
    (Exception, "no connection to the mail server"),
)


def _mail_words(exc: Exception, wanted: CriticalSettings) -> str:
    """Return what went wrong; what the server says may quote addresses, so only its code is kept."""
    if isinstance(exc, smtplib.SMTPRecipientsRefused):
        codes = sorted({code for code, _ in exc.recipients.values()})
        return f"the mail server refused the recipient ({', '.join(map(str, codes))})"
    if isinstance(exc, smtplib.SMTPNotSupportedError):
        offers_no_tls = wanted.smtp_starttls and "STARTTLS" in str(exc)
        return "the mail server offers no STARTTLS" if offers_no_tls else "the mail server offers no login"
    if isinstance(exc, smtplib.SMTPResponseException):
        act = "does not accept our login" if isinstance(exc, smtplib.SMTPAuthenticationError) else "answered"
        return f"the mail server {act}: {exc.smtp_code}"
    return next(words for kind, words in _PLAIN_WORDS if isinstance(exc, kind))


def post(job: NoticeJob, settings: Settings) -> None:
    """Post one notice to the webhook, signed, with its identity.

    ``X-Firstread-Signature`` is ``sha256=`` and the HMAC-SHA256 of the body's bytes in hexadecimal. Redirects are not
    followed, proxies of the environment not used.

    Raises:
        PeerUnavailableError: it did not answer 2xx.
    """
    wanted = settings.critical
    body = post_body(job, settings)
    headers = {"Content-Type": "application/json", "Idempotency-Key": str(job.notice_id), "User-Agent": "firstread"}
    if wanted.webhook_secret is not None:
        digest = hmac.new(_secret(wanted.webhook_secret).encode("utf-8"), body, hashlib.sha256).hexdigest()
        headers["X-Firstread-Signature"] = f"sha256={digest}"
    client = httpx2.Client(verify=_trusted(settings), trust_env=False, timeout=wanted.send_timeout_s)
    try:
        with client, client.stream("POST", wanted.webhook_url, content=body, headers=headers) as response:
            status = response.status_code  # nobody needs its body
    except httpx2.TimeoutException as exc:
        raise PeerUnavailableError("the webhook did not answer in time") from exc
    except (httpx2.RequestError, httpx2.InvalidURL) as exc:
        raise PeerUnavailableError("no connection to the webhook") from exc
    if not 200 <= status < 300:
        raise PeerUnavailableError(f"the webhook answered {status}")


def _trusted(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.dicom.tls.authorities)
    except OSError as exc:
        raise PeerUnavailableError("TLS cannot be used: dicom.tls.authorities cannot be read") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _secret(value: object) -> str:
    get = getattr(value, "get_secret_value", None)
    return str(get()) if get is not None else ""
