"""``firstread doctor``: what this installation needs, looked at one by one."""

import shlex
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence

from config.errors import AppError
from config.routing import load_rule_book
from config.settings import Peer, Settings
from firstread.doctor_audit import audit_trail

_RENEW_DAYS = 14


def examine(settings: Settings) -> Iterator[tuple[str, bool, str]]:
    """Yield (what, whether it is in order, a note for the administrator)."""
    checks: list[tuple[str, Callable[[Settings], str]]] = [
        ("python", _python),
        ("data folder", _data_dir),
        ("database", _database),
        ("audit partitions", _partitions),
        ("audit trail", audit_trail),
        ("routing rules", _rules),
        ("code table", _codes),
        ("expert packages", _experts),
        ("language model", _vlm),
        ("node port", lambda s: _port(s.dicom.host, s.dicom.port)),
        ("node certificate", _certificate),
        ("peers", _peers),
        ("destinations", _destinations),
        ("audit repository", _repository),
        ("dashboard port", lambda s: _port(s.web.host, s.web.port)),
    ]
    for name, check in checks:
        try:
            yield name, True, check(settings)
        except (AppError, OSError, ValueError, sqlite3.Error) as exc:
            yield name, False, str(exc)


def _python(_: Settings) -> str:
    return sys.version.split()[0]


def _rules(settings: Settings) -> str:
    book = load_rule_book(settings)
    own = "".join(f", {len(rules.rules)} of {ae_title}" for ae_title, rules in book.by_called_ae.items())
    return f"{len(book.default.rules)} rules{own}"


def _data_dir(settings: Settings) -> str:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    probe = settings.data_dir / ".doctor"
    probe.write_bytes(b"x")
    probe.unlink()
    free = shutil.disk_usage(settings.data_dir).free
    if free < settings.dicom.min_free_bytes:
        raise OSError(
            f"{free // 2**20} MiB free, dicom.min_free_bytes asks for {settings.dicom.min_free_bytes // 2**20}"
        )
    return f"{settings.data_dir.resolve()}, {free // 2**30} GiB free"


def _database(settings: Settings) -> str:
    from db.engine import is_current, make_engine

    engine = make_engine(settings.database)
    if not is_current(engine):
        raise ValueError("schema is not this release's: run firstread migrate")
    return engine.url.render_as_string(hide_password=True)


def _partitions(settings: Settings) -> str:
    from db.engine import current_sessions
    from db.partitions import is_partitioned, strays

    with current_sessions(settings.database)() as session:
        if not is_partitioned(session):
            return "none on SQLite"
        beside = strays(session)
    if beside:
        names = ", ".join(sorted(beside))
        raise ValueError(f"{sum(beside.values())} events of {names} lie in no month's partition: was a clock wrong?")
    return "every event in its month's"


def _codes(_: Settings) -> str:
    from reports.codes import code_table

    table = code_table()
    return f"version {table.version}, {len(table.labels)} labels"


def _experts(settings: Settings) -> str:
    from worker.store.active import drafting_of, expert_offer

    cards = [source.card for source in expert_offer(settings, drafting_of(settings)).sources]
    return ", ".join(f"{c.name} {c.version}{' DEMONSTRATION' if c.demonstration else ''}" for c in cards)


def _vlm(settings: Settings) -> str:
    from worker.store.active import drafting_of, vlm_folder
    from worker.vlm.package import verify_vlm_package

    card = verify_vlm_package(vlm_folder(settings, drafting_of(settings))).card()
    return f"{card.name} {card.version}{' DEMONSTRATION' if card.demonstration else ''}"


def _certificate(settings: Settings) -> str:
    from datetime import UTC, datetime

    from dicom_node.tls import load

    tls = settings.dicom.tls
    if not tls.certificate:
        return "none: DICOM is taken from this machine only"
    _, shown = load(tls)
    days = (shown.valid_until - datetime.now(UTC)).days
    if days < _RENEW_DAYS:
        raise ValueError(f"{shown.subject} ends in {days} days: renew it")
    return f"{shown.subject} until {shown.valid_until:%Y-%m-%d} ({days} days), port {tls.port}"


def _peers(settings: Settings) -> str:
    from sqlalchemy.exc import SQLAlchemyError

    from db.engine import make_engine, make_sessions
    from dicom_node.peers import known_peers

    try:
        with make_sessions(make_engine(settings.database))() as session:
            peers = known_peers(session, settings)
    except SQLAlchemyError as exc:
        raise ValueError("the database cannot say who may call: run firstread migrate") from exc
    calling = [(other.ae_title, other.host) for other in settings.destinations if other.commitment]
    calling += [(other.ae_title, other.host) for other in settings.priors.sources if other.method == "c-move"]
    for ae_title, host in calling:
        if not _may_call(peers, ae_title, host):
            raise ValueError(
                f"{ae_title} has to call us for storage commitment or C-MOVE and is no peer: "
                f"firstread node peers add {shlex.quote(ae_title)} --host {host}"
            )
    if not peers:
        return "none: anybody on this machine may call, nobody else"
    unbound = sorted({peer.ae_title for peer in peers if not peer.host and not peer.certificate_subject})
    note = f"; bound to nothing but a name: {', '.join(unbound)}" if unbound else ""
    return f"{len(peers)} may call{note}"


def _destinations(settings: Settings) -> str:
    """Look at what the settings say; whether each answers is ``firstread node echo NAME``."""
    for one in settings.destinations:
        if one.token_file and not one.token_file.read_text(encoding="ascii").strip():
            raise ValueError(f"{one.name}: {one.token_file} is empty")
    if not settings.destinations:
        return "none: results stay here"
    return ", ".join(f"{one.name} ({one.protocol})" for one in settings.destinations)


def _repository(settings: Settings) -> str:
    from audit.syslog import tls_context
    from db.engine import make_engine, make_sessions
    from db.queries.audit_telling import forwarding_backlog
    from db.types import utcnow

    terms = settings.audit.syslog
    if not terms.host:
        return "none: the audit log stays here"
    tls_context(terms)
    with make_sessions(make_engine(settings.database))() as session:
        behind = forwarding_backlog(session, terms.sink)
    late = [one for one in behind if one.waits_s(utcnow()) > terms.alarm_s]
    if late:
        raise ValueError(f"{late[0].sink} is {late[0].waiting} events behind: {late[0].last_error or 'no error'}")
    return f"{terms.host}:{terms.port}, {sum(one.waiting for one in behind)} events wait"


def _may_call(peers: Sequence[Peer], ae_title: str, host: str) -> bool:
    from dicom_node.policy import is_loopback

    if peers:
        return any(peer.ae_title == ae_title for peer in peers)
    return host == "localhost" or is_loopback(host)


def _port(host: str, port: int) -> str:
    import socket

    with socket.socket() as probe:
        answers = probe.connect_ex((host, port)) == 0
    return f"{host}:{port} {'is served' if answers else 'is free'}"
