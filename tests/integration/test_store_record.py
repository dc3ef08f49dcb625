"""What people decide about packages: accepted, active, retired; on both databases, each with its audit event."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from config.errors import LifecycleError, RefusedInputError
from config.routing import RoutingVerdict
from config.settings import Settings
from db import lifecycle, packages
from db.audit import AuditTag
from db.lifecycle.moves import move_package
from db.lifecycle.tables import PACKAGE_MOVES
from db.models import AuditEvent
from db.package_models import LicenceAcceptance, Package
from db.packages import NewPackage
from db.types import PackageKind, PackageState, Use
from db.uow import UnitOfWork, unit_of_work
from tests.db_support import WORKER, new_draft, person, received, tags
from tests.fakes import VLM_CARD
from tests.store_support import OPERATOR
from worker.licensing import require_licence
from worker.reader import Reader

TEXT = "For research."


def _new(name: str = "VILA", kind: PackageKind = PackageKind.VLM, **changes: str) -> NewPackage:
    values = NewPackage(
        kind=kind,
        name=name,
        version="1",
        revision="a" * 40,
        folder=f"{name.lower()}-1",
        manifest_sha256=f"{name}-manifest",
        licence="research",
        licence_sha256=packages.text_sha256(TEXT),
        research_only=True,
        demonstration=False,
    )
    return replace(values, **changes)  # type: ignore[arg-type]


def _add(sessions, new: NewPackage):
    with unit_of_work(sessions, OPERATOR) as uow:
        if packages.acceptance(uow.session, new.name, new.licence_sha256) is None:
            packages.accept_licence(uow, package=new.name, licence=new.licence, text=TEXT)
        return packages.add_package(uow, new, AuditTag.MODEL_IMPORTED, source="usb")


def _activate(sessions, key):
    with unit_of_work(sessions, OPERATOR) as uow:
        return packages.activate(uow, key)


def _retire(sessions, key, **options):
    with unit_of_work(sessions, OPERATOR) as uow:
        packages.retire(uow, key, reason="defect", **options)


def _states(sessions):
    with sessions() as session:
        return {row.folder: row.state.value for row in packages.list_packages(session)}


def test_the_digest_of_a_licence_is_that_of_its_bytes():
    # echo -n "For research." | sha256sum
    assert packages.text_sha256(TEXT) == "b88bf90e3ba1ce15aa64dc4bf0f8b99d1572e98fc38b5f8d535afb97178c34b9"


def test_activation_is_seen_at_the_next_question_and_names_everything(sessions):
    key = _add(sessions, _new())
    with sessions() as session:
        assert packages.active_packages(session) == []
    assert _activate(sessions, key) is None
    with sessions() as session:
        active = packages.active_packages(session)
        row = session.get_one(Package, key)
    assert [(p.kind, p.name, p.folder, p.manifest_sha256, p.research_only) for p in active] == [
        (PackageKind.VLM, "VILA", "vila-1", "VILA-manifest", True)
    ]
    assert (row.activated_by, row.activated_at is not None) == ("cli:jdoe", True)
    assert tags(sessions) == ["licence:accepted", "model:imported", "model:activated"]


@pytest.mark.requirement("REQ-MODEL-7")
def test_a_package_whose_licence_nobody_accepted_never_drafts(sessions):
    with pytest.raises(RefusedInputError, match="not accepted"), unit_of_work(sessions, OPERATOR) as uow:
        packages.add_package(uow, _new(), AuditTag.MODEL_FETCHED, source="hub")
    # whoever writes the row by hand
    with unit_of_work(sessions, OPERATOR) as uow:
        key = uuid4()
        uow.session.add(Package(id=key, place="vlm", imported_by="x", **vars(_new(licence_sha256="0" * 64))))
    with pytest.raises(RefusedInputError, match="not accepted"):
        _activate(sessions, key)
    assert _states(sessions) == {"vila-1": "IMPORTED"}


def test_one_vision_language_model_is_active_and_the_other_steps_back(sessions):
    first, second = _add(sessions, _new()), _add(sessions, _new("OTHER"))
    _activate(sessions, first)
    assert _activate(sessions, second) == "VILA"
    assert _states(sessions) == {"vila-1": "IMPORTED", "other-1": "ACTIVE"}
    assert _activate(sessions, first) == "OTHER"
    assert tags(sessions)[-4:] == ["model:deactivated", "model:activated"] * 2


def test_experts_are_active_beside_each_other_one_of_each_name(sessions):
    expert = PackageKind.EXPERT
    old = _add(sessions, _new("CXR", expert))
    new = _add(sessions, _new("CXR", expert, folder="cxr-2", revision="b" * 40))
    other = _add(sessions, _new("BRATS", expert))
    for key in (old, other, new):
        _activate(sessions, key)
    assert _states(sessions) == {"cxr-1": "IMPORTED", "cxr-2": "ACTIVE", "brats-1": "ACTIVE"}


def test_the_database_itself_refuses_two_active_packages_in_one_place(engine, sessions):
    _activate(sessions, _add(sessions, _new()))
    _add(sessions, _new("OTHER"))
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(sa.text("UPDATE model_package SET state = 'ACTIVE'"))
    assert _states(sessions) == {"vila-1": "ACTIVE", "other-1": "IMPORTED"}


def test_of_people_who_activate_at_once_one_package_is_left_active(sessions):
    keys = [_add(sessions, _new(name)) for name in ("A", "B", "C", "D")]

    def activate(key):
        try:
            _activate(sessions, key)
        except LifecycleError as exc:
            return str(exc)
        return "activated"

    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(activate, keys))
    assert "activated" in ends
    assert sorted(_states(sessions).values()).count("ACTIVE") == 1


@pytest.mark.requirement("REQ-MODEL-5")
def test_an_active_package_is_retired_only_when_the_fall_back_is_asked_for(sessions):
    key = _add(sessions, _new())
    _activate(sessions, key)
    with pytest.raises(LifecycleError, match="is active"):
        _retire(sessions, key)
    assert _states(sessions) == {"vila-1": "ACTIVE"}
    _retire(sessions, key, fall_back=True)
    with sessions() as session:
        row = session.get_one(Package, key)
        assert packages.active_packages(session) == []
        assert packages.retired_manifests(session) == {"VILA-manifest"}
        event = session.scalars(select(AuditEvent).order_by(AuditEvent.seq.desc()).limit(1)).one()
    assert (row.state.value, row.retired_by) == ("RETIRED", "cli:jdoe")
    assert (event.tag, event.detail["reason"], event.detail["fall_back"]) == ("model:retired", "defect", True)


def test_a_retired_package_never_drafts_again(sessions):
    key = _add(sessions, _new())
    _retire(sessions, key)
    with pytest.raises(LifecycleError, match="cannot move from RETIRED"):
        _activate(sessions, key)
    with pytest.raises(LifecycleError, match="was retired: it never drafts again"):
        _add(sessions, _new())
    assert _states(sessions) == {"vila-1": "RETIRED"}


@pytest.mark.requirement("REQ-MODEL-5")
def test_a_failed_activation_leaves_the_active_one_in_place(sessions):
    active, retired = _add(sessions, _new()), _add(sessions, _new("OLD"))
    _activate(sessions, active)
    _retire(sessions, retired)
    with pytest.raises(LifecycleError):
        _activate(sessions, retired)
    assert _states(sessions) == {"vila-1": "ACTIVE", "old-1": "RETIRED"}


# from the design: a package comes, drafts or does not, and leaves for good
MOVES = {"IMPORTED ACTIVE", "ACTIVE IMPORTED", "IMPORTED RETIRED", "ACTIVE RETIRED"}


@pytest.mark.parametrize(("now", "to"), list(product(PackageState, repeat=2)))
def test_a_package_moves_only_by_the_table(sqlite_sessions, now, to):
    key = _add(sqlite_sessions, _new())
    with sqlite_sessions.begin() as session:
        session.execute(sa.update(Package).values(state=now))
    with sqlite_sessions() as session:
        package = session.get_one(Package, key)
        uow = UnitOfWork(session, OPERATOR)
        if f"{now} {to}" in MOVES:
            move_package(uow, package, to)
            assert package.state is to
        else:
            with pytest.raises(LifecycleError, match=f"from {now} to {to}"):
                move_package(uow, package, to)
    assert {f"{a} {b}" for a, b in PACKAGE_MOVES} == MOVES


@pytest.mark.requirement("REQ-MODEL-7")
def test_an_acceptance_cannot_be_changed_or_removed(engine, sessions):
    _add(sessions, _new())
    with sessions() as session:
        before = session.scalars(select(LicenceAcceptance)).one()
    attempts = ["UPDATE licence_acceptance SET accepted_by = 'somebody else'", "DELETE FROM licence_acceptance"]
    if engine.dialect.name == "postgresql":
        attempts.append("TRUNCATE licence_acceptance")
    for attempt in attempts:
        with pytest.raises(IntegrityError, match="append-only"), engine.begin() as connection:
            connection.execute(sa.text(attempt))
    with sessions() as session:
        after = session.scalars(select(LicenceAcceptance)).one()
    assert (after.accepted_by, after.text, after.text_sha256) == ("cli:jdoe", TEXT, before.text_sha256)


def test_packages_are_named_by_name_or_by_name_and_revision(sqlite_sessions):
    one = _add(sqlite_sessions, _new())
    two = _add(sqlite_sessions, _new(folder="vila-2", revision="b" * 40))
    with sqlite_sessions() as session:
        assert packages.find_package(session, "vila@bbbb").id == two
        with pytest.raises(RefusedInputError, match="VILA@aaaaaaaaaaaa, VILA@bbbbbbbbbbbb"):
            packages.find_package(session, "VILA")
        with pytest.raises(RefusedInputError, match="no package VILA@c"):
            packages.find_package(session, "VILA@c")
    _retire(sqlite_sessions, two)
    with sqlite_sessions() as session:
        assert packages.find_package(session, "VILA").id == one


def test_what_a_route_is_for_goes_with_the_reading_to_the_worker(sessions):
    research = RoutingVerdict("draft", profile="ct-torso", rule="trial", use="research")
    clinical = RoutingVerdict("draft", profile="ct-torso", rule="ct")
    assert received(sessions, "1.2.3").queued(research).running().held.use is Use.RESEARCH
    assert received(sessions, "1.2.4").queued(clinical).running().held.use is Use.CLINICAL


def test_a_reading_a_person_gives_back_takes_the_use_of_the_rule_that_drafts_it(sessions):
    journey = received(sessions).queued(RoutingVerdict("hold", rule="qc"))
    with unit_of_work(sessions, person(sessions)) as uow:
        lifecycle.process_again(uow, journey.reading_id, profile="ct-torso", use=Use.RESEARCH)
    with unit_of_work(sessions, WORKER) as uow:
        claim = lifecycle.claim(uow, journey.reading_id, owner="w", lease_s=60)
    assert claim is not None
    assert claim.use is Use.RESEARCH


def test_the_previous_release_writes_clinical_readings(engine, sessions):
    """It knows nothing of the column; the database fills it, and refuses what is no use."""
    received(sessions)
    columns = "id, study_id, revision, pipeline_version, state, reason, profile, priority, rule, rule_trace, attempts,"
    columns += " lease_owner, fencing_token, created_at, superseded, version"
    chosen = columns.replace("id, study_id, revision, pipeline_version", ":id, study_id, 9, 'old'")
    insert = sa.text(f"INSERT INTO reading ({columns}) SELECT {chosen} FROM reading")
    with engine.begin() as connection:
        connection.execute(insert.bindparams(sa.bindparam("id", type_=sa.Uuid())), {"id": uuid4()})
        uses = connection.execute(sa.text("SELECT use FROM reading WHERE revision = 9")).scalars().all()
    assert uses == ["clinical"]
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(sa.text("UPDATE reading SET use = 'profit'"))


@pytest.mark.requirement("REQ-MODEL-8")
@pytest.mark.parametrize(("use", "state"), [("clinical", "NO_DRAFT"), ("research", "DRAFTED")])
def test_research_weights_end_a_clinical_reading_without_a_draft_and_say_why(sqlite_sessions, tmp_path, use, state):
    """The worker's reader with a pipeline that is nothing but the gate."""
    card = replace(VLM_CARD, name="VILA-M3", licence="NVIDIA", research_only=True)

    def pipeline(claim):
        require_licence(claim.use, [card])
        return new_draft(claim)

    journey = received(sqlite_sessions).queued(RoutingVerdict("draft", profile="ct-torso", rule="ct", use=use))
    Reader(sqlite_sessions, Settings(data_dir=tmp_path), pipeline).read(journey.reading_id)
    reading = journey.reading()
    assert reading.state.value == state
    assert ("VILA-M3 (NVIDIA)" in reading.reason) == (state == "NO_DRAFT")
