"""What the tests of critical results share: alerts, and a mail server and a webhook that keep what they get."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from typing import Any
from uuid import UUID

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from sqlalchemy import select
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from config.settings import CriticalSettings, Settings
from db.critical_models import CriticalAlert, CriticalNotice, Means, NewCommunication
from db.lifecycle import critical
from db.types import utcnow
from db.uow import Actor, unit_of_work
from tests.db_support import Journey, Sessions, received

PATIENT = {"patient_name": "Haldorsen^Ragnhild", "patient_id": "PAT-77310", "accession_number": "ACC-88412"}
SAID_OF_PATIENT = ("Haldorsen", "HALDORSEN", "Ragnhild", "PAT-77310", "ACC-88412", "nodule", "Nodule")


def alerted(sessions: Sessions, study: str = "1.2.826.0.1", **changes: Any) -> Journey:
    """A study of a patient whose draft asserts a critical nodule."""
    values = {"critical": ("nodule",)} | changes
    return received(sessions, study, **PATIENT).queued().running().drafted(**values)


def alerts(sessions: Sessions) -> list[CriticalAlert]:
    """Every alert, oldest first."""
    with sessions() as session:
        return list(session.scalars(select(CriticalAlert).order_by(CriticalAlert.opened_at)))


def alert(sessions: Sessions) -> CriticalAlert:
    """The only alert."""
    (one,) = alerts(sessions)
    return one


def notices(sessions: Sessions) -> list[CriticalNotice]:
    """Every notice, oldest level first."""
    with sessions() as session:
        query = select(CriticalNotice).order_by(CriticalNotice.level, CriticalNotice.channel, CriticalNotice.recipient)
        return list(session.scalars(query))


def confirmed(sessions: Sessions, reader: Actor, alert_id: UUID, category: int | None = None) -> None:
    """Let a radiologist confirm."""
    with unit_of_work(sessions, reader) as uow:
        critical.confirm(uow, alert_id, category=category)


def said(**changes: Any) -> NewCommunication:
    """Dr Berg was told by phone a moment ago, and read it back."""
    values: dict[str, Any] = {
        "told_name": "Dr Berg",
        "told_role": "Emergency physician",
        "means": Means.PHONE,
        "told_at": utcnow(),
        "read_back": True,
    }
    return NewCommunication(**(values | changes))


def told_of_a_critical_result(sessions: Sessions, reader: Actor, study_id: UUID) -> None:
    """Let a radiologist mark something critical in a study, and tell somebody."""
    with unit_of_work(sessions, reader) as uow:
        marked = critical.mark(uow, study_id, what="Free air", category=1)
        critical.record(uow, marked.id, said())


def settings_with(folder: Any, **values: Any) -> Settings:
    """Settings of a site that sends notices."""
    return Settings(data_dir=folder, critical=CriticalSettings(**values), web={"public_url": "https://pacs.example/fr"})


@dataclass
class Post:
    """One request that reached the webhook."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Webhook:
    """It keeps every post; ``answers`` come first, then 204."""

    url: str = ""
    posts: list[Post] = field(default_factory=list)
    answers: list[Response] = field(default_factory=list)

    def answer(self, request: Request) -> Response:
        """Take one request."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.posts.append(Post(request.path, headers, request.get_data()))
        return self.answers.pop(0) if self.answers else Response(status=204)


@contextmanager
def webhook() -> Iterator[Webhook]:
    """A webhook that listens while the context is open."""
    running = Webhook()
    server = make_server("127.0.0.1", 0, Request.application(running.answer), threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    running.url = f"http://127.0.0.1:{server.server_port}/alerts"
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Mailbox:
    """What a mail server of this machine took; ``refusal`` answers every recipient when it is set."""

    port: int = 0
    raw: list[bytes] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    secured: list[bool] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    refusal: str = ""

    @property
    def mails(self) -> list[Message]:
        """The mails it took."""
        return [message_from_bytes(one) for one in self.raw]

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:
        """Take or refuse a recipient."""
        if self.refusal:
            return self.refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:
        """Keep one mail."""
        self.raw.append(envelope.content)
        self.recipients.extend(envelope.rcpt_tos)
        self.secured.append(session.ssl is not None)
        return "250 kept"

    def check(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        """Let ``sender`` with the password ``right`` in."""
        self.logins.append(data.login.decode())
        return AuthResult(success=(data.login, data.password) == (b"sender", b"right"))


@contextmanager
def mail_server(tls: ssl.SSLContext | None = None, *, login: bool = False) -> Iterator[Mailbox]:
    """A mail server that listens while the context is open; with ``tls`` it takes no mail without STARTTLS."""
    box = Mailbox()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        box.port = probe.getsockname()[1]
    options: dict[str, Any] = {"tls_context": tls, "require_starttls": True} if tls else {}
    if login:
        options |= {"authenticator": box.check, "auth_required": True}
    controller = Controller(box, hostname="127.0.0.1", port=box.port, ready_timeout=30, **options)
    controller.start()
    try:
        yield box
    finally:
        controller.stop()
