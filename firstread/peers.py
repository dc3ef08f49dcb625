"""What the ``node peers`` verbs do: who may call, who was refused, and whether somebody answers."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from config.errors import AppError, PeerUnavailableError, RefusedInputError
from config.settings import Destination, Peer, PriorSource, Settings
from db import peers
from db.audit import AuditTag
from db.engine import current_sessions
from db.lifecycle.destination_tests import StepSeen, record_test
from db.types import utcnow
from db.uow import unit_of_work
from dicom_node import scu
from dicom_node.context import Asking, Rejection
from dicom_node.names import Names
from dicom_node.peers import as_peer, find_peer, known_peers
from dicom_node.policy import judge_caller
from dicom_node.probe import OURS, Step, examine
from dicom_node.testing import examine_destination
from firstread.people import actor

COLUMNS = ("AE title", "host", "port", "certificate", "called AE", "at once", "TLS", "from")
_RECENT = timedelta(days=7)


def add(settings: Settings, **values: Any) -> str:
    """Let a peer in; return what else the administrator should know, if anything.

    Raises:
        RefusedInputError: a value is outside its limits; the message names it.
        LifecycleError: this peer is known already.
    """
    try:
        peer = Peer(**values)
    except ValidationError as exc:
        raise RefusedInputError(_in_one_line(exc)) from exc
    if peer in settings.dicom.peers:
        raise RefusedInputError(f"{peer.ae_title} is in the settings (dicom.peers) already")
    strangers = [title for title in peer.called_ae if title not in settings.dicom.called_ae]
    if strangers:
        ours = ", ".join(settings.dicom.called_ae)
        raise RefusedInputError(f"{strangers[0]} is no AE title of ours; there are: {ours}")
    if peer.tls and not settings.dicom.tls.certificate:
        raise RefusedInputError("to call a peer with TLS, dicom.tls.certificate must be set")
    sessions = current_sessions(settings.database)
    with sessions() as session:
        is_first = not known_peers(session, settings)
    with unit_of_work(sessions, actor()) as uow:
        peers.add_peer(uow, peer)
    if peer.certificate_subject and not settings.dicom.tls.certificate:
        return "the node has no TLS yet (dicom.tls): until it has, this peer cannot call"
    return "this is the first peer: from now on only peers may call, also from this machine" if is_first else ""


def remove(settings: Settings, ae_title: str, host: str | None) -> int:
    """Take a peer that was added out again; return how many rows that were.

    Raises:
        RefusedInputError: no such peer was added.
    """
    sessions = current_sessions(settings.database)
    with sessions() as session:
        was_added = bool(peers.added_peers(session, ae_title))
    if not was_added and any(peer.ae_title == ae_title for peer in settings.dicom.peers):
        raise RefusedInputError(f"{ae_title} is in the settings (dicom.peers): remove it there")
    with unit_of_work(sessions, actor()) as uow:
        return len(peers.remove_peers(uow, ae_title, host))


def listed(settings: Settings) -> list[dict[str, Any]]:
    """Return every peer with where it comes from, those of the settings first."""
    rows = [{**_shown(peer), "from": "settings"} for peer in settings.dicom.peers]
    with current_sessions(settings.database)() as session:
        for row in peers.added_peers(session):
            added = f"{row.added_by}, {row.added_at:%Y-%m-%d %H:%M}"
            rows.append({**_shown(as_peer(row)), "from": added})
    return rows


def refused(settings: Settings) -> list[dict[str, Any]]:
    """Return who was refused in the last seven days and would be refused again, with the command that lets each in."""
    names = Names()
    rows = []
    with current_sessions(settings.database)() as session:
        known = known_peers(session, settings)
        callers = peers.refused_callers(session, since=utcnow() - _RECENT)
    for caller in callers:
        asking = Asking(
            caller.calling_ae,
            caller.called_ae,
            caller.address,
            tls_subject=caller.tls_subject,
            is_tls=bool(caller.tls_subject),
        )
        verdict = judge_caller(settings.dicom, asking, known, addresses_of=names.addresses)
        if isinstance(verdict, Rejection):
            rows.append(
                {
                    "times": caller.times,
                    "last": caller.last_at.isoformat(timespec="seconds"),
                    "calling_ae": caller.calling_ae,
                    "called_ae": caller.called_ae,
                    "address": caller.address,
                    "tls_subject": caller.tls_subject,
                    "reason": caller.reason,
                    "what_to_do": verdict.hint,
                }
            )
    return rows


def echo(settings: Settings, name: str) -> str:
    """Ask a destination, prior source or peer whether it is there; return what it is called.

    Peers by C-ECHO, destinations step by step as the dashboard's test does (`dicom_node.testing`); which SOP Classes
    one accepts is told by :func:`test`.

    Raises:
        RefusedInputError: nobody of that name is known.
        PeerUnavailableError: it does not answer, or not as it should.
    """
    found = find(settings, name)
    if not isinstance(found, Destination):
        _looked_at(settings, found, lambda: scu.echo(scu.address_of(found, settings)))
        return found.ae_title
    steps = [step for step in _tried(settings, found) if step.name not in OURS.values()]
    bad = next((step for step in steps if not step.is_good), None)
    if bad is not None:
        raise PeerUnavailableError(f"{bad.name}: {bad.note}")
    return found.ae_title or found.name


def test(settings: Settings, name: str) -> Iterator[Step]:
    """Look at a destination, prior source or peer step by step.

    Raises:
        RefusedInputError: nobody of that name is known.
        PeerUnavailableError: it is not known where it listens.
    """
    found = find(settings, name)
    if isinstance(found, Destination):
        return _tried(settings, found)
    return _examined(settings, found)


def _examined(settings: Settings, found: PriorSource | Peer) -> Iterator[Step]:
    """Yield what is seen of a peer, and record it."""
    seen = []
    for step in examine(scu.address_of(found, settings)):
        seen.append(step)
        yield step
    bad = next((step for step in seen if not step.is_good), None)
    _record_look(settings, found, "" if bad is None else f"{bad.name}: {bad.note}")


def _looked_at(settings: Settings, found: PriorSource | Peer, look: Callable[[], object]) -> None:
    """Look, and record it, also when nobody answers."""
    try:
        look()
    except PeerUnavailableError as exc:
        _record_look(settings, found, str(exc))
        raise
    _record_look(settings, found, "")


def _record_look(settings: Settings, found: PriorSource | Peer, failure: str) -> None:
    with unit_of_work(current_sessions(settings.database), actor()) as uow:
        uow.audit(
            AuditTag.PEER_TESTED,
            outcome="failure" if failure else "success",
            object_type="peer",
            object_id=found.ae_title,
            detail={"asked_by": uow.actor.name, **({"failed": failure} if failure else {})},
        )


def _tried(settings: Settings, destination: Destination) -> Iterator[Step]:
    """Yield what is seen of a destination, and record it where there is a database to do so."""
    seen = []
    for step in examine_destination(settings, destination):
        seen.append(StepSeen(**vars(step)))
        yield step
    # a destination is looked at also when the database is the trouble
    with suppress(AppError, SQLAlchemyError), unit_of_work(current_sessions(settings.database), actor()) as uow:
        record_test(uow, destination.name, seen, asked_by=uow.actor.name)


def find(settings: Settings, name: str) -> Destination | PriorSource | Peer:
    """Return who has this name: a destination or prior source, else a peer or destination with this AE title.

    Raises:
        RefusedInputError: nobody.
    """
    sources = [source for source in settings.priors.sources if source.method != "dicomweb"]
    called: tuple[Destination | PriorSource, ...] = (*settings.destinations, *sources)
    for named in called:
        if named.name == name:
            return named
    with current_sessions(settings.database)() as session:
        peer = find_peer(session, settings, name)
        titles = sorted({known.ae_title for known in known_peers(session, settings)})
    if peer is not None:
        return peer
    titled = next((other for other in called if other.ae_title == name), None)
    if titled is not None:
        return titled
    names = [*(other.name for other in called), *titles]
    raise RefusedInputError(f"no destination and no peer {name!r}; there are: {', '.join(names) or 'none'}")


def _shown(peer: Peer) -> dict[str, Any]:
    return {
        "ae_title": peer.ae_title,
        "host": peer.host or "",
        "port": peer.port,
        "certificate_subject": peer.certificate_subject,
        "called_ae": list(peer.called_ae),
        "max_associations": peer.max_associations,
        "tls": peer.tls,
    }


def _in_one_line(exc: ValidationError) -> str:
    fault = exc.errors()[0]
    what = str(fault["loc"][0]) if fault["loc"] else "peer"
    if what == "ae_title":
        return f"{fault['input']!r} is no AE title: 1 to 16 ASCII characters, no backslash, no control characters"
    return f"{what.replace('_', ' ')}: {str(fault['msg']).removeprefix('Value error, ')}"
