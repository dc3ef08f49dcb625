"""``firstread models``: what a person at the command line sees, and what is then in force."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from config.errors import ModelPackageError, UnlicensedModelError
from config.settings import ROOT, Settings
from db.engine import make_engine, make_sessions, migrate
from db.models import AuditEvent
from db.types import Use
from firstread.cli import app
from firstread.doctor import examine
from firstread.prepare import needs_demo_model
from tests.experts_packages import brats_package, vista3d_package
from tests.hub_server import repository, serve
from tests.store_support import vila_folder
from worker.experts.packages import seal_package
from worker.experts.registry import ExpertRegistry
from worker.experts.sources import read_models_file
from worker.licensing import require_licence
from worker.store.active import drafting, expert_offer, models_dir, vlm_folder
from worker.vlm.package import open_vlm_package, seal_vlm_package

REGISTRY = "experts: []\naccepted_licences: [Apache-2.0]\n"


@pytest.fixture
def site(tmp_path, monkeypatch) -> Settings:
    """An installation whose configuration names a demonstration model, an Expert, and nothing else."""
    demo = vila_folder(tmp_path / "demo", hidden_size=8, seed=9)
    (demo / ".gitattributes").unlink()
    seal_vlm_package(
        demo,
        {
            "name": "demo", "version": "0", "licence": "Apache-2.0", "base": "none", "demonstration": True,
            "intended_use": "tests", "modalities": ["CXR"], "template": "hermes-2",
        },
    )  # fmt: skip
    brats_package(tmp_path / "brats")
    (tmp_path / "models.yaml").write_text(REGISTRY.replace("[]", f"[{tmp_path / 'brats'}]"))
    monkeypatch.setenv("FIRSTREAD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("FIRSTREAD_MODELS__VLM", str(demo))
    monkeypatch.setenv("FIRSTREAD_MODELS__REGISTRY", str(tmp_path / "models.yaml"))
    monkeypatch.setenv("COLUMNS", "250")
    settings = Settings()
    migrate(settings.database)
    return settings


def _run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["models", *arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def _now(settings: Settings):
    with make_sessions(make_engine(settings.database))() as session:
        return drafting(session)


def _events(settings: Settings) -> list[str]:
    with make_sessions(make_engine(settings.database))() as session:
        return [
            f"{event.tag} {event.outcome}" for event in session.scalars(select(AuditEvent).order_by(AuditEvent.seq))
        ]


def _import(path: Path) -> str:
    """Import as a person does who reads the licence first, and gives its digest then."""
    shown = _run("import", str(path), code=2)
    digest = re.search(r"SHA-256 ([0-9a-f]{64})", shown)
    assert digest is not None
    return _run("import", str(path), "--accept-licence", digest[1][:12])


def test_a_package_is_imported_activated_and_retired(site, tmp_path):
    vila = vila_folder(tmp_path / "vila")
    assert "firstread models activate Llama3-VILA-M3-8B" in _import(vila)
    assert vlm_folder(site, _now(site)) == tmp_path / "demo"
    said = _run("activate", "llama3-vila-m3-8b")
    assert "every file as recorded" in said
    assert "research only" in said
    folder = vlm_folder(site, _now(site))
    assert open_vlm_package(folder).name == "Llama3-VILA-M3-8B"
    listed = _run("list")
    assert re.search(r"Llama3-VILA-M3-8B .* vlm │ ACTIVE │ nvidia-oneway-noncommercial-license │ cli:", listed)
    assert re.search(r"demo │ 0 │ │ vlm │ REPLACED", listed)
    assert re.search(r"BRATS │ 0 │ │ expert │ CONFIGURED │ Apache-2.0 │ configuration │ no │ yes", listed)
    assert "is active" in _run("retire", "Llama3-VILA-M3-8B", "--reason", "recall", code=2)
    assert "never drafts again" in _run("retire", "Llama3-VILA-M3-8B", "--reason", "recall", "--fall-back")
    assert vlm_folder(site, _now(site)) == tmp_path / "demo"
    assert _events(site) == [
        "licence:refused failure",
        "licence:accepted success",
        "model:imported success",
        "model:verified success",
        "model:activated success",
        "model:retired success",
    ]


def test_a_retired_package_that_the_configuration_names_does_not_draft(site, tmp_path, monkeypatch):
    _import(vila_folder(tmp_path / "vila"))
    _run("retire", "Llama3-VILA-M3-8B", "--reason", "recall")
    (folder,) = [path for path in models_dir(site).iterdir() if not path.name.startswith(".")]
    monkeypatch.setenv("FIRSTREAD_MODELS__VLM", str(folder))
    with pytest.raises(ModelPackageError, match="was retired: it never drafts again"):
        vlm_folder(Settings(), _now(site))


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (lambda f: (f / "llm/config.json").write_text("{}"), "llm/config.json is altered"),
        (lambda f: (f / "LICENSE").unlink(), "LICENSE is missing"),
        (lambda f: (f / "llm/extra.json").write_text("{}"), "llm/extra.json is surplus"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
        (shutil.rmtree, "manifest.json is missing"),
    ],
)
def test_a_package_that_was_altered_is_named_and_not_activated(site, tmp_path, harm, fault):
    _import(vila_folder(tmp_path / "vila"))
    assert "every file as recorded" in _run("verify")
    (folder,) = [path for path in models_dir(site).iterdir() if not path.name.startswith(".")]
    harm(folder)
    assert fault in _run("verify", code=1)
    assert fault in _run("activate", "Llama3-VILA-M3-8B", code=2)
    assert _now(site).vlm is None
    assert _events(site)[-2:] == ["model:verified failure"] * 2


def test_a_manifest_that_was_sealed_again_is_not_the_recorded_one(site, tmp_path):
    """Somebody who alters a weight file and writes a manifest that fits is noticed all the same."""
    _import(vila_folder(tmp_path / "vila"))
    _run("activate", "Llama3-VILA-M3-8B")
    folder = vlm_folder(site, _now(site))
    (folder / "llm/config.json").write_text("{}")
    promise = open_vlm_package(folder).model_dump(exclude={"files", "kind"})
    seal_vlm_package(folder, promise)
    assert "manifest.json is altered" in _run("verify", code=1)
    with pytest.raises(ModelPackageError, match=r"manifest\.json is altered"):
        vlm_folder(site, _now(site))


@pytest.mark.parametrize("prefix", ["0123456789ab", "a"])
def test_another_digest_accepts_nothing(site, tmp_path, prefix):
    assert "was not accepted" in _run("import", str(vila_folder(tmp_path / "v")), "--accept-licence", prefix, code=2)
    assert _events(site) == ["licence:refused failure"]


def test_a_published_model_is_fetched_by_its_name_from_a_mirror(site, tmp_path):
    """The pinned commit is published nowhere here: a branch of the mirror is named instead."""

    def fetch(endpoint: str, *options: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "firstread", "models", "fetch", "MONAI/Llama3-VILA-M3-8B", *options]
        environment = os.environ | {"HF_ENDPOINT": endpoint}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, " ".join(done.stdout.split())

    with serve({"MONAI/Llama3-VILA-M3-8B": repository(vila_folder(tmp_path / "hub"))}) as endpoint:
        code, shown = fetch(endpoint, "--revision", "main")
        assert (code, "nobody can be asked here" in shown) == (2, True)
        digest = re.search(r"SHA-256 ([0-9a-f]{64})", shown)
        assert digest is not None
        code, said = fetch(endpoint, "--revision", "main", "--accept-licence", digest[1])
    assert (code, "is in the store" in said) == (0, True)
    assert [path.name for path in models_dir(site).iterdir() if path.name.startswith("llama3-vila-m3-8b-")]


def test_an_active_expert_takes_the_place_of_the_configured_one(site, tmp_path):
    package = vista3d_package(tmp_path / "vista")
    (tmp_path / "vista" / "LICENSE.txt").write_text("terms")
    promise = package.manifest.model_dump(mode="json", exclude={"files"})
    seal_package(tmp_path / "vista", promise | {"licence": "research", "research_only": True})
    other = brats_package(tmp_path / "other")
    (tmp_path / "other" / "LICENSE.txt").write_text("terms")
    seal_package(tmp_path / "other", other.manifest.model_dump(mode="json", exclude={"files"}) | {"version": "9"})
    for name in ("vista", "other"):
        _import(tmp_path / name)
    before = expert_offer(site, _now(site))
    assert [(s.card.name, s.card.version) for s in before.sources] == [("BRATS", "0")]
    _run("activate", "BRATS")
    _run("activate", "VISTA3D")
    offer = expert_offer(site, _now(site))
    assert [(s.card.name, s.card.version) for s in offer.sources] == [("BRATS", "9"), ("VISTA3D", "0")]
    assert offer.accepted_licences == {"Apache-2.0", "research"}
    listed = read_models_file(site.models.registry)
    registry = ExpertRegistry(offer.sources, memory_mb=8192, accepted_licences=offer.accepted_licences)
    assert listed.accepted_licences == ("Apache-2.0",)
    with pytest.raises(UnlicensedModelError, match=r"VISTA3D \(research\)"):
        require_licence(Use.CLINICAL, registry.cards())
    require_licence(Use.RESEARCH, registry.cards())


def test_the_shipped_experts_are_listed_before_there_is_a_database(tmp_path, monkeypatch, site):
    monkeypatch.setenv("FIRSTREAD_DATA_DIR", str(tmp_path / "empty"))
    monkeypatch.setenv("FIRSTREAD_MODELS__REGISTRY", str(ROOT / "config" / "models.yaml"))
    listed = _run("list")
    assert [name in listed for name in ("CXR", "VISTA3D", "BRATS", "demo")] == [True] * 4
    assert "run firstread migrate" in _run("activate", "VISTA3D", code=2)


@pytest.mark.requirement("REQ-CONF-5")
def test_doctor_and_up_look_at_the_model_that_drafts(site, tmp_path, monkeypatch):
    _import(vila_folder(tmp_path / "vila"))
    monkeypatch.delenv("FIRSTREAD_MODELS__VLM")
    assert needs_demo_model(Settings())
    notes = {name: note for name, _, note in examine(site)}
    assert (notes["language model"], notes["expert packages"]) == ("demo 0 DEMONSTRATION", "BRATS 0 DEMONSTRATION")
    _run("activate", "Llama3-VILA-M3-8B")
    assert not needs_demo_model(Settings())
    notes = {name: note for name, _, note in examine(Settings())}
    assert notes["language model"] == "Llama3-VILA-M3-8B 2024-10-30"


@pytest.mark.parametrize("verb", ["activate", "verify"])
def test_a_package_that_is_not_there_is_refused(site, verb):
    assert "no package NOTHING in the store" in _run(verb, "NOTHING", code=2)
