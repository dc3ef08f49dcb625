"""Proofs for somebody who has not the log: that an event is in it, and that a later log only appended to an earlier.

A proof is JSON that stands for itself: it holds the signed heads it leads to, and needs the public key only.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from audit import tree
from audit.heads import Head, open_note
from audit.keys import PublicKey
from audit.sealing import last_head
from audit.tables import Tables, tables_of
from config.errors import BrokenSealError, RefusedInputError
from db.audit_models import AuditHead, AuditSeal
from db.audit_record import instant
from db.models import AuditEvent

_INCLUSION, _CONSISTENCY = "inclusion", "consistency"


def prove_inclusion(session: Session, seq: int, size: int | None = None) -> dict[str, Any]:
    """Return the proof that event ``seq`` is under the head of ``size`` events, or the newest (RFC 9162 2.1.3).

    Raises:
        RefusedInputError: no such event or head, or the head does not cover the event yet.
    """
    seal = session.scalars(select(AuditSeal).where(AuditSeal.seq == seq)).first()
    event = session.scalars(select(AuditEvent).where(AuditEvent.seq == seq)).first()
    if seal is None or event is None:
        raise RefusedInputError(f"there is no sealed event {seq}")
    head = _head(session, size)
    if seal.position >= head.size:
        raise RefusedInputError(f"no signed head covers event {seq} yet: run firstread audit head")
    return {
        "kind": _INCLUSION,
        "event": {"seq": seq, "at": instant(event.occurred_at), "body": event.body},
        "position": seal.position,
        "path": _said(tree.inclusion_path(seal.position, head.size, _tables(session).subtree)),
        "head": head.note,
    }


def prove_consistency(session: Session, old: int, size: int | None = None) -> dict[str, Any]:
    """Return the proof that the log of ``size`` events, or the newest head's, appended to that of ``old``.

    Raises:
        RefusedInputError: no such heads, or not in this order.
    """
    before, after = _head(session, old), _head(session, size)
    if before.size > after.size:
        raise RefusedInputError(f"the head of {before.size} events is younger than that of {after.size}")
    path = tree.consistency_path(before.size, after.size, _tables(session).subtree)
    return {"kind": _CONSISTENCY, "before": before.note, "path": _said(path), "head": after.note}


def check_proof(proof: Mapping[str, Any], keys: Mapping[str, PublicKey]) -> str:
    """Return in a sentence what a proof shows.

    Raises:
        BrokenSealError: it shows nothing: a head is not signed by one of ``keys``, or the path does not lead to it.
    """
    try:
        if proof["kind"] == _INCLUSION:
            return _included(proof, open_note(proof["head"], keys))
        if proof["kind"] == _CONSISTENCY:
            return _consistent(proof, open_note(proof["before"], keys), open_note(proof["head"], keys))
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as exc:
        raise BrokenSealError("that is no proof of this log") from exc
    raise BrokenSealError("that is no kind of proof that is known")


def _included(proof: Mapping[str, Any], head: Head) -> str:
    event = proof["event"]
    leaf = tree.leaf_hash(tree.preimage(int(event["seq"]), str(event["at"]), event["body"].encode("utf-8")))
    position = int(proof["position"])
    if not tree.verify_inclusion(leaf, position, head.size, _read(proof["path"]), head.root):
        raise BrokenSealError(f"event {event['seq']} is not under the head of {head.size} events")
    return f"event {event['seq']} is number {position} of the {head.size} events that {head.origin} had at {head.at}"


def _consistent(proof: Mapping[str, Any], before: Head, after: Head) -> str:
    path = _read(proof["path"])
    if before.origin != after.origin or not tree.verify_consistency(
        before.size, before.root, after.size, after.root, path
    ):
        raise BrokenSealError(f"the log of {after.size} events does not begin with the {before.size} that were signed")
    return f"the log of {after.size} events begins with the {before.size} that were signed at {before.at}"


def _head(session: Session, size: int | None) -> AuditHead:
    found = last_head(session) if size is None else session.get(AuditHead, size)
    if found is None:
        raise RefusedInputError("no head was signed yet" if size is None else f"no head of {size} events was signed")
    return found


def _tables(session: Session) -> Tables:
    connection = session.connection()
    return tables_of(connection.dialect.name, connection.connection.cursor())


def _said(path: list[bytes]) -> list[str]:
    return [base64.b64encode(step).decode("ascii") for step in path]


def _read(path: list[str]) -> list[bytes]:
    return [base64.b64decode(step, validate=True) for step in path]
