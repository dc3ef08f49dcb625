"""Fetching published weights with the real hub client from a server on this machine."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from config.errors import (
    ConfigurationError,
    LifecycleError,
    ModelPackageError,
    OutOfSpaceError,
    PeerUnavailableError,
    RefusedInputError,
    TransientError,
)
from config.settings import ROOT, Settings
from db.engine import migrate
from db.models import AuditEvent
from db.package_models import LicenceAcceptance, Package
from db.packages import list_packages
from tests.hub_server import Repository, repository, serve
from tests.store_support import COMMIT, LICENSE, LLAMA, Person, acquisition, sha256, vila_folder
from worker.store.folders import ModelStore, faults
from worker.store.published import HubSource, Recipe, UrlFile, find_recipe, read_promise, recipes
from worker.store.transfer import Remote, fetch
from worker.vlm.package import verify_vlm_package

REPO = "MONAI/Llama3-VILA-M3-8B"
SHARD = "llm/model-00001-of-00002.safetensors"
MIB = 1 << 20


@pytest.fixture
def published(tmp_path: Path) -> Repository:
    return repository(vila_folder(tmp_path / "hub"), commit=COMMIT)


@pytest.fixture
def recipe() -> Recipe:
    """The published recipe of 8B, pinned to the test's commit."""
    return find_recipe(REPO).model_copy(update={"hub": HubSource(repo=REPO, revision=COMMIT)})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def _events(sessions):
    with sessions() as session:
        return [(e.tag, e.outcome, e.actor) for e in session.scalars(select(AuditEvent).order_by(AuditEvent.seq))]


def _visible(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.startswith(".")) if root.exists() else []


def test_a_published_model_is_fetched_checked_sealed_and_recorded(root, sessions, published, recipe):
    person = Person()
    with serve({REPO: published}) as endpoint:
        new = acquisition(root, sessions, person).fetch(recipe, endpoint=endpoint)
    folder = ModelStore(root).path(new.folder)
    manifest = verify_vlm_package(folder)
    wanted = {name: content for name, content in published.commits[COMMIT].items() if name != ".gitattributes"}
    assert dict(manifest.files) == {name: sha256(content) for name, content in wanted.items()}
    assert (manifest.name, manifest.revision, manifest.template) == ("Llama3-VILA-M3-8B", COMMIT, "llama_3")
    assert manifest.research_only
    assert not manifest.demonstration
    assert [(shown.name, LICENSE in shown.text, LLAMA in shown.text) for shown in person.shown] == [
        ("nvidia-oneway-noncommercial-license", True, True)
    ]
    with sessions() as session:
        row = session.scalars(select(Package)).one()
        accepted = session.scalars(select(LicenceAcceptance)).one()
    assert (row.state.value, row.revision, row.imported_by) == ("IMPORTED", COMMIT, "cli:jdoe")
    assert row.manifest_sha256 == sha256((folder / "manifest.json").read_bytes())
    assert (accepted.accepted_by, accepted.text_sha256) == ("cli:jdoe", sha256(accepted.text))
    assert accepted.text == person.shown[0].text
    assert _events(sessions) == [
        ("licence:accepted", "success", "cli:jdoe"),
        ("model:fetched", "success", "cli:jdoe"),
    ]


def test_the_licence_comes_before_the_weights_and_without_it_nothing_does(root, sqlite_sessions, published, recipe):
    with serve({REPO: published}) as endpoint, pytest.raises(RefusedInputError, match="not accepted"):
        acquisition(root, sqlite_sessions, Person(accepts=False)).fetch(recipe, endpoint=endpoint)
    assert set(published.served) == {"LICENSE", "LLAMA3-LICENSE"}
    assert _visible(root) == []
    with sqlite_sessions() as session:
        assert list_packages(session) == []
        assert session.scalars(select(LicenceAcceptance)).all() == []
    assert _events(sqlite_sessions) == [("licence:refused", "failure", "cli:jdoe")]


def test_a_commit_that_is_not_the_pinned_one_is_refused(root, sqlite_sessions, published, recipe):
    other = recipe.model_copy(update={"hub": HubSource(repo=REPO, revision="4e68cef")})
    with serve({REPO: published}) as endpoint:
        bring = acquisition(root, sqlite_sessions)
        with pytest.raises(RefusedInputError, match=f"is at {COMMIT}, not at the pinned 4e68cef"):
            bring.fetch(other, endpoint=endpoint)
        with pytest.raises(RefusedInputError, match="no such repository or revision"):
            bring.fetch(recipe, revision="d" * 40, endpoint=endpoint)
        new = bring.fetch(other, revision="main", endpoint=endpoint)
    assert new.revision == COMMIT


def test_the_pinned_commit_is_fetched_when_the_repository_moved_on(root, sqlite_sessions, published, recipe):
    newer = "f" * 40
    published.commits[newer] = published.commits[COMMIT] | {"llm/config.json": b'{"hidden_size": 1}'}
    published.branches["main"] = newer
    with serve({REPO: published}) as endpoint:
        new = acquisition(root, sqlite_sessions).fetch(recipe, endpoint=endpoint)
    assert new.revision == COMMIT
    assert json.loads((root / new.folder / "llm/config.json").read_text())["hidden_size"] == 4096


@pytest.mark.parametrize(("name", "algorithm"), [(SHARD, "sha256"), ("llm/config.json", "git-sha1")])
def test_an_altered_file_is_refused_by_name_and_fetched_again(
    root, sqlite_sessions, published, recipe, name, algorithm
):
    published.corrupt.add(name)
    bring = acquisition(root, sqlite_sessions)
    with serve({REPO: published}) as endpoint:
        with pytest.raises(ModelPackageError, match=f"^{name}: its {algorithm} differs"):
            bring.fetch(recipe, endpoint=endpoint)
        assert _visible(root) == []
        published.mend()
        assert not faults(root / bring.fetch(recipe, endpoint=endpoint).folder)


def test_an_interrupted_download_goes_on_where_it_stopped(root, sqlite_sessions, published, recipe):
    published.commits[COMMIT][SHARD] = bytes(range(256)) * (12 * MIB // 256)
    published.cut[SHARD] = 11 * MIB
    person = Person()
    with serve({REPO: published}) as endpoint:
        with pytest.raises(PeerUnavailableError, match="run again to go on"):
            acquisition(root, sqlite_sessions, person).fetch(recipe, endpoint=endpoint)
        assert published.served[SHARD] == 11 * MIB
        assert _visible(root) == []
        before = dict(published.served)
        published.mend()
        new = acquisition(root, sqlite_sessions, person).fetch(recipe, endpoint=endpoint)
    # the client writes blocks of 10 MiB: what it held of the next one is lost
    assert published.ranges[SHARD][-1] == f"bytes={10 * MIB}-"
    assert published.served[SHARD] == 11 * MIB + 2 * MIB
    done = {name for name, count in before.items() if count == len(published.commits[COMMIT][name])}
    assert "config.json" in done
    assert all(published.served[name] == before[name] for name in done), "whole files were fetched twice"
    assert not faults(root / new.folder)
    assert len(person.shown) == 1, "an accepted licence is not asked again"


def test_bytes_of_another_revision_are_never_continued(root, sqlite_sessions, published, recipe):
    published.commits[COMMIT][SHARD] = bytes(12 * MIB)
    published.cut[SHARD] = 11 * MIB
    other = "e" * 40
    published.commits[other] = published.commits[COMMIT] | {SHARD: b"\x01" * 90_000}
    with serve({REPO: published}) as endpoint:
        bring = acquisition(root, sqlite_sessions)
        with pytest.raises(PeerUnavailableError):
            bring.fetch(recipe, endpoint=endpoint)
        published.mend()
        new = bring.fetch(recipe, revision=other, endpoint=endpoint)
    assert (root / new.folder / SHARD).read_bytes() == b"\x01" * 90_000
    assert not list((root / new.folder).rglob("*.part"))


def test_a_package_without_a_shard_its_index_names_is_refused(root, sqlite_sessions, published, recipe):
    del published.commits[COMMIT][SHARD]
    with serve({REPO: published}) as endpoint, pytest.raises(ModelPackageError, match=f"{SHARD} is missing"):
        acquisition(root, sqlite_sessions).fetch(recipe, endpoint=endpoint)
    assert _visible(root) == []


@pytest.mark.requirement("REQ-MODEL-10")
def test_code_in_a_repository_is_not_fetched(root, sqlite_sessions, published, recipe):
    published.commits[COMMIT] |= {"modeling.py": b"import os", "llm/pytorch_model.bin": b"\x80\x02"}
    with serve({REPO: published}) as endpoint:
        new = acquisition(root, sqlite_sessions).fetch(recipe, endpoint=endpoint)
    assert not (root / new.folder / "modeling.py").exists()
    assert set(published.served).isdisjoint({"modeling.py", "llm/pytorch_model.bin"})


@pytest.mark.parametrize("name", ["../outside.json", "llm/../../outside.json", "/outside.json"])
def test_a_repository_whose_file_leaves_the_package_is_refused(root, sqlite_sessions, published, recipe, name):
    published.commits[COMMIT][name] = b"{}"
    with serve({REPO: published}) as endpoint, pytest.raises(ModelPackageError, match="leaves the package"):
        acquisition(root, sqlite_sessions).fetch(recipe, endpoint=endpoint)
    assert published.served == {}


def test_the_same_package_twice_is_refused_and_the_first_stays(root, sqlite_sessions, published, recipe):
    bring = acquisition(root, sqlite_sessions)
    with serve({REPO: published}) as endpoint:
        new = bring.fetch(recipe, endpoint=endpoint)
        with pytest.raises(LifecycleError, match="in the store already"):
            bring.fetch(recipe, endpoint=endpoint)
    assert not faults(root / new.folder)


def test_a_gated_repository_says_what_to_do(root, sqlite_sessions, published, recipe):
    published.gated = True
    with serve({REPO: published}) as endpoint, pytest.raises(RefusedInputError, match="ask for access"):
        acquisition(root, sqlite_sessions).fetch(recipe, endpoint=endpoint)


def test_a_repository_that_is_not_there_is_refused(root, sqlite_sessions, recipe):
    with serve({}) as endpoint, pytest.raises(RefusedInputError, match="no such repository"):
        acquisition(root, sqlite_sessions).fetch(recipe, endpoint=endpoint)


def test_without_a_network_the_error_says_to_import(root, sqlite_sessions, recipe):
    with pytest.raises(PeerUnavailableError, match="firstread models import"):
        acquisition(root, sqlite_sessions).fetch(recipe, endpoint="http://127.0.0.1:9")


def test_a_machine_told_to_stay_offline_says_to_import(tmp_path):
    migrate(Settings(data_dir=tmp_path / "data").database)
    environment = os.environ | {"FIRSTREAD_DATA_DIR": str(tmp_path / "data"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "firstread", "models", "fetch", REPO]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "HF_HUB_OFFLINE); on a machine without internet: firstread models import" in " ".join(done.stdout.split())


def test_a_known_lack_of_space_stops_the_download_before_it_starts(tmp_path):
    tmp_path.joinpath("part").mkdir()
    huge = Remote("a.safetensors", "http://127.0.0.1:9/a", "0" * 64, "sha256", 10**17)
    with pytest.raises(OutOfSpaceError, match=r"100000000\.0 GB are needed"):
        fetch([huge], tmp_path / "part")


def test_a_full_disk_is_named(tmp_path, published):
    """The part file is a device that is always full."""
    content = published.commits[COMMIT][SHARD]
    with serve({REPO: published}) as endpoint:
        file = Remote("w.pt", f"{endpoint}/{REPO}/resolve/main/{SHARD}", sha256(content), "sha256", len(content))
        (tmp_path / f"w.pt.{file.digest[:16]}.part").symlink_to("/dev/full")
        with pytest.raises(OutOfSpaceError, match=r"no room for w\.pt"):
            fetch([file], tmp_path)


def test_a_store_that_cannot_be_written_is_named(tmp_path, sqlite_sessions, published, recipe):
    (tmp_path / "store").write_text("a file where the folder should be")
    with serve({REPO: published}) as endpoint, pytest.raises(ConfigurationError, match="cannot be written"):
        acquisition(tmp_path / "store", sqlite_sessions).fetch(recipe, endpoint=endpoint)


def test_two_processes_do_not_fetch_the_same_package_at_once(root, sqlite_sessions, published, recipe):
    busy = ModelStore(root).staging(f"{recipe.name}-{COMMIT[:12]}")
    with serve({REPO: published}) as endpoint, busy, pytest.raises(TransientError, match="another process"):
        acquisition(root, sqlite_sessions).fetch(recipe, endpoint=endpoint)


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_an_expert_is_fetched_from_a_plain_address_and_resumed(root, sqlite_sessions, tmp_path, monkeypatch, algorithm):
    """VISTA3D's published md5 cannot be met here: file and digest are the test's own, all else is as shipped."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    weights = bytes(range(256)) * (12 * MIB // 256)
    name = "model_vista3d.pt"
    (tmp_path / "cdn").mkdir()
    (tmp_path / "cdn" / name).write_bytes(weights)
    cdn = repository(tmp_path / "cdn")
    cdn.cut[name] = 11 * MIB
    with serve({"clara/zoo": cdn}) as address:
        digest = {algorithm: hashlib.new(algorithm, weights).hexdigest()}
        file = UrlFile(name=name, url=f"{address}/clara/zoo/resolve/main/{name}", **digest)
        recipe = recipes()["VISTA3D"].model_copy(update={"files": (file,)})
        person = Person()
        with pytest.raises(PeerUnavailableError):
            acquisition(root, sqlite_sessions, person).fetch(recipe)
        cdn.mend()
        new = acquisition(root, sqlite_sessions, person).fetch(recipe)
    assert cdn.served[name] == len(weights) + MIB
    assert cdn.tokens == {""}, "the hub's token was sent to another server"
    assert (new.kind, new.name, new.version, new.research_only) == ("expert", "VISTA3D", "0.5.4", True)
    assert "non-commercially" in person.shown[0].text
    assert not faults(root / new.folder)


def test_a_model_without_published_digests_can_only_be_imported(root, sqlite_sessions):
    with pytest.raises(RefusedInputError, match="import a folder"):
        acquisition(root, sqlite_sessions).fetch(find_recipe("CXR"))


def test_any_repository_can_be_fetched_with_a_manifest(root, sqlite_sessions, published, tmp_path):
    text = "kind: vlm\nname: site-vlm\nversion: '1'\nlicence: MIT\nbase: none\ndemonstration: false\n"
    (tmp_path / "m.yaml").write_text(f"{text}intended_use: tests\nmodalities: [CXR]\ntemplate: llama_3\n")
    given = find_recipe("site/model", manifest=tmp_path / "m.yaml")
    assert read_promise(tmp_path / "m.yaml")["name"] == "site-vlm"
    with serve({"site/model": published}) as endpoint:
        person = Person()
        new = acquisition(root, sqlite_sessions, person).fetch(given, endpoint=endpoint)
    assert (new.name, new.revision, new.licence) == ("site-vlm", COMMIT, "MIT")
    assert LLAMA in person.shown[0].text
