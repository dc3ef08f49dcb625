"""A worker whose active model is damaged drafts with no other one instead."""

import pytest

from config.errors import ModelPackageError
from config.settings import ModelSettings, Settings
from db import packages
from db.uow import unit_of_work
from tests.store_support import OPERATOR, acquisition
from tests.vlm_checkpoint import write_checkpoint
from worker.models_in_use import ModelsInUse
from worker.store.active import models_dir
from worker.vlm.package import open_vlm_package, seal_vlm_package


@pytest.fixture
def settings(tmp_path, sqlite_url) -> Settings:
    """An installation whose configuration names one small model, with another one in the store."""
    write_checkpoint(tmp_path / "configured")
    (tmp_path / "models.yaml").write_text("experts: []\naccepted_licences: [Apache-2.0]\n")
    return Settings(
        data_dir=tmp_path / "data",
        database_url=sqlite_url,
        models=ModelSettings(vlm=tmp_path / "configured", registry=tmp_path / "models.yaml"),
    )


@pytest.fixture
def stored(settings, tmp_path, sqlite_sessions):
    """The id of a package in the store that nobody activated yet."""
    folder = tmp_path / "other"
    write_checkpoint(folder, seed=1)
    (folder / "LICENSE").write_text("terms")
    promise = open_vlm_package(folder).model_dump(exclude={"files", "kind"})
    seal_vlm_package(folder, promise | {"name": "other", "version": "2"})
    acquisition(models_dir(settings), sqlite_sessions).bring(folder)
    with sqlite_sessions() as session:
        return packages.find_package(session, "other").id


def _activate(sessions, key):
    with unit_of_work(sessions, OPERATOR) as uow:
        packages.activate(uow, key)


@pytest.mark.requirement("REQ-MODEL-5")
def test_a_worker_without_a_usable_active_model_does_not_fall_back_by_itself(settings, sqlite_sessions, stored):
    models = ModelsInUse(sqlite_sessions, settings)
    models.current()
    _activate(sqlite_sessions, stored)
    with sqlite_sessions() as session:
        (active,) = packages.active_packages(session)
    (models_dir(settings) / active.folder / "llm" / "config.json").write_text("{}")
    for _ in range(2):
        with pytest.raises(ModelPackageError, match=r"llm/config\.json is altered"):
            models.current()
