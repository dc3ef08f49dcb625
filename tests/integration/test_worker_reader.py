"""A Reading ends in a state a person can see, once, whatever happens to the worker."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from config.errors import ExpertError, GeometryError, OutOfSpaceError, OutsideIntendedUseError
from config.routing import RuleBook, load_rules
from config.settings import ROOT, Destination, DicomSettings, Settings, WorkerSettings
from db import lifecycle, queries
from db.models import AuditEvent, Delivery, ImagingOrder, OutboxMessage, Reading, ResultObject, Study
from db.queries.critical import open_alerts
from db.report_models import Draft
from db.types import Priority, ReadingState, ReportState, utcnow
from db.uow import Actor, unit_of_work
from dicom_node.completion import Completion
from dicom_node.scp import start_node
from dicom_node.send import send_folder
from phantoms.chest_xray import make_chest_xray
from phantoms.dicom import write_radiograph
from phantoms.patients import make_patient
from tests.fakes import FixedClassifier, ScriptedVlm, reads_feedback
from worker.experts.packages import AgeLimits, IntendedUse
from worker.pipeline import StudyPipeline
from worker.reader import Reader
from worker.vlm.gathering import GatheringVlm

SWEEPER = Actor("sweeper", "process")
TRIGGER = "This looks like an chest x-ray. Let me first trigger <CXR()>."


class OneExpert:
    """The registry's methods the pipeline uses, over one expert."""

    def __init__(self, expert, use=None):
        self.expert = expert
        self.use = use or IntendedUse(modalities=("CR", "DX"), statement="tests")

    def cards(self):
        return (self.expert.card,)

    def get(self, name):
        assert name == self.expert.card.name
        return self.expert

    def intended_use(self, name):
        assert name == self.expert.card.name
        return self.use

    def unavailable(self):
        return ()


class ScriptedPipeline(StudyPipeline):
    """The real pipeline with other models in it."""

    def models(self):
        return ScriptedVlm(TRIGGER, reads_feedback), OneExpert(FixedClassifier({"Effusion": 0.8, "Pneumothorax": 0.9}))

    def models_of(self, recorded):
        return self.models()


@pytest.fixture
def installation(tmp_path, sqlite_url, sqlite_sessions):
    """Settings, sessions and the one queued Reading of a chest radiograph that came in by C-STORE."""
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=sqlite_url,
        dicom=DicomSettings(port=0, quiet_s=1.0, receivers=0, min_free_bytes=0),
        worker=WorkerSettings(lease_s=2.0, heartbeat_s=0.2, max_attempts=2, retry_base_s=1.0),
        destinations=(Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104, drafts=True),),
    )
    xray = make_chest_xray(31, findings=frozenset({"Effusion"}), size=256)
    folder = tmp_path / "sent"
    write_radiograph(xray.pixels, make_patient(31), folder, view=xray.view, pixel_spacing_mm=xray.pixel_spacing_mm)
    node = start_node(settings, sqlite_sessions, deliver=False)
    summary = send_folder(folder, "127.0.0.1", node.port, "FIRSTREAD")
    node.stop()
    assert summary.counts == {"stored": 1}
    rules = load_rules(ROOT / "config" / "routing.yaml")
    assert Completion(sqlite_sessions, RuleBook(rules)).sweep(utcnow() + timedelta(seconds=30)) == 1
    with sqlite_sessions() as session:
        reading = session.scalars(select(Reading)).one()
        assert reading.state is ReadingState.QUEUED
        assert session.scalars(select(OutboxMessage)).one().arguments == {"reading_id": str(reading.id)}
    return settings, sqlite_sessions, reading.id


def state_of(sessions, reading_id):
    with sessions() as session:
        return session.get_one(Reading, reading_id)


def test_a_received_radiograph_becomes_a_draft_with_its_objects_and_deliveries(installation):
    settings, sessions, reading_id = installation
    Reader(sessions, settings, ScriptedPipeline(sessions, settings)).read(reading_id)
    with sessions() as session:
        detail = queries.reading_detail(session, reading_id)
        deliveries = session.scalars(select(Delivery)).all()
    assert detail.reading.state is ReadingState.DRAFTED
    assert detail.report.state is ReportState.DRAFTED
    assert detail.draft.demonstration
    assert detail.draft.provenance["models"][0]["weights_sha256"]
    assert {f.label for f in detail.findings if f.presence == "present"} == {"Effusion", "Pneumothorax"}
    assert detail.reading.priority is Priority.STAT  # a suspected pneumothorax raises it
    with sessions() as session:
        assert [one.label for one in open_alerts(session, detail.study.id)] == ["Pneumothorax"]
    assert {o.kind for o in detail.objects} == {"FINDINGS_SR", "KEY_IMAGES", "DRAFT_SR"}
    assert all((settings.results_dir / o.path).stat().st_size > 1000 for o in detail.objects)
    assert sorted(d.destination for d in deliveries) == ["pacs"] * 3


def test_a_draft_for_a_ris_names_the_order_and_its_mark_reaches_the_reader(installation):
    settings, sessions, reading_id = installation
    ris = Destination(name="ris", protocol="mllp", host="127.0.0.1", drafts=True)
    settings = settings.model_copy(update={"destinations": (*settings.destinations, ris)})
    with unit_of_work(sessions, SWEEPER) as uow:
        order = ImagingOrder(placer_order_number="P-4711", accession_number="A-9", priority=Priority.STAT)
        uow.session.add(order)
        uow.session.flush()
        uow.session.get_one(Study, uow.session.get_one(Reading, reading_id).study_id).order_id = order.id

    class Unreviewed(ScriptedPipeline):
        def models(self):
            expert = FixedClassifier({"Effusion": 0.8})
            expert.card = replace(expert.card, code_family="")
            return ScriptedVlm(TRIGGER, reads_feedback), OneExpert(expert)

    Reader(sessions, settings, Unreviewed(sessions, settings)).read(reading_id)
    with sessions() as session:
        detail = queries.reading_detail(session, reading_id)
        owed = {made.kind: delivery.destination for delivery, made in session.execute(
            select(Delivery, ResultObject).join(ResultObject, ResultObject.id == Delivery.result_object_id)
        )}  # fmt: skip
    assert detail.reading.state is ReadingState.DRAFTED
    assert owed["DRAFT_ORU"] == "ris"
    (oru,) = [one for one in detail.objects if one.kind == "DRAFT_ORU"]
    assert b"|P-4711" in (settings.results_dir / oru.path).read_bytes()
    assert [(mark["kind"], mark["finding"]) for mark in detail.draft.marks if mark["kind"] == "result"] == [
        ("result", "Effusion")
    ]


def test_a_message_that_comes_twice_drafts_once(installation):
    settings, sessions, reading_id = installation
    reader = Reader(sessions, settings, ScriptedPipeline(sessions, settings))
    reader.read(reading_id)
    reader.read(reading_id)
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Draft)) == 1


@pytest.mark.requirement("REQ-FAIL-4")
@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (OutsideIntendedUseError("view position is LL"), ReadingState.NO_DRAFT, "view position is LL"),
        (GeometryError("a slice is missing"), ReadingState.NO_DRAFT, "geometry: a slice is missing"),
        (ExpertError("the output had NaN"), ReadingState.FAILED, "the output had NaN"),
        (OutOfSpaceError("the disk is full"), ReadingState.RETRYING, "the disk is full"),
        (MemoryError(), ReadingState.RETRYING, "the worker ran out of memory"),
        (ZeroDivisionError("DOE^JANE"), ReadingState.FAILED, "internal error: ZeroDivisionError"),
    ],
)
def test_every_error_ends_in_a_state_with_its_reason(installation, error, state, reason):
    settings, sessions, reading_id = installation

    def raises(_claim):
        raise error

    Reader(sessions, settings, raises).read(reading_id)
    reading = state_of(sessions, reading_id)
    assert (reading.state, reading.reason) == (state, reason)


@pytest.mark.requirement("REQ-FAIL-4")
def test_retries_are_bounded_and_then_failed(installation):
    settings, sessions, reading_id = installation
    calls = []

    def full(_claim):
        calls.append(1)
        raise OutOfSpaceError("the disk is full")

    for _ in range(4):
        Reader(sessions, settings, full).read(reading_id)
        with unit_of_work(sessions, SWEEPER) as uow:
            reading = uow.session.get_one(Reading, reading_id)
            if reading.state is ReadingState.RETRYING:
                reading.next_attempt_at = utcnow() - timedelta(seconds=1)
    assert state_of(sessions, reading_id).state is ReadingState.FAILED
    assert len(calls) == settings.worker.max_attempts


def test_a_worker_that_lost_its_lease_cannot_write_its_draft(installation):
    settings, sessions, reading_id = installation
    pipeline = ScriptedPipeline(sessions, settings)

    def slow(claim):
        # the machine slept: the lease ended and another worker finished meanwhile
        with unit_of_work(sessions, SWEEPER) as uow:
            uow.session.get_one(Reading, reading_id).lease_until = utcnow() - timedelta(seconds=1)
        with unit_of_work(sessions, SWEEPER) as uow:
            assert lifecycle.requeue_expired(uow, utcnow(), max_attempts=5) == 1
        Reader(sessions, settings, pipeline).read(reading_id)
        return pipeline(claim)

    Reader(sessions, settings, slow).read(reading_id)
    assert state_of(sessions, reading_id).state is ReadingState.DRAFTED
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Draft)) == 1
        tags = list(session.scalars(select(AuditEvent.tag)))
    assert tags.count("reading:drafted") == 1
    assert tags.count("reading:started") == 2


def test_the_heartbeat_keeps_a_long_reading(installation):
    settings, sessions, reading_id = installation
    leases = []

    def slow(claim):
        import time

        for _ in range(3):
            leases.append(state_of(sessions, reading_id).lease_until)
            time.sleep(0.5)
        return ScriptedPipeline(sessions, settings)(claim)

    Reader(sessions, settings, slow).read(reading_id)
    assert leases[0] < leases[1] < leases[2]
    assert state_of(sessions, reading_id).state is ReadingState.DRAFTED


@pytest.mark.requirement("REQ-MODEL-9")
def test_a_demonstration_model_may_not_draft_where_it_is_not_allowed(installation):
    settings, sessions, reading_id = installation
    strict = settings.model_copy(update={"models": settings.models.model_copy(update={"allow_demonstration": False})})
    Reader(sessions, strict, ScriptedPipeline(sessions, strict)).read(reading_id)
    reading = state_of(sessions, reading_id)
    assert reading.state is ReadingState.NO_DRAFT
    assert "demonstration models may not draft here" in reading.reason
    with sessions() as session:
        assert session.scalars(select(Delivery)).all() == []


def test_waiting_studies_are_read_side_by_side_and_each_once(installation, tmp_path):
    settings, sessions, reading_id = installation
    settings = settings.model_copy(update={"worker": settings.worker.model_copy(update={"together": 8})})
    node = start_node(settings, sessions, deliver=False)
    for seed in (32, 33, 34):
        xray = make_chest_xray(seed, findings=frozenset({"Effusion"}), size=256)
        folder = tmp_path / f"sent{seed}"
        patient = make_patient(seed)
        write_radiograph(xray.pixels, patient, folder, view=xray.view, pixel_spacing_mm=xray.pixel_spacing_mm)
        send_folder(folder, "127.0.0.1", node.port, "FIRSTREAD")
    node.stop()
    rules = load_rules(ROOT / "config" / "routing.yaml")
    assert Completion(sessions, RuleBook(rules)).sweep(utcnow() + timedelta(seconds=30)) == 3
    inner = ScriptedVlm(TRIGGER, reads_feedback)
    together = GatheringVlm(inner, wait_s=5)

    class Together(ScriptedPipeline):
        def models(self):
            return together, OneExpert(FixedClassifier({"Effusion": 0.8}))

    reader = Reader(sessions, settings, Together(sessions, settings))
    reader.read_with_others(reading_id)
    reader.read_with_others(reading_id)
    with sessions() as session:
        states = session.scalars(select(Reading.state)).all()
        drafts = session.scalars(select(Draft.study_id)).all()
    assert states == [ReadingState.DRAFTED] * 4
    assert len(set(drafts)) == len(drafts) == 4


def test_the_most_urgent_and_oldest_waits_first(installation):
    _, sessions, reading_id = installation
    with unit_of_work(sessions, SWEEPER) as uow:
        first = uow.session.get_one(Reading, reading_id)
        for priority, minutes in ((Priority.STAT, 1), (Priority.ROUTINE, -5)):
            other = Reading(
                study_id=first.study_id, revision=first.revision, pipeline_version=str(minutes), priority=priority,
                state=ReadingState.QUEUED, completed_at=first.completed_at + timedelta(minutes=minutes),
            )  # fmt: skip
            uow.session.add(other)
    with sessions() as session:
        order = queries.waiting_readings(session, 3)
        versions = [session.get_one(Reading, one).pipeline_version for one in order]
        assert queries.waiting_readings(session, 1) == order[:1]
    assert versions == ["1", "-5", ""]


@pytest.mark.requirement("REQ-GATE-2")
@pytest.mark.parametrize(
    ("use", "reason"),
    [
        ({"body_parts": ("HAND",)}, "body part CHEST is not one of HAND"),
        ({"views": ("LL",)}, "view (PA|AP) is not one of LL"),
        ({"age_years": AgeLimits(maximum=1.0)}, "age is above 1 years"),
    ],
)
def test_an_expert_is_never_shown_a_study_outside_its_intended_use(installation, use, reason):
    settings, sessions, reading_id = installation
    promise = IntendedUse(modalities=("CR", "DX"), statement="tests", **use)

    class Narrow(ScriptedPipeline):
        def models(self):
            return ScriptedVlm(TRIGGER, reads_feedback), OneExpert(FixedClassifier({"Effusion": 0.8}), promise)

    Reader(sessions, settings, Narrow(sessions, settings)).read(reading_id)
    reading = state_of(sessions, reading_id)
    assert reading.state is ReadingState.NO_DRAFT
    assert re.search(f"CXR is not meant for this study: {reason}", reading.reason)
