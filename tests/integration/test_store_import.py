"""Packages that come by hand: folders and tars, good and hostile."""

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from sqlalchemy import select

from config.errors import ModelPackageError, RefusedInputError
from db.models import AuditEvent
from db.packages import list_packages
from tests.store_support import LICENSE, Person, acquisition, sha256, vila_folder
from worker.experts.packages import seal_package
from worker.store.archive import MAX_FILES, bring_in
from worker.store.folders import faults
from worker.store.published import PUBLISHED, UrlFile, find_recipe
from worker.vlm.package import open_vlm_package, seal_vlm_package


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return vila_folder(tmp_path / "usb" / "vila")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def _tar(folder: Path, path: Path, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, arcname=folder.name)
    return path


@pytest.mark.parametrize("mode", ["folder", "w", "w:gz"])
@pytest.mark.parametrize(
    ("hidden_size", "name", "template"),
    [
        (2560, "Llama3-VILA-M3-3B", "vicuna_v1"),
        (4096, "Llama3-VILA-M3-8B", "llama_3"),
        (5120, "Llama3-VILA-M3-13B", "vicuna_v1"),
    ],
)
def test_a_published_folder_is_recognised_by_its_width(
    root, sqlite_sessions, tmp_path, mode, hidden_size, name, template
):
    folder = vila_folder(tmp_path / "vila", hidden_size=hidden_size)
    source = folder if mode == "folder" else _tar(folder, tmp_path / "vila.tar", mode)
    new = acquisition(root, sqlite_sessions).bring(source)
    manifest = open_vlm_package(root / new.folder)
    assert (manifest.name, manifest.template, manifest.research_only) == (name, template, True)
    assert manifest.files["LICENSE"] == sha256(LICENSE)
    assert ".gitattributes" not in manifest.files
    assert faults(root / new.folder, new.manifest_sha256) == []
    with sqlite_sessions() as session:
        assert [(row.name, row.state.value) for row in list_packages(session)] == [(name, "IMPORTED")]
        assert [e.tag for e in session.scalars(select(AuditEvent))] == ["licence:accepted", "model:imported"]


def test_a_folder_with_our_manifest_keeps_it(root, sqlite_sessions, folder):
    (folder / ".gitattributes").unlink()
    promise = {
        "name": "site-model", "version": "3", "licence": "MIT", "base": "none", "demonstration": False,
        "intended_use": "tests", "modalities": ["CXR"], "template": "llama_3", "revision": "abc",
    }  # fmt: skip
    seal_vlm_package(folder, promise)
    new = acquisition(root, sqlite_sessions).bring(folder)
    assert (new.name, new.version, new.revision, new.licence) == ("site-model", "3", "abc", "MIT")
    assert (root / new.folder / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "llm/config.json").write_text("{}"), "llm/config.json is altered"),
        (lambda f: (f / "llm/config.json").unlink(), "llm/config.json is missing"),
        (lambda f: (f / "llm/more.json").write_text("{}"), "llm/more.json is surplus"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json is not a manifest"),
    ],
)
def test_a_folder_that_is_not_its_manifest_is_refused_by_name(root, sqlite_sessions, folder, harm, message):
    (folder / ".gitattributes").unlink()
    seal_vlm_package(folder, {k: v for k, v in find_recipe("Llama3-VILA-M3-8B").promise.items() if k != "kind"})
    harm(folder)
    with pytest.raises(ModelPackageError, match=message):
        acquisition(root, sqlite_sessions).bring(folder)


@pytest.mark.parametrize("name", ["llm/modeling_llava.py", "run.sh", "llm/pytorch_model.bin", "weights.pkl"])
def test_a_file_that_has_no_place_in_a_package_is_refused_by_name(root, sqlite_sessions, folder, name):
    (folder / name).write_bytes(b"x")
    person = Person()
    with pytest.raises(ModelPackageError, match=f"{name} is surplus"):
        acquisition(root, sqlite_sessions, person).bring(folder)
    assert person.shown == []


def test_a_missing_shard_is_refused_by_name(root, sqlite_sessions, folder):
    (folder / "llm/model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelPackageError, match=r"llm/model-00002-of-00002\.safetensors is missing"):
        acquisition(root, sqlite_sessions).bring(folder)


def test_an_unknown_width_needs_a_name(root, sqlite_sessions, tmp_path):
    folder = vila_folder(tmp_path / "vila", hidden_size=32)
    with pytest.raises(RefusedInputError, match="--as"):
        acquisition(root, sqlite_sessions).bring(folder)
    new = acquisition(root, sqlite_sessions).bring(folder, recipe=find_recipe("MONAI/Llama3-VILA-M3-3B"))
    assert new.name == "Llama3-VILA-M3-3B"


@pytest.mark.parametrize("missing", ["LICENSE", "LLAMA3-LICENSE"])
def test_published_weights_without_their_licence_text_are_refused(root, sqlite_sessions, folder, missing):
    (folder / missing).unlink()
    with pytest.raises(ModelPackageError, match=f"{missing} is missing"):
        acquisition(root, sqlite_sessions).bring(folder)


def test_without_acceptance_nothing_is_imported(root, sqlite_sessions, folder):
    with pytest.raises(RefusedInputError, match="was not accepted"):
        acquisition(root, sqlite_sessions, Person(accepts=False)).bring(folder)
    assert [path.name for path in root.iterdir()] == [".staging"]
    with sqlite_sessions() as session:
        assert list_packages(session) == []


def test_a_licence_whose_text_changed_is_asked_again(root, sqlite_sessions, tmp_path):
    person = Person()
    bring = acquisition(root, sqlite_sessions, person)
    bring.bring(vila_folder(tmp_path / "one", seed=1))
    bring.bring(vila_folder(tmp_path / "two", seed=2))
    changed = vila_folder(tmp_path / "three", seed=3)
    (changed / "LICENSE").write_text("Other words.")
    bring.bring(changed)
    assert [LICENSE in licence.text for licence in person.shown] == [True, False]


WEIGHTS = {"VISTA3D": "model_vista3d.pt", "BRATS": "model_brats_mri_segmentation.pt"}


@pytest.mark.parametrize("name", WEIGHTS)
def test_an_expert_is_recognised_by_its_weight_file_and_compared_with_the_published_one(
    root, sqlite_sessions, tmp_path, name
):
    (tmp_path / "expert").mkdir()
    (tmp_path / "expert" / WEIGHTS[name]).write_bytes(b"not what was published")
    with pytest.raises(ModelPackageError, match=f"{WEIGHTS[name]}: its md5 differs from the published one"):
        acquisition(root, sqlite_sessions).bring(tmp_path / "expert")
    file = UrlFile(name=WEIGHTS[name], url="https://x/y", md5=hashlib.md5(b"not what was published").hexdigest())
    person = Person()
    recipe = find_recipe(name).model_copy(update={"files": (file,)})
    new = acquisition(root, sqlite_sessions, person).bring(tmp_path / "expert", recipe=recipe)
    assert (new.kind, new.name, new.research_only) == ("expert", name, name == "VISTA3D")
    text = PUBLISHED / "licences" / ("NVIDIA-noncommercial.txt" if name == "VISTA3D" else "Apache-2.0.txt")
    assert person.shown[0].text == text.read_text()


def test_published_research_weights_are_not_relabelled(root, sqlite_sessions, folder):
    """A manifest beside them that says clinical use is fine does not make it so."""
    (folder / ".gitattributes").unlink()
    promise = {key: value for key, value in find_recipe("Llama3-VILA-M3-8B").promise.items() if key != "kind"}
    seal_vlm_package(folder, promise | {"research_only": False, "licence": "MIT"})
    with pytest.raises(ModelPackageError, match="published for research only"):
        acquisition(root, sqlite_sessions).bring(folder)


def test_published_research_weights_are_known_by_their_bytes_whatever_they_are_called(root, sqlite_sessions, tmp_path):
    shutil.copytree(PUBLISHED, tmp_path / "published")
    catalogue = tmp_path / "published" / "catalogue.yaml"
    weights = hashlib.md5(b"weights").hexdigest()
    catalogue.write_text(catalogue.read_text().replace("6ce45a8edde4400c5d28d5e74d7b61d5", weights))
    promise = find_recipe("VISTA3D").promise | {"research_only": False, "licence": "MIT", "name": "MINE"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "net.pt").write_bytes(b"weights")
    (tmp_path / "mine" / "LICENSE").write_text("MIT")
    (tmp_path / "mine" / "model_vista3d.pt").write_bytes(b"something else")
    seal_package(tmp_path / "mine", promise)
    bring = acquisition(root, sqlite_sessions, catalogue=catalogue)
    with pytest.raises(ModelPackageError, match="VISTA3D is published for research only"):
        bring.bring(tmp_path / "mine")
    (tmp_path / "mine" / "net.pt").write_bytes(b"others")
    seal_package(tmp_path / "mine", promise)
    assert bring.bring(tmp_path / "mine").name == "MINE"


# --- hostile tars ----------------------------------------------------------------------------------------------


def _archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../outside.json"),
        tarfile.TarInfo("llm/../../outside.json"),
        tarfile.TarInfo("/outside.json"),
        _link("llm", "/tmp", tarfile.SYMTYPE),
        _link("a.json", "../outside.json", tarfile.SYMTYPE),
        _link("a.json", "/etc/passwd", tarfile.LNKTYPE),
        _link("a.json", "", tarfile.CHRTYPE),
        _link("a.json", "", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name}-{member.type.decode()}",
)
def test_a_tar_that_leaves_the_package_writes_nothing_outside(root, sqlite_sessions, tmp_path, member):
    source = _archive(tmp_path / "evil.tar", (member, b""))
    with pytest.raises(RefusedInputError, match=r"leaves the package|is a link or no plain file"):
        acquisition(root, sqlite_sessions).bring(source)
    written = {path.name for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()}
    assert written <= {"evil.tar", "import-evil.tar.lock"}


def test_a_tar_that_unpacks_to_too_much_is_stopped(tmp_path):
    """8 MB of zeros in 8 kB."""
    source = tmp_path / "bomb.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        member = tarfile.TarInfo("zeros.safetensors")
        member.size = 8_000_000
        archive.addfile(member, io.BytesIO(bytes(8_000_000)))
    assert source.stat().st_size < 20_000
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(RefusedInputError, match=r"more than 0\.001 GB"):
        bring_in(source, target, max_bytes=1_000_000)
    assert list(target.iterdir()) == []


def test_a_tar_of_countless_files_is_stopped(tmp_path):
    members = [(tarfile.TarInfo(f"{number}.json"), b"{}") for number in range(MAX_FILES + 1)]
    (tmp_path / "target").mkdir()
    with pytest.raises(RefusedInputError, match=f"more than {MAX_FILES} files"):
        bring_in(_archive(tmp_path / "many.tar", *members), tmp_path / "target")


def test_a_tar_that_ends_early_is_refused(root, sqlite_sessions, folder, tmp_path):
    source = _tar(folder, tmp_path / "vila.tar.gz")
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(ModelPackageError, match="is no whole tar"):
        acquisition(root, sqlite_sessions).bring(source)


@pytest.mark.parametrize("content", [b"", b"not a tar at all" * 100])
def test_what_is_no_tar_is_refused(root, sqlite_sessions, tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(ModelPackageError, match="is no whole tar"):
        acquisition(root, sqlite_sessions).bring(tmp_path / "x.tar")


def test_a_path_that_is_not_there_is_refused(root, sqlite_sessions, tmp_path):
    with pytest.raises(RefusedInputError, match="no folder and no tar"):
        acquisition(root, sqlite_sessions).bring(tmp_path / "nothing")


def test_a_link_in_a_folder_is_refused(root, sqlite_sessions, folder):
    (folder / "llm" / "notes.txt").symlink_to("/etc/passwd")
    with pytest.raises(RefusedInputError, match=r"llm/notes\.txt is a link"):
        acquisition(root, sqlite_sessions).bring(folder)


def test_a_tar_made_for_somebody_else_is_unpacked_without_their_rights(root, sqlite_sessions, folder, tmp_path):
    """Modes and owners of a tar are not taken over: no setuid, nothing world writable."""

    def open_to_all(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mode, member.uid = 0o6777, 12345
        return member

    with tarfile.open(tmp_path / "vila.tar", "w") as archive:
        archive.add(folder, arcname=".", filter=open_to_all)
    new = acquisition(root, sqlite_sessions).bring(tmp_path / "vila.tar")
    for path in (root / new.folder).rglob("*"):
        assert not path.stat().st_mode & 0o6022, path
        assert path.stat().st_uid == os.geteuid()


def test_an_import_leaves_the_source_as_it_was(root, sqlite_sessions, folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    acquisition(root, sqlite_sessions).bring(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_a_crash_left_is_replaced(root, sqlite_sessions, folder, tmp_path):
    """The folder of a package that no record knows: the process died between the rename and the commit."""
    once = acquisition(tmp_path / "other", sqlite_sessions).bring(folder)
    (root / once.folder).mkdir(parents=True)
    (root / once.folder / "half.json").write_text("{}")
    with sqlite_sessions.begin() as session:
        for row in list_packages(session):
            session.delete(row)
    new = acquisition(root, sqlite_sessions).bring(folder)
    assert new.folder == once.folder
    assert faults(root / new.folder) == []
    assert json.loads((root / new.folder / "llm/config.json").read_text())["hidden_size"] == 4096
    shutil.rmtree(tmp_path / "other")
