"""The sealer on both databases: every committed event gets its place, heads are signed, keys rotate."""

import base64
import threading

import pytest
import sqlalchemy as sa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pymerkle import InmemoryTree
from sqlalchemy import select

from audit import tree
from audit.heads import open_note
from audit.keys import SealKeys
from audit.sealing import Sealer, seal_all
from config.errors import BrokenSealError, ConfigurationError
from config.settings import AuditSettings
from db.audit import AuditTag
from db.audit_models import AuditHead, AuditNode, AuditPending, AuditSeal
from db.audit_record import instant
from db.engine import WRITING
from db.models import AuditEvent
from db.uow import Actor, unit_of_work

NODE = Actor("node", "process")


def record(sessions, count, tag=AuditTag.USER_LOGIN):
    with unit_of_work(sessions, NODE) as uow:
        for number in range(count):
            uow.audit(tag, object_type="thing", object_id=str(number))


@pytest.fixture
def keys(tmp_path):
    return SealKeys(tmp_path / "keys", create=True)


def preimages(sessions):
    """What is hashed of each sealed event, in the order of the seal, put together anew from the events."""
    with sessions() as session:
        query = select(AuditEvent).join(AuditSeal, AuditSeal.seq == AuditEvent.seq).order_by(AuditSeal.position)
        return [f"{event.seq} {instant(event.occurred_at)}\n{event.body}".encode() for event in session.scalars(query)]


@pytest.mark.requirement("REQ-AUDIT-14")
def test_sealed_is_what_was_committed_and_an_independent_tree_agrees(sessions, keys, monkeypatch):
    monkeypatch.setattr("audit.sealing.PER_PASS", 250)
    sealer = Sealer(sessions, keys, AuditSettings())
    record(sessions, 3)
    assert sealer.round() == 3
    record(sessions, 700)
    with unit_of_work(sessions, NODE) as uow:
        uow.audit(AuditTag.USER_LOGOUT)
        uow.session.flush()
        uow.session.rollback()  # never committed, never sealed
    assert sealer.round() == 700
    assert sealer.round() == 0
    head = sealer.head()
    judge = InmemoryTree(algorithm="sha256")
    for data in preimages(sessions):
        judge.append_entry(data)
    assert (head.size, head.root) == (703, judge.get_root())
    with sessions() as session:
        seals = session.scalars(select(AuditSeal).order_by(AuditSeal.position)).all()
        assert [seal.position for seal in seals] == list(range(703))
        chain = bytes(32)
        for seal in seals:
            chain = tree.chain_hash(chain, seal.leaf)
            assert seal.chain == chain
        assert head.chain == chain
        assert session.scalar(select(sa.func.count()).select_from(AuditPending)) == 0
        nodes = {(node.level, node.number): node.hash for node in session.scalars(select(AuditNode))}
    leaves = [seal.leaf for seal in seals]
    assert nodes == {
        (8, 0): tree.root_of(leaves[:256]),
        (8, 1): tree.root_of(leaves[256:512]),
        (9, 0): tree.root_of(leaves[:512]),
    }


@pytest.mark.requirement("REQ-AUDIT-15")
def test_heads_are_signed_notes_that_openssl_s_key_checks(sessions, keys):
    sealer = Sealer(sessions, keys, AuditSettings(head_every_events=10, origin="clinic.example/audit"))
    for count in (1, 5, 6, 3):
        record(sessions, count)
        sealer.round()
    with sessions() as session:
        heads = session.scalars(select(AuditHead).order_by(AuditHead.size)).all()
    assert [head.size for head in heads] == [1, 12]  # the first at once, then after ten and more
    note = heads[1].note
    text, _, lines = note.partition("\n\n")
    assert text.splitlines()[:3] == ["clinic.example/audit", "12", base64.b64encode(heads[1].root).decode()]
    assert "after 1" in text.splitlines()
    public = load_pem_public_key((keys.folder / "seal.pub").read_bytes())
    dash, name, signature = lines.strip().split(" ")
    assert (dash, name) == ("\u2014", "clinic.example/audit")
    public.verify(base64.b64decode(signature)[4:], f"{text}\n".encode())
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(signature)[4:], f"{text} \n".encode())
    assert open_note(note, keys.public()).root == heads[1].root
    with pytest.raises(BrokenSealError, match="false signature"):
        open_note(note.replace("\n12\n", "\n13\n"), keys.public())
    with pytest.raises(BrokenSealError, match="known key"):
        open_note(note, {})
    assert (keys.folder / "seal.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.requirement("REQ-AUDIT-15")
def test_a_backlog_ends_in_a_head_and_a_new_process_signs_only_when_one_is_due(sqlite_sessions, keys, monkeypatch):
    monkeypatch.setattr("audit.sealing.PER_PASS", 10)
    record(sqlite_sessions, 30)  # a whole number of passes
    assert Sealer(sqlite_sessions, keys, AuditSettings(head_every_events=25)).round() == 30
    record(sqlite_sessions, 10)
    assert Sealer(sqlite_sessions, keys, AuditSettings()).round() == 10

    def sizes():
        with sqlite_sessions() as session:
            return session.scalars(select(AuditHead.size).order_by(AuditHead.size)).all()

    assert sizes() == [10]  # the first at once; 20 more were too few, and it is no hour ago
    record(sqlite_sessions, 5)
    Sealer(sqlite_sessions, keys, AuditSettings(head_every_events=25)).round()
    assert sizes() == [10, 45]
    record(sqlite_sessions, 1)
    Sealer(sqlite_sessions, keys, AuditSettings(head_every_s=1e-9)).round()
    assert sizes() == [10, 45, 46]


def test_a_rotation_is_recorded_sealed_and_signed_by_both_keys(sessions, keys):
    first = seal_all_of(sessions, keys, 4)
    old = keys.current().public
    sealer = Sealer(sessions, keys, AuditSettings())
    head = sealer.rotate()
    new = keys.current().public
    assert new.name != old.name
    assert head.size == first.size + 1  # the rotation itself
    assert set(open_note(head.note, {old.name: old}).signed_by) == {old.name}
    assert set(open_note(head.note, {new.name: new}).signed_by) == {new.name}
    assert open_note(head.note, {old.name: old}).successor == new
    record(sessions, 1)
    after = sealer.head()
    with pytest.raises(BrokenSealError, match="known key"):
        open_note(after.note, {old.name: old})
    assert set(keys.public()) == {old.name, new.name}
    with sessions() as session:
        event = session.scalars(select(AuditEvent).where(AuditEvent.tag == AuditTag.AUDIT_KEY_ROTATED)).one()
    assert event.detail == {"key": "seal", "before": old.name, "after": new.name}


def seal_all_of(sessions, keys, count):
    record(sessions, count)
    return seal_all(sessions, keys.folder)


@pytest.mark.requirement("REQ-AUDIT-14")
def test_without_a_key_nothing_is_lost_and_the_seal_goes_on_once_there_is_one(sessions, tmp_path):
    record(sessions, 2)
    with pytest.raises(ConfigurationError, match=r"seal\.key"):
        Sealer(sessions, SealKeys(tmp_path / "none"), AuditSettings()).round()
    assert Sealer(sessions, SealKeys(tmp_path / "keys", create=True), AuditSettings()).round() == 2


@pytest.mark.requirement("REQ-AUDIT-14")
def test_two_sealers_and_many_writers_give_every_event_one_place(sessions, keys):
    keys.current()
    stop = threading.Event()

    def seal():
        sealer = Sealer(sessions, keys, AuditSettings())
        while not stop.is_set():
            sealer.round()

    sealing = [threading.Thread(target=seal) for _ in range(2)]
    writing = [threading.Thread(target=lambda: [record(sessions, 5) for _ in range(10)]) for _ in range(3)]
    for thread in [*sealing, *writing]:
        thread.start()
    for thread in writing:
        thread.join()
    stop.set()
    for thread in sealing:
        thread.join()
    Sealer(sessions, keys, AuditSettings()).round()
    with sessions() as session:
        positions = session.scalars(select(AuditSeal.position).order_by(AuditSeal.position)).all()
        seqs = session.scalars(select(AuditSeal.seq)).all()
    assert positions == list(range(150))
    assert len(set(seqs)) == 150


@pytest.mark.requirement("REQ-AUDIT-14")
def test_what_is_wrong_never_stops_the_seal(sessions, engine, keys):
    record(sessions, 3)
    with engine.connect().execution_options(**WRITING) as connection:
        later = "2031-01-01 00:00:00.000000"
        connection.execute(sa.text(f"INSERT INTO audit_event (seq, occurred_at, body) VALUES (70, '{later}', '{{}}')"))
        connection.execute(sa.text(f"INSERT INTO audit_pending (seq, occurred_at) VALUES (60, '{later}')"))
        connection.commit()
    record(sessions, 1)
    sealer = Sealer(sessions, keys, AuditSettings())
    assert sealer.round() == 6
    with sessions() as session:
        leaves = {seal.seq: seal.leaf for seal in session.scalars(select(AuditSeal))}
        back = session.scalars(select(AuditEvent).where(AuditEvent.tag == AuditTag.AUDIT_CLOCK_BACK)).all()
    assert leaves[60] == tree.leaf_hash(b"60 2031-01-01T00:00:00.000000Z\n")  # an event that is gone
    assert leaves[70] == tree.leaf_hash(b"70 2031-01-01T00:00:00.000000Z\n{}")
    assert [event.detail["position"] for event in back] == [5] * (engine.dialect.name == "sqlite")
