"""What peers and processes do is on record; and what cannot be recorded does not happen."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, generate_uid
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError
from config.settings import Settings
from db import lifecycle
from db.engine import make_engine, make_sessions, migrate
from db.models import AuditEvent, Instance
from db.origin import keys_are_in
from db.starting import record_start
from db.types import utcnow
from db.uow import Actor, unit_of_work
from tests.db_support import Journey, decide_all, delivery_states, open_review, person, received, sign
from tests.node_support import associate, ct_slice, encoded, node_settings, running_node, store_bytes

NODE = Actor("node", "process")
_REFUSE = {
    "sqlite": ["CREATE TRIGGER nothing_is_recorded BEFORE INSERT ON audit_event BEGIN SELECT RAISE(ABORT, 'no'); END"],
    "postgresql": [
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'",
        "CREATE TRIGGER nothing_is_recorded BEFORE INSERT ON audit_event FOR EACH STATEMENT EXECUTE FUNCTION nothing()",
    ],
}


def refuse_events(sessions: sessionmaker[Session]) -> None:
    """Let the database take no further event."""
    with sessions.begin() as db:
        for statement in _REFUSE[db.get_bind().dialect.name]:
            db.execute(text(statement))


def events(sessions: sessionmaker[Session], tag: str) -> list[AuditEvent]:
    with sessions() as db:
        return list(db.scalars(select(AuditEvent).where(AuditEvent.tag == tag).order_by(AuditEvent.seq)))


# --- peers ------------------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path, sqlite_sessions: sessionmaker[Session]) -> Iterator[Any]:
    with running_node(node_settings(tmp_path), sqlite_sessions) as running:
        yield running


def send(assoc: Any, ds: Any) -> int | None:
    data = encoded(ds)
    return store_bytes(assoc, data, sop_class=CTImageStorage, sop_instance=str(ds.SOPInstanceUID))[0]


def test_the_end_of_an_association_seals_what_came_on_it(node: Any, sqlite_sessions: sessionmaker[Session]) -> None:
    studies = [generate_uid(), generate_uid()]
    sent = [ct_slice(StudyInstanceUID=study, SOPInstanceUID=generate_uid()) for study in studies for _ in range(2)]
    assoc = associate(node.port)
    assert [send(assoc, ds) for ds in sent] == [0, 0, 0, 0]
    assert send(assoc, sent[0]) == 0  # once more: a duplicate is told by itself
    assert store_bytes(assoc, b"nonsense", sop_class=CTImageStorage, sop_instance="1.2.3")[0] != 0
    assoc.release()
    node.stop()
    told = events(sqlite_sessions, "instances:received")
    assert [event.detail["instances"] for event in told] == [2, 2]
    digests = set()
    for study in studies:
        lines = sorted(
            f"{ds.SOPInstanceUID} {hashlib.sha256(encoded(ds)).hexdigest()}"
            for ds in sent
            if study == ds.StudyInstanceUID
        )
        digests.add(hashlib.sha256("\n".join(lines).encode()).hexdigest())
    assert {event.detail["instances_sha256"] for event in told} == digests
    assert {(event.actor, event.actor_kind) for event in told} == {("MODALITY", "peer")}
    assert all('"address":"127.0.0.1"' in event.body for event in told)
    (end,) = events(sqlite_sessions, "association:finished")
    assert {name: end.detail[name] for name in ("instances", "refused")} == {"instances": 5, "refused": 1}
    assert {event.object_id for event in told} == {end.object_id}
    assert len(events(sqlite_sessions, "instance:duplicate")) == 1


def test_a_sender_that_cannot_be_recorded_is_turned_away(node: Any, sqlite_sessions: sessionmaker[Session]) -> None:
    open_before = associate(node.port)
    refuse_events(sqlite_sessions)
    assert associate(node.port).is_rejected
    assert send(open_before, ct_slice()) != 0  # a Study that is new is recorded as it begins
    open_before.abort()
    with sqlite_sessions() as db:
        assert db.scalars(select(Instance)).all() == []


def test_without_the_key_not_even_the_usual_case_is_received(
    node: Any, sqlite_sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    study = generate_uid()
    series = generate_uid()
    slices = [ct_slice(StudyInstanceUID=study, SeriesInstanceUID=series) for _ in range(2)]
    assoc = associate(node.port)
    assert send(assoc, slices[0]) == 0
    keys_are_in(tmp_path / "nowhere")
    try:
        assert send(assoc, slices[1]) != 0
    finally:
        keys_are_in(Path(os.environ["FIRSTREAD_AUDIT__KEY_DIR"]))
    assert send(assoc, slices[1]) == 0  # the sender kept it, and comes again
    assoc.release()


# --- the reading room and deliveries ------------------------------------------------------------------------


def _ready(sessions: sessionmaker[Session]) -> tuple[Journey, Any, int]:
    journey = received(sessions).queued().running().drafted()
    reader = person(sessions)
    return journey, reader, decide_all(journey, reader, open_review(journey, reader))


def test_no_signature_and_no_delivery_without_their_event(sessions: sessionmaker[Session]) -> None:
    journey, reader, version = _ready(sessions)
    owed = delivery_states(sessions)
    assert set(owed) == {"PENDING"}  # the draft's objects
    refuse_events(sessions)
    with pytest.raises(Exception, match="no"):
        sign(journey, reader, version)
    with pytest.raises(Exception, match="no"), unit_of_work(sessions, NODE) as uow:
        lifecycle.claim_delivery(uow, utcnow(), lease_s=60)
    assert journey.report().state.value == "IN_REVIEW"
    assert delivery_states(sessions) == owed
    with sessions() as db:
        assert db.scalars(text("SELECT count(*) FROM signature")).one() == 0


# --- processes ----------------------------------------------------------------------------------------------


def test_a_start_tells_the_program_and_which_settings_changed_but_no_value(
    sqlite_sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    before = Settings(data_dir=tmp_path, organization="St. Elsewhere", session_secret="s" * 40)
    after = before.model_copy(update={"organization": "Mercy", "dicom": before.dicom.model_copy(update={"port": 1104})})
    for settings in (before, before, after, after):
        record_start(sqlite_sessions, settings, "worker")
    starts = events(sqlite_sessions, "process:started")
    assert len(starts) == 4
    assert len(starts[0].detail["code_sha256"]) == len(starts[0].detail["lock_sha256"]) == 64
    first, second = events(sqlite_sessions, "config:changed")
    assert (first.detail["compared"], second.detail["compared"]) == (False, True)
    assert second.detail["changed"] == ["settings.dicom.port", "settings.organization"]
    assert second.detail["digest_before"] == first.detail["digest_after"] != second.detail["digest_after"]
    assert not any(word in event.body for event in (first, second) for word in ("Elsewhere", "Mercy", "s" * 40, "1104"))


def test_other_rules_are_another_configuration(sqlite_sessions: sessionmaker[Session], tmp_path: Path) -> None:
    rules = tmp_path / "routing.yaml"
    rules.write_text("rules: []\n", encoding="utf-8")
    settings = Settings(data_dir=tmp_path, routing=rules)
    record_start(sqlite_sessions, settings, "sweeper")
    rules.write_text("rules: [] # nobody\n", encoding="utf-8")
    record_start(sqlite_sessions, settings, "sweeper")
    assert events(sqlite_sessions, "config:changed")[-1].detail["changed"] == ["file.routing"]


def test_a_process_that_cannot_be_recorded_does_not_start(
    sqlite_sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    refuse_events(sqlite_sessions)
    with pytest.raises((AppError, Exception)), running_node(node_settings(tmp_path), sqlite_sessions):
        pytest.fail("it listens")


def test_a_change_of_the_schema_is_recorded_where_there_is_a_record(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    migrate(url, revision="0032")
    sessions = make_sessions(make_engine(url))
    assert events(sessions, "schema:migrated") == []  # it was empty
    migrate(url)
    migrate(url)
    (event,) = events(sessions, "schema:migrated")
    assert (event.detail["from"], event.detail["to"]) == ("0032", event.object_id)
