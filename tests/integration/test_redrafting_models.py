"""Another model of the store for one draft: opened from where it is, and never when it was altered or retired."""

import pytest

from config.errors import ModelPackageError
from db import packages
from db.packages import list_packages
from db.uow import unit_of_work
from tests.integration.test_models_in_use import loaded, site, stored  # noqa: F401 site is a fixture
from tests.store_support import OPERATOR
from worker.models_in_use import ModelsInUse
from worker.rewording import Rewording
from worker.store.active import models_dir
from worker.store.folders import open_any


def test_a_model_of_the_store_drafts_once_beside_the_one_in_force(site):  # noqa: F811 it is the fixture
    settings, sessions, folder = site
    models = ModelsInUse(sessions, settings)
    first, experts = models.current()
    key = stored(settings, sessions, folder)
    with sessions() as session:
        (package,) = list_packages(session)
    other, same = models.with_vlm(package.folder)
    assert other.card.name == "other"
    assert other.card.weights_sha256 != first.card.weights_sha256
    assert same is experts
    assert models.current()[0].card.name == "random"  # nobody activated anything
    assert loaded(sessions) == ["random", "other"]
    restyled = Rewording(style="demo").model(other)
    assert (restyled.card.style, other.card.style) == ("demo", "trained")
    place = models_dir(settings) / package.folder
    manifest = place / open_any(place)[2]
    text = manifest.read_text()
    manifest.write_text(text + "\n")
    with pytest.raises(ModelPackageError):
        models.with_vlm(package.folder)
    manifest.write_text(text)
    with unit_of_work(sessions, OPERATOR) as uow:
        packages.retire(uow, key, reason="test", fall_back=True)
    with pytest.raises(ModelPackageError, match="retired"):
        models.with_vlm(package.folder)
    with pytest.raises(ModelPackageError):
        models.with_vlm("../../elsewhere")
