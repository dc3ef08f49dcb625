"""What names or describes a patient stands beside the chain, never in it, and goes by law without hurting it."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import rfc8785
import sqlalchemy as sa
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError

from audit.keys import SealKeys
from audit.reading import source_of
from audit.sealing import Sealer
from audit.tree import leaf_hash
from audit.verify import Terms, verify
from config.errors import LifecycleError, RefusedInputError
from config.settings import AuditSettings, Settings
from db.audit import AuditTag
from db.audit_models import AuditHead, AuditSeal
from db.audit_record import canonical, instant, private_holds
from db.engine import make_engine, make_sessions
from db.lifecycle import critical, queue_control, retention
from db.lifecycle.audit_archives import lift_hold, place_hold
from db.lifecycle.breaking import break_glass
from db.lifecycle.erasing import Erasing, erase, receipt_digest
from db.lifecycle.review import reject, save_sections
from db.models import AuditEvent, AuditPrivate, ImagingOrder, Study
from db.types import Role, utcnow
from db.uow import Actor, unit_of_work
from ris.receiving import answer
from tests.critical_support import said
from tests.db_support import Sessions, addend, correct, decide_all, open_review, person, received, sign
from tests.hl7_support import line, msh, sent

OPERATOR = Actor("cli:dpo", "person")
PATIENT = {"patient_name": "Haldorsen^Ragnhild", "patient_id": "PAT-77310", "accession_number": "ACC-88412"}
OTHER = {"patient_name": "Vandermolen^Piet", "patient_id": "PAT-11223", "accession_number": "ACC-99001"}
# every word that names or describes the first patient, and each free text somebody typed about them
MARKS = (
    "HALDORSEN", "PAT-77310", "PAT-90001", "ACC-88412", "PLC-5551", "FIL-7771", "QUOKKA", "AXOLOTL", "PANGOLIN",
    "NARWHAL", "TAPIR", "WOMBAT", "OCELOT", "DR OKAPI", "LEMUR", "GAVIAL",
)  # fmt: skip

ELSEWHERE = {"QUOKKA", "DR OKAPI", "LEMUR"}  # in the order and in the record of the call, not in an event


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("private") / "firstread.db"
        path.write_bytes(request.getfixturevalue("_migrated_file").read_bytes())
        engine = make_engine(f"sqlite:///{path}")
    else:
        server = request.getfixturevalue("postgres_server")
        name = f"t_{uuid4().hex}"
        server.create(name, template="firstread_template")
        engine = make_engine(server.url(name))
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def history(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    """Two patients: one on the whole way through RIS, reading, signing and correction, one beside."""
    sessions = make_sessions(engine)
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"))
    count = iter(range(1, 100))

    def tell(kind: str, *lines: str) -> None:
        content = sent(msh(kind, f"M{next(count)}"), *lines)
        assert "\rMSA|AA" in answer(content, settings, sessions).decode()

    reader, admin = person(sessions), person(sessions, "admin", Role.ADMIN)
    for patient, placer in ((PATIENT, "PLC-5551"), (OTHER, "PLC-2")):
        name, key, accession = patient["patient_name"], patient["patient_id"], patient["accession_number"]
        pid = line("PID", f3=f"{key}^^^HOSP^MR", f5=name, f7="19411207", f8="F")
        obr = line("OBR", f4="CT^CT Chest", f18=accession, f31="^QUOKKA")
        tell("ORM^O01", pid, line("ORC", f1="NW", f2=placer, f3="FIL-7771"), obr)
        _read(sessions, patient, f"1.2.826.{placer[-1]}", reader, admin)
    merge = [line("PID", f3="PAT-90001^^^HOSP^MR", f5="Haldorsen^R"), line("MRG", f1="PAT-77310^^^HOSP^MR")]
    tell("ADT^A40", "EVN||20260304", *merge)
    with unit_of_work(sessions, admin) as uow:
        uow.audit(AuditTag.AUDIT_VIEWED, object_type="accession", object_id="ACC-88412")
    return sessions


def _read(sessions: Sessions, patient: dict[str, str], uid: str, reader: Actor, admin: Actor) -> None:
    facts: dict[str, Any] = {"issuer_of_patient_id": "HOSP", **patient}
    held = received(sessions, f"{uid}.9", **facts).queued()
    with unit_of_work(sessions, admin) as uow:
        queue_control.hold(uow, held.reading_id, reason="gavial, says the ward")
    journey = received(sessions, uid, **facts).queued().running().drafted()
    with unit_of_work(sessions, admin) as uow:
        break_glass(uow, journey.study_id, reason=f"axolotl, relative of {patient['patient_name']}", lasts_s=60)
    version = open_review(journey, reader)
    with unit_of_work(sessions, reader) as uow:
        text = {"findings": "A pangolin.", "impression": f"{patient['patient_name']}: nodule."}
        version = save_sections(uow, journey.report().id, text, seen_version=version)
    with unit_of_work(sessions, reader) as uow:
        alert = critical.mark(uow, journey.study_id, what="Tapir sign", category=1)
        critical.record(uow, alert.id, said(told_name="Dr Okapi", note="lemur"))
    sign(journey, reader, decide_all(journey, reader, journey.report().version))
    addend(journey, reader, "Narwhal seen again.")
    correct(journey, reader, "Wombat, not left.", sections={"impression": "Ocelot on the left."})
    rejected = received(sessions, f"{uid}.8", **facts).queued().running().drafted()
    version = open_review(rejected, reader)
    with unit_of_work(sessions, reader) as uow:
        reject(uow, rejected.report().id, reason="axolotl again", seen_version=version)


def _events(sessions: Sessions) -> list[AuditEvent]:
    with sessions() as session:
        return list(session.scalars(select(AuditEvent).order_by(AuditEvent.seq)))


def _studies(sessions: Sessions, key: str) -> list[Study]:
    with sessions() as session:
        return list(session.scalars(select(Study).where(Study.patient_id == key).order_by(Study.study_instance_uid)))


def _details(sessions: Sessions, tag: str) -> list[dict[str, Any]]:
    return [one.detail for one in _events(sessions) if one.tag == tag]


@pytest.mark.requirement("REQ-AUDIT-20")
def test_no_body_names_or_describes_the_patient_and_the_record_still_shows_all_of_it(history: Sessions) -> None:
    events = _events(history)
    bodies = [one.body.upper() for one in events]
    assert {(mark, body) for mark in MARKS for body in bodies if mark in body} == set()
    shown = "\n".join(json.dumps(one.detail).upper() for one in events)
    assert {mark for mark in MARKS if mark not in shown} == ELSEWHERE
    assert len(events) > 40


@pytest.mark.requirement("REQ-EDIT-3")
def test_an_edit_keeps_the_old_text_and_the_new(history: Sessions) -> None:
    """21 CFR 11.10(e): record changes shall not obscure previously recorded information."""
    edit = _details(history, "report:edited")[0]
    assert edit["sections"] == ["findings", "impression"]
    assert edit["before"] == {"findings": "A nodule.", "impression": "Nodule."}
    assert edit["after"] == {"findings": "A pangolin.", "impression": "Haldorsen^Ragnhild: nodule."}
    correction = _details(history, "report:corrected")[0]
    assert (correction["before"], correction["after"]) == (
        {"impression": "Haldorsen^Ragnhild: nodule."},
        {"impression": "Ocelot on the left."},
    )
    assert _details(history, "report:addended")[0]["after"] == {"addendum": "Narwhal seen again."}


def test_what_stands_apart_is_what_the_body_has_digests_of(history: Sessions) -> None:
    event = next(one for one in _events(history) if one.tag == "report:edited")
    assert event.aside is not None
    key, content = event.aside.key, dict(event.aside.content)
    assert private_holds(event.body, key, content)
    assert not private_holds(event.body, key, content | {"after": {"findings": "Another."}})
    assert not private_holds(event.body, key, {name: content[name] for name in ("after",)})
    assert not private_holds(event.body, "0" * 64, content)
    assert not private_holds(event.body, "no key", content)


@pytest.mark.requirement("REQ-AUDIT-3", "REQ-AUDIT-20")
def test_what_stands_apart_goes_only_by_an_erasure_that_is_recorded(engine: Engine, history: Sessions) -> None:
    with history() as session:
        seq = session.scalars(select(AuditPrivate.seq).order_by(AuditPrivate.seq).limit(1)).one()
    attempts = [
        f"DELETE FROM audit_private WHERE seq = {seq}",
        f"UPDATE audit_private SET content = '{{}}' WHERE seq = {seq}",
        f"UPDATE audit_private SET key = '' WHERE seq = {seq}",
    ]
    if engine.dialect.name == "postgresql":
        attempts += ["TRUNCATE audit_private", "TRUNCATE audit_erasure"]
    for attempt in attempts:
        with pytest.raises(IntegrityError, match="append-only"), engine.begin() as connection:
            connection.execute(sa.text(attempt))
    with pytest.raises(IntegrityError, match="append-only"), engine.begin() as connection:  # noqa: PT012
        mine = {"seq": seq, "id": uuid4().hex}
        connection.execute(sa.text("INSERT INTO audit_erasure (seq, erasure_id) VALUES (:seq, :id)"), mine)
        connection.execute(sa.text("DELETE FROM audit_erasure"))


def _candidates(key: str, digests: set[str]) -> set[str]:
    """Every Patient ID from 90000 on whose digest is among these: what somebody can find out who has the key."""
    tried = (
        (f"PAT-{n:05}", json.dumps(["object_id", f"PAT-{n:05}"], separators=(",", ":"))) for n in range(90_000, 100_000)
    )
    secret = bytes.fromhex(key)
    return {name for name, words in tried if hmac.digest(secret, words.encode(), "sha256").hex() in digests}


@pytest.mark.requirement("REQ-AUDIT-20")
def test_a_patient_is_erased_and_the_chain_stays(
    engine: Engine, history: Sessions, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = SealKeys(tmp_path_factory.mktemp("seal"), create=True)
    sealer = Sealer(history, keys, AuditSettings())
    sealer.head()
    before = {one.seq: one for one in _events(history)}
    merged = next(one for one in before.values() if one.tag == "patient:merged")
    assert merged.aside is not None
    digests = set(json.loads(merged.body)["private"].values())
    old_key = merged.aside.key
    assert _candidates(old_key, digests) == {"PAT-90001"}  # the id after the merge; the one before has another name

    wanted = Erasing("asked by HALDORSEN", "GDPR Art. 17, case 12", patient_id="PAT-90001", issuer="HOSP")
    with unit_of_work(history, OPERATOR) as uow:
        done = erase(uow, wanted)

    after = {one.seq: one for one in _events(history)}
    assert {seq: one.body for seq, one in after.items() if seq in before} == {s: one.body for s, one in before.items()}
    (erased,) = [one for one in after.values() if one.seq not in before]
    assert (erased.tag, erased.actor, erased.object_id) == ("audit:erased", "cli:dpo", str(done.erasure_id))
    assert erased.detail["authority"] == "GDPR Art. 17, case 12"
    assert (erased.detail["events"], erased.detail["studies"], erased.detail["orders"]) == (done.events, 3, 1)
    assert "HALDORSEN" not in erased.body
    assert "PAT-" not in erased.body
    assert erased.detail["subject_digest"] == receipt_digest(done.key, ["PAT-90001", "HOSP"])

    shown = "\n".join(json.dumps(one.detail).upper() for one in after.values())
    assert [one for one in ("HALDORSEN", "PAT-77310", "PAT-90001", "ACC-88412", "PLC-5551") if one in shown] == []
    assert [
        one for one in ("VANDERMOLEN", "PLC-2", "FIL-7771", "ACC-99001", "AXOLOTL", "OCELOT") if one not in shown
    ] == []
    assert after[merged.seq].detail["gone"] == "[erased]"

    # the chain: what was sealed is what is there, and sealing goes on
    sealer.head()
    with history() as session:
        seals = {one.seq: one for one in session.scalars(select(AuditSeal))}
        sizes = sorted(session.scalars(select(AuditHead.size)))
        left = set(session.scalars(select(AuditPrivate.key)))
    for one in after.values():
        told = f"{one.seq} {instant(one.occurred_at)}\n{one.body}".encode()
        assert hashlib.sha256(b"\x00" + told).digest() == seals[one.seq].leaf == leaf_hash(told)
    assert sizes[-1] == len(after)
    verdict = verify(source_of(engine.url.render_as_string(hide_password=False)), Terms(keys.public()))
    assert (verdict.found, verdict.erased, verdict.end) == ({}, done.events, len(after))

    # and the digests open no more: not with any key that is left, nor without one
    assert old_key not in left
    for key in [*sorted(left)[:2], "", done.key, "00" * 32]:
        assert _candidates(key, digests) == set()


@pytest.mark.requirement("REQ-AUDIT-20")
def test_an_erasure_is_refused_while_somebody_must_keep_it(history: Sessions) -> None:
    (first, *_) = _studies(history, "PAT-11223")
    uid = first.study_instance_uid
    count = len(_events(history))
    for wanted, error in (
        (Erasing("", "law", patient_id="PAT-11223"), RefusedInputError),
        (Erasing("why", "", patient_id="PAT-11223"), RefusedInputError),
        (Erasing("why", "law"), RefusedInputError),
        (Erasing("why", "law", patient_id="PAT-11223", study_instance_uid=uid), RefusedInputError),
        (Erasing("why", "law", patient_id="PAT-00000"), RefusedInputError),
        (Erasing("why", "law", study_instance_uid=uid, identities=True), LifecycleError),
    ):
        with pytest.raises(error), unit_of_work(history, OPERATOR) as uow:
            erase(uow, wanted)
    with unit_of_work(history, OPERATOR) as uow:
        retention.place_hold(uow, first.id, "claim")
    with pytest.raises(LifecycleError, match="legal hold stands on 1 of 3"), unit_of_work(history, OPERATOR) as uow:
        erase(uow, Erasing("why", "law", patient_id="PAT-11223", issuer="HOSP"))
    with unit_of_work(history, OPERATOR) as uow:
        retention.lift_hold(uow, first.id, "settled")
    with unit_of_work(history, OPERATOR) as uow:  # and a hold on the record of these days
        hold_id = place_hold(uow, reason="inquiry", since=utcnow() - timedelta(days=1)).id
    with pytest.raises(LifecycleError, match="legal hold stands on 3 of 3"), unit_of_work(history, OPERATOR) as uow:
        erase(uow, Erasing("why", "law", patient_id="PAT-11223", issuer="HOSP"))
    with unit_of_work(history, OPERATOR) as uow:
        lift_hold(uow, hold_id, reason="closed")
    assert len(_events(history)) == count + 4


def test_one_study_is_erased_with_the_identities_elsewhere(history: Sessions) -> None:
    (first, second, *_) = _studies(history, "PAT-11223")
    with history.begin() as session:
        session.get_one(Study, first.id).pixels_deleted_at = sa.func.now()
    with unit_of_work(history, OPERATOR) as uow:
        done = erase(uow, Erasing("why", "law", study_instance_uid=first.study_instance_uid, identities=True))
    assert (done.studies, done.orders, done.left) == (1, 1, 0)
    with history() as session:
        left = session.get_one(Study, first.id)
        order = session.get_one(ImagingOrder, left.order_id)
        assert (left.patient_name, left.patient_id, left.accession_number, order.patient_name) == ("", "", "", "")
        assert (order.indication, session.get_one(Study, second.id).patient_name) == ("", "Vandermolen^Piet")
        of_first = session.scalars(select(AuditPrivate).where(AuditPrivate.study_id == first.id)).all()
        of_second = session.scalars(select(AuditPrivate).where(AuditPrivate.study_id == second.id)).all()
    assert (list(of_first), bool(of_second)) == ([], True)


@pytest.mark.requirement("REQ-AUDIT-14")
def test_the_fast_way_to_canonical_json_writes_what_the_library_does() -> None:
    strings = [
        "",
        "a/b",
        '"\\\b\f\n\r\t\x00\x1f\x7f',
        "é€😀\u2028",
        "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    ]
    values: list[Any] = [None, True, False, 0, -1, 2**53 - 1, 1.0, 1e21, 1e-7, 0.1, *strings, [], {}]
    nested: list[Any] = [{key: value, "z": [value, {"b": 1, "a": value}]} for key in strings for value in values]
    for value in [*values, *nested, {"é": 1, "😀": 2, "\ufb33": 3}]:
        assert canonical(value) == rfc8785.dumps(value)
