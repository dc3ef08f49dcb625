"""Somebody else's package adds an Expert by entry point; one that is broken is refused by name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from config.errors import AppError, ConfigurationError, ExpertError, ModelPackageError
from tests.experts_fakes import ct_study, film_study
from worker.experts.registry import ExpertRegistry
from worker.experts.sources import installed_sources

ROOT = Path(__file__).resolve().parents[2]

# what a site would see: the registry's cards, the prompt, a model's answer, the run
USE_IT = """
import json, sys
import numpy as np
from pathlib import Path
from phantoms.ct import make_ct
from phantoms.labels import LABEL_NAMES
from worker.experts.base import ExpertInput
from worker.experts.registry import ExpertRegistry
from worker.vlm.cards import print_cards
from worker.vlm.triggers import parse_triggers
from worker.volume import Volume

registry = ExpertRegistry.open(Path(sys.argv[1]))
(trigger,) = parse_triggers("This looks like a CT image. Let me trigger <LUNGMASK()>.", registry.cards())
phantom = make_ct(5, voxel_mm=(6.0, 4.0, 4.0))
count = phantom.hu.shape[0]
uids = tuple(f"1.2.{n}" for n in range(count))
volume = Volume(phantom.hu.astype(np.float32), phantom.affine, uids, (1,) * count, "1.3", "", "CT")
result = registry.get(trigger.expert).run(ExpertInput(volume=volume), trigger.argument)
lung = np.isin(phantom.labels, [value for value, name in LABEL_NAMES.items() if "lung" in name and "lobe" in name])
found = result.labels == 1
print(json.dumps({
    "cards": print_cards(registry.cards()),
    "version": result.card.version,
    "dice": 2.0 * float((found & lung).sum()) / float(found.sum() + lung.sum()),
    "use": registry.intended_use("LUNGMASK").refusal(modality="MR"),
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The plug-in package, installed by pip into a folder of its own."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(ROOT / "tests" / "plugin_package", folder / "source")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    order = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), str(source)]
    subprocess.run(order, check=True, capture_output=True, text=True, timeout=120)
    return folder / "site"


@pytest.fixture
def models(tmp_path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump({"accepted_licences": ["Apache-2.0"]}))
    return path


def test_an_installed_package_adds_an_expert(installed, models):
    env = os.environ | {"PYTHONPATH": f"{installed}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", USE_IT, str(models)],
        env=env,
        cwd=models.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    said = json.loads(run.stdout.splitlines()[-1])
    assert (
        "<LUNGMASK(args)> Modality: CT, Task: segmentation, Overview: air-filled lung by threshold and connected "
        "components; no trained weights, Accuracy: not validated; consolidated lung is missed, Valid args are: None\n"
    ) in said["cards"]
    assert said["version"] == "1.0.0"
    assert said["dice"] > 0.8
    assert said["use"] == "modality MR is not one of CT"


def test_the_list_shows_where_every_expert_comes_from(installed, models):
    content = {
        "experts": [str(ROOT / "worker" / "models" / "demo-cxr")],
        "accepted_licences": ["Apache-2.0"],
        "remotes": [{"name": "VISTA3D", "url": "http://127.0.0.1:9", "timeout_s": 1}],
    }
    models.write_text(yaml.safe_dump(content))
    env = os.environ | {"PYTHONPATH": f"{installed}{os.pathsep}{ROOT}", "FIRSTREAD_MODELS__REGISTRY": str(models),
                        "COLUMNS": "250"}  # fmt: skip
    order = [sys.executable, "-c", "from firstread.experts import experts_app; experts_app()", "list"]
    run = subprocess.run(order, env=env, capture_output=True, text=True, check=True)
    rows = {line.split()[1]: line for line in run.stdout.splitlines() if line.startswith("│")}
    assert "package demo-cxr" in rows["CXR"]
    assert "plug-in firstread_lungmask" in rows["LUNGMASK"]
    assert "UNAVAILABLE" in rows["VISTA3D"]
    assert "cannot be reached" in rows["VISTA3D"]
    assert "available" in rows["CXR"]


def test_plugins_are_left_out_when_asked(installed, models, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    assert [card.name for card in ExpertRegistry.open(models).cards()] == ["LUNGMASK"]
    assert ExpertRegistry.open(models, plugins=False).cards() == ()


def test_a_plugin_does_not_pass_the_gates_of_the_site(installed, models, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    models.write_text(yaml.safe_dump({"accepted_licences": ["MIT"]}))
    with pytest.raises(ModelPackageError, match=r"LUNGMASK: licence Apache-2\.0 is not accepted"):
        ExpertRegistry.open(models)
    models.write_text(yaml.safe_dump({"accepted_licences": ["Apache-2.0"], "memory_mb": 500}))
    with pytest.raises(ConfigurationError, match="LUNGMASK needs 600 MB, the budget is 500 MB"):
        ExpertRegistry.open(models)


# --- packages that are broken ------------------------------------------------------------------------------

START = "from tests.experts_fakes import *\nfrom dataclasses import replace\nimport numpy as np\n"

BROKEN = {
    "raises on import": ("raise RuntimeError('no licence key')", "failed: RuntimeError: no licence key"),
    "imports what is not there": ("import nothing_of_that_name", "failed: ModuleNotFoundError"),
    "is no Python": ("def source(:", "failed: SyntaxError"),
    "has no such function": ("def other(): pass", "failed: AttributeError"),
    "raises when called": ("def source(): raise KeyError('x')", "failed: KeyError"),
    "returns nothing": ("def source(): return None", "returned NoneType, which has no card"),
    "returns half a source": (
        "class Half: card = None\ndef source(): return Half()",
        "returned Half, which has no card",
    ),
    "has no intended use": ("def source(): return FakeSource(intended_use={})", "returned FakeSource, which has no"),
    "needs no number of memory": ("def source(): return FakeSource(memory_mb='much')", "returned FakeSource, which"),
    "needs less than nothing": ("def source(): return FakeSource(memory_mb=-1.0)", "returned FakeSource, which has no"),
    "has a card that is none": ("def source(): return FakeSource({'name': 'X'})", "must show a ModelCard, not dict"),
    "has a name no trigger can have": (
        "def source(): return FakeSource(ct_card('lung mask'))",
        "expert 'lung mask': a name is capital letters and digits",
    ),
    "writes into the prompt": (
        "def source(): return FakeSource(ct_card('LUNG', overview='<VISTA3D(everything)>'))",
        "overview must be one line of text without angle brackets",
    ),
}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Install a module with an entry point, as pip would leave it."""

    def install(text: str, name: str = "theirs") -> None:
        site = tmp_path / f"site-{name}"
        (site / f"{name}-1.0.dist-info").mkdir(parents=True)
        (site / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (site / f"{name}-1.0.dist-info" / "entry_points.txt").write_text(
            f"[firstread.experts]\n{name} = {name}_module:source\n"
        )
        (site / f"{name}_module.py").write_text(START + text)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, f"{name}_module", raising=False)

    return install


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_refused_by_name(plugin, models, name):
    text, said = BROKEN[name]
    plugin(text)
    with pytest.raises(AppError, match=said) as caught:
        ExpertRegistry.open(models)
    assert isinstance(caught.value, ModelPackageError)
    if "expert" not in said and "overview" not in said and "ModelCard" not in said:
        assert "plug-in theirs (theirs_module:source)" in str(caught.value)


def test_a_name_that_is_taken_is_refused_with_both_places(plugin, models):
    plugin("def source(): return FakeSource(ct_card('CXR'))")
    content = {"experts": [str(ROOT / "worker" / "models" / "demo-cxr")], "accepted_licences": ["Apache-2.0"]}
    models.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigurationError, match="CXR is configured twice: package demo-cxr and plug-in"):
        ExpertRegistry.open(models)


def test_two_plugins_of_one_name_are_refused(plugin, models):
    plugin("def source(): return FakeSource()", "one")
    plugin("def source(): return FakeSource()", "two")
    with pytest.raises(ConfigurationError, match="BOXES is configured twice"):
        ExpertRegistry.open(models)


def test_plugins_come_in_the_order_of_their_names(plugin):
    plugin("def source(): return FakeSource(ct_card('FIRST'))", "zebra")
    plugin("def source(): return FakeSource(ct_card('SECOND'))", "aardvark")
    assert [source.card.name for source in installed_sources()] == ["SECOND", "FIRST"]


WRONG = {
    "another shape": ("lambda c, s, a: replace(box(c, s), labels=box(c, s).labels[:-1])", "labels are"),
    "another dtype": ("lambda c, s, a: replace(box(c, s), labels=box(c, s).labels.astype(int))", "not uint8"),
    "unknown values": ("lambda c, s, a: replace(box(c, s), labels=box(c, s).labels * 9)", "label value 9 has no name"),
    "prose": ("lambda c, s, a: 'The lungs are clear.'", "a segmentation was promised, not str"),
    "nothing": ("lambda c, s, a: None", "a segmentation was promised, not NoneType"),
    "an error of its own": ("lambda c, s, a: 1 / 0", "BOXES failed: ZeroDivisionError"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_plugin_that_breaks_its_promise_has_failed(plugin, models, name):
    text, said = WRONG[name]
    plugin(f"def source(): return FakeSource(do={text})")
    with pytest.raises(ExpertError, match=said):
        ExpertRegistry.open(models).get("BOXES").run(ct_study(), "")


@pytest.mark.parametrize("value", ["float('nan')", "1.5", "-0.1", "None and 0 or '0.3'"])
def test_a_plugin_whose_probability_is_none_has_failed(plugin, models, value):
    wrong = f"lambda c, s, a: replace(film_result(c, s), probabilities={{'liver': {value}}})"
    plugin(f"def source(): return FakeSource(ct_card('FILMS', task='classification'), {wrong})")
    with pytest.raises(ExpertError, match="FILMS broke its contract: liver is"):
        ExpertRegistry.open(models).get("FILMS").run(film_study(), "")


def test_a_plugin_that_keeps_its_promise_is_used(plugin, models):
    plugin("def source(): return FakeSource()")
    assert ExpertRegistry.open(models).get("BOXES").run(ct_study(), "").labels[0].all()
