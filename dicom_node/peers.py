"""Everybody the node knows: peers of the settings, and those people added."""

import threading
import time

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from config.errors import TransientError
from config.settings import Peer, Settings
from db.peer_models import AddedPeer
from db.peers import added_peers

log = structlog.get_logger()
_FRESH_S = 2.0  # so long at most may a peer that was added or removed be unknown


def known_peers(session: Session, settings: Settings) -> tuple[Peer, ...]:
    """Return all peers that may call, those of the settings first."""
    return (*settings.dicom.peers, *(as_peer(row) for row in added_peers(session)))


def find_peer(session: Session, settings: Settings, ae_title: str) -> Peer | None:
    """Return the first peer with this AE title that says where it listens, else the first with this AE title."""
    named = [peer for peer in known_peers(session, settings) if peer.ae_title == ae_title]
    reachable = [peer for peer in named if peer.host and peer.port]
    return next(iter(reachable or named), None)


def as_peer(row: AddedPeer) -> Peer:
    """Return what a row of the table says, as the settings would."""
    return Peer(
        ae_title=row.ae_title,
        host=row.host or None,
        port=row.port,
        certificate_subject=row.certificate_subject,
        called_ae=tuple(row.called_ae),
        max_associations=row.max_associations,
        tls=row.tls,
    )


class KnownPeers:
    """All peers as they were at most two seconds ago, so that somebody added may call without a restart."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session]) -> None:
        self._settings = settings
        self._sessions = sessions
        self._asking = threading.Lock()
        self._peers: tuple[Peer, ...] | None = None
        self._asked_at = float("-inf")

    def present(self) -> tuple[Peer, ...]:
        """Return all peers; while the database is away, those it knew last.

        Raises:
            TransientError: the database has never answered.
        """
        # while one association asks, the others go by what is known
        if self._is_old() and self._asking.acquire(blocking=self._peers is None):
            try:
                if self._is_old():
                    self._ask()
                    self._asked_at = time.monotonic()
            finally:
                self._asking.release()
        if self._peers is None:
            # without an answer nobody knows whether there are peers, and so whether this machine is open
            raise TransientError("the database has not said yet who may call")
        return self._peers

    def _is_old(self) -> bool:
        return time.monotonic() - self._asked_at >= _FRESH_S

    def _ask(self) -> None:
        try:
            with self._sessions() as session:
                self._peers = known_peers(session, self._settings)
        except SQLAlchemyError as exc:
            log.error("peers.not_read", error=exc)  # noqa: TRY400
