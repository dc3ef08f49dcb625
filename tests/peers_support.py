"""Calls to the node from any address of this machine, and peers added to it."""

import time

from pydicom.uid import CTImageStorage
from pynetdicom import AE

from config.settings import Peer
from db import peers as peer_rows
from db.uow import Actor, unit_of_work

ADMIN = Actor("cli:admin", "person")


def add(sessions, **values):
    """Let a peer in, as an administrator."""
    with unit_of_work(sessions, ADMIN) as uow:
        peer_rows.add_peer(uow, Peer(**values))


def call(port, calling="CT1", *, host="127.0.0.1", contexts=(CTImageStorage,), called="FIRSTREAD"):
    """Associate from an address of this machine."""
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = 30
    for context in contexts:
        ae.add_requested_context(context)
    return ae.associate("127.0.0.1", port, ae_title=called, bind_address=(host, 0))


def rejection(assoc):
    """Result, source and reason of an A-ASSOCIATE-RJ."""
    assert assoc.is_rejected
    answer = assoc.acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


def until_established(attempt, seconds=5.0):
    """Try again until an association is accepted, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        assoc = attempt()
        if assoc.is_established:
            return assoc
        assert time.monotonic() < deadline
        time.sleep(0.1)
