"""What is shipped about published weights agrees with where they are published; the licence gate."""

from dataclasses import replace

import pytest

from config.errors import ConfigurationError, RefusedInputError, UnlicensedModelError
from config.routing import StudyFacts, load_rules
from db.types import PackageKind, Use
from tests.fakes import VLM_CARD
from worker.licensing import require_licence
from worker.store.published import UrlFile, find_recipe, recipes
from worker.store.transfer import digest
from worker.vlm.package import VlmManifest

SIZES = {
    "3B": ("ccbda9298a9b5823dd020f21f24aa0a1c3a70b2d", "vicuna_v1", 2560),
    "8B": ("df60e0276e2ae10624c86dabe909847a03b2a5cb", "llama_3", 4096),
    "13B": ("4e68cef", "vicuna_v1", 5120),
}


@pytest.mark.parametrize("size", SIZES)
def test_each_size_is_pinned_and_promises_what_was_published(size):
    recipe = find_recipe(f"MONAI/Llama3-VILA-M3-{size}")
    revision, template, width = SIZES[size]
    assert recipe.hub is not None
    assert (recipe.hub.repo, recipe.hub.revision) == (f"MONAI/Llama3-VILA-M3-{size}", revision)
    assert (recipe.hidden_size, recipe.kind) == (width, PackageKind.VLM)
    assert recipe.licence_files == ("LICENSE", "LLAMA3-LICENSE")
    manifest = VlmManifest.model_validate(recipe.promise | {"files": {}, "revision": "f" * 40})
    assert manifest.template == template
    assert (manifest.research_only, manifest.demonstration, manifest.published_cards) == (True, False, True)
    assert manifest.licence == "nvidia-oneway-noncommercial-license"
    assert manifest.modalities == ("CXR", "CT", "MRI")


@pytest.mark.parametrize(
    ("name", "file", "md5"),
    [
        ("VISTA3D", "model_vista3d.pt", "6ce45a8edde4400c5d28d5e74d7b61d5"),
        ("BRATS", "model_brats_mri_segmentation.pt", "870e677b782a5184cbc48db1456b78e8"),
    ],
)
def test_the_bundles_weights_are_pinned_by_their_md5(name, file, md5):
    recipe = recipes()[name]
    zoo = "https://developer.download.nvidia.com/assets/Clara/monai/tutorials/model_zoo"
    assert [(f.name, f.url, f.md5) for f in recipe.files] == [(file, f"{zoo}/{file}", md5)]
    assert recipe.promise["network"]["weights"] == file
    assert len(recipe.licence_text) > 1000


def test_a_name_is_found_whatever_its_case_and_another_says_what_there_is():
    assert find_recipe("monai/llama3-vila-m3-8b") == find_recipe("Llama3-VILA-M3-8B")
    with pytest.raises(RefusedInputError, match="Llama3-VILA-M3-3B, Llama3-VILA-M3-8B"):
        find_recipe("gpt")


@pytest.mark.parametrize(
    "text", ["", "[]", "name: x", "kind: vlm\nname: x\nversion: 1\nlicence: MIT", "a: [", "kind: 3"]
)
def test_a_manifest_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match="is no manifest"):
        find_recipe("some/repo", manifest=tmp_path / "m.yaml")


def test_a_plain_address_without_a_digest_is_refused():
    with pytest.raises(ValueError, match="needs an md5 or a sha256"):
        UrlFile(name="a.pt", url="https://example.org/a.pt")


def test_digests_are_those_of_the_tools(tmp_path):
    # printf 'hello\n' | git hash-object --stdin; | md5sum; | sha256sum
    (tmp_path / "f").write_text("hello\n")
    assert digest(tmp_path / "f", "git-sha1") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert digest(tmp_path / "f", "md5") == "b1946ac92492d2347c6235b4d2611184"
    assert digest(tmp_path / "f", "sha256") == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"


# --- the licence gate --------------------------------------------------------------------------------------------

RESEARCH = replace(VLM_CARD, name="VILA-M3", licence="NVIDIA", research_only=True)


def test_a_clinical_route_names_every_model_that_is_for_research_only():
    expert = replace(RESEARCH, name="VISTA3D", licence="NVIDIA-noncommercial")
    with pytest.raises(UnlicensedModelError, match=r"VILA-M3 \(NVIDIA\), VISTA3D \(NVIDIA-noncommercial\)$"):
        require_licence(Use.CLINICAL, [RESEARCH, VLM_CARD, expert])


def test_other_models_and_research_routes_pass():
    require_licence(Use.CLINICAL, [VLM_CARD])
    require_licence(Use.CLINICAL, [])
    require_licence(Use.RESEARCH, [RESEARCH, VLM_CARD])


@pytest.mark.parametrize(
    ("field", "use"), [("", "clinical"), ("use: clinical, ", "clinical"), ("use: research, ", "research")]
)
def test_a_rule_says_what_its_drafts_are_for(tmp_path, field, use):
    path = tmp_path / "routing.yaml"
    path.write_text(f"rules: [{{name: a, {field}profile: ct-torso}}]")
    verdict = load_rules(path).judge(StudyFacts())
    assert verdict.use == use
    assert verdict.trace == [{"rule": "a", "matched": True, "why": "all conditions hold"}]


def test_a_study_no_rule_matches_is_clinical_and_another_use_is_no_rule(tmp_path):
    path = tmp_path / "routing.yaml"
    path.write_text("rules: [{name: a, when: {modality: [CT]}, profile: ct-torso, use: research}]")
    assert load_rules(path).judge(StudyFacts()).use == "clinical"
    path.write_text("rules: [{name: a, profile: ct-torso, use: teaching}]")
    with pytest.raises(ConfigurationError, match="use"):
        load_rules(path)
