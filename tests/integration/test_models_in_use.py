"""Which models a worker process drafts with: what people activated, else what the configuration names."""

from dataclasses import replace

import pytest
from sqlalchemy import select

from config.errors import ConfigurationError, ModelPackageError
from config.settings import Settings
from db import packages
from db.models import AuditEvent, Reading
from db.types import ReadingState, Use
from db.uow import unit_of_work
from tests.fakes import VLM_CARD, FixedClassifier, ScriptedVlm, reads_feedback
from tests.integration.test_worker_reader import (  # noqa: F401 installation is a fixture
    TRIGGER,
    OneExpert,
    ScriptedPipeline,
    installation,
    state_of,
)
from tests.store_support import OPERATOR, acquisition
from tests.vlm_checkpoint import write_checkpoint
from worker.models_in_use import ModelsInUse
from worker.reader import Reader
from worker.store.active import models_dir
from worker.vlm.package import open_vlm_package, seal_vlm_package


@pytest.fixture
def site(tmp_path, sqlite_url, sqlite_sessions):
    """A site whose configuration names one checkpoint; another one lies in the store."""
    configured = tmp_path / "configured"
    write_checkpoint(configured, seed=0)
    settings = Settings(
        data_dir=tmp_path / "data", database_url=sqlite_url, models={"vlm": configured}, worker={"dtype": "float32"}
    )
    other = tmp_path / "other"
    write_checkpoint(other, seed=1)
    (other / "LICENSE").write_text("Apache License 2.0\n")
    return settings, sqlite_sessions, other


def stored(settings, sessions, folder):
    """Import a folder and return the id of its package."""
    seal_vlm_package(folder, open_vlm_package(folder).model_dump(exclude={"files", "kind"}) | {"name": "other"})
    acquisition(models_dir(settings), sessions).bring(folder)
    with sessions() as session:
        return packages.find_package(session, "other").id


def loaded(sessions):
    with sessions() as session:
        events = session.scalars(select(AuditEvent).where(AuditEvent.tag == "model:loaded").order_by(AuditEvent.seq))
        return [event.object_id for event in events]


@pytest.mark.requirement("REQ-FAIL-9")
def test_activation_reaches_a_running_worker_and_retirement_gives_the_configured_model_back(site):
    settings, sessions, folder = site
    models = ModelsInUse(sessions, settings)
    first, experts = models.current()
    assert first.card.name == "random"
    assert {card.name for card in experts.cards()} == {"CXR", "VISTA3D", "BRATS"}
    assert models.current() == (first, experts)
    key = stored(settings, sessions, folder)
    assert models.current()[0] is first  # imported is not active
    with unit_of_work(sessions, OPERATOR) as uow:
        packages.activate(uow, key)
    second, same = models.current()
    assert second.card.name == "other"
    assert second.card.weights_sha256 != first.card.weights_sha256
    assert same is experts
    with unit_of_work(sessions, OPERATOR) as uow:
        packages.retire(uow, key, reason="test", fall_back=True)
    assert models.current()[0].card.weights_sha256 == first.card.weights_sha256
    assert loaded(sessions) == ["random", "other", "random"]


@pytest.mark.requirement("REQ-MODEL-4")
def test_a_record_gets_its_own_weights_even_when_others_draft_now(site):
    settings, sessions, folder = site
    models = ModelsInUse(sessions, settings)
    first, experts = models.current()
    then = [{"name": c.name, "version": c.version, "weights_sha256": dict(c.weights_sha256)}
            for c in (first.card, *experts.cards())]  # fmt: skip
    key = stored(settings, sessions, folder)
    with unit_of_work(sessions, OPERATOR) as uow:
        packages.activate(uow, key)
    vlm, offered = models.recorded(then)
    assert vlm.card.weights_sha256 == first.card.weights_sha256
    assert offered is experts
    assert models.current()[0].card.name == "other"


def test_weights_that_are_gone_are_named(site):
    settings, sessions, _ = site
    gone = [{"name": "VILA", "version": "3", "weights_sha256": {"llm/model.safetensors": "0" * 64}}]
    with pytest.raises(ModelPackageError, match="VILA 3 is not installed any more"):
        ModelsInUse(sessions, settings).recorded(gone)
    expert = [{"name": "random", "version": "0", "weights_sha256": None},
              {"name": "CXR", "version": "9", "weights_sha256": {"w": "0" * 64}}]  # fmt: skip
    models = ModelsInUse(sessions, settings)
    expert[0]["weights_sha256"] = dict(models.current()[0].card.weights_sha256)
    with pytest.raises(ModelPackageError, match="CXR 9 is not installed any more"):
        models.recorded(expert)


def test_the_language_models_memory_is_taken_from_the_experts_budget(site):
    settings, sessions, _ = site
    settings = settings.model_copy(update={"worker": settings.worker.model_copy(update={"kv_cache_mb": 100_000.0})})
    with pytest.raises(ConfigurationError, match="of which the vision-language model holds 10000"):
        ModelsInUse(sessions, settings).current()


class ResearchPipeline(ScriptedPipeline):
    """The real pipeline with a language model whose licence is for research only."""

    def models(self):
        vlm = ScriptedVlm(TRIGGER, reads_feedback, card=replace(VLM_CARD, research_only=True, licence="NC"))
        return vlm, OneExpert(FixedClassifier({"Effusion": 0.8}))


@pytest.mark.requirement("REQ-MODEL-8")
def test_a_model_for_research_only_never_drafts_on_a_clinical_route(installation):  # noqa: F811
    settings, sessions, reading_id = installation
    Reader(sessions, settings, ResearchPipeline(sessions, settings)).read(reading_id)
    reading = state_of(sessions, reading_id)
    assert reading.state is ReadingState.NO_DRAFT
    assert reading.reason == "licensed for research only, and this route is clinical: scripted (NC)"


def test_it_drafts_on_a_route_for_research(installation):  # noqa: F811
    settings, sessions, reading_id = installation
    with sessions() as session:
        session.get_one(Reading, reading_id).use = Use.RESEARCH
        session.commit()
    Reader(sessions, settings, ResearchPipeline(sessions, settings)).read(reading_id)
    assert state_of(sessions, reading_id).state is ReadingState.DRAFTED
