"""How a package comes into the store: fetched or imported, its licence accepted by a person, sealed, recorded."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from config.errors import ModelPackageError, RefusedInputError
from db.audit import AuditTag
from db.packages import NewPackage, accept_licence, acceptance, add_package, refuse_licence
from db.types import PackageKind
from db.uow import Actor, unit_of_work
from worker.store.archive import MAX_BYTES, bring_in
from worker.store.folders import (
    Licence,
    ModelStore,
    check_layout,
    describe,
    faults,
    is_known_file,
    licence_of,
    open_any,
    seal,
    slug,
)
from worker.store.published import CATALOGUE, Recipe, recipes, recognise
from worker.store.transfer import PART, Listing, digest, fetch, hub_listing, url_listing

Ask = Callable[[Licence], bool]


class Acquisition:
    """Brings packages in for one person, who is asked about each licence that is new to the site."""

    def __init__(
        self,
        store: ModelStore,
        sessions: sessionmaker[Session],
        actor: Actor,
        ask: Ask,
        *,
        catalogue: Path = CATALOGUE,
    ) -> None:
        """Take the store, the record, the person, how to ask (True means accepted), and what is published."""
        self._catalogue = catalogue
        self._store = store
        self._sessions = sessions
        self._actor = actor
        self._ask = ask

    def fetch(self, recipe: Recipe, *, revision: str = "", endpoint: str | None = None) -> NewPackage:
        """Fetch a published package; run again after an interruption, it goes on where it stopped.

        The licence is fetched, shown and accepted before the weights.

        Args:
            recipe: what and from where.
            revision: commit, branch or tag in place of the pinned one.
            endpoint: of the hub; its own default when None.

        Raises:
            PeerUnavailableError: the server cannot be reached.
            RefusedInputError: the licence was not accepted, the revision is not the pinned one, or the package can
                only be imported.
            ModelPackageError: a file is missing, surplus or not what was published.
            OutOfSpaceError: the disk is full.
            LifecycleError: the store has it already.
        """
        if recipe.hub is None and not recipe.files:
            raise RefusedInputError(f"{recipe.name} cannot be fetched: no digests are published; import a folder")
        listing = (
            hub_listing(recipe.hub, revision=revision, endpoint=endpoint) if recipe.hub else url_listing(recipe.files)
        )
        files = [file for file in listing.files if is_known_file(recipe.kind, file.path)]
        with self._store.staging(f"{recipe.name}-{listing.commit[:12] or recipe.promise['version']}") as staged:
            fetch([file for file in files if recipe.is_licence(file.path)], staged)
            licence = licence_of(staged, recipe)
            self._consent(licence)
            fetch(files, staged)
            _only(staged, {file.path for file in files})
            check_layout(staged, recipe)
            new = seal(staged, recipe, revision=listing.commit, licence=licence)
            self._record(staged, new, AuditTag.MODEL_FETCHED, source=_origin(recipe, listing))
        return new

    def bring(self, source: Path, *, recipe: Recipe | None = None, max_bytes: int = MAX_BYTES) -> NewPackage:
        """Import a folder or a tar that came by hand, with our manifest or in a published layout without one.

        Args:
            source: folder or tar.
            recipe: what it is, where it brings no manifest and is not recognised.
            max_bytes: a larger one is refused.

        Raises:
            RefusedInputError: unsafe content, nothing known, or the licence was not accepted.
            ModelPackageError: a file is missing, surplus or altered.
            OutOfSpaceError: the disk is full.
            LifecycleError: the store has it already.
        """
        with self._store.staging(f"import-{slug(source.name)}") as staged:
            bring_in(source, staged, max_bytes=max_bytes)
            sealed = any((staged / name).is_file() for name in ("manifest.json", "manifest.yaml"))
            new = self._import_sealed(staged) if sealed else self._import_plain(staged, recipe)
            self._record(staged, new, AuditTag.MODEL_IMPORTED, source=source.name)
        return new

    def _import_sealed(self, staged: Path) -> NewPackage:
        different = faults(staged)
        if different:
            raise ModelPackageError("; ".join(different))
        kind, manifest, _ = open_any(staged)
        promise = manifest.model_dump(mode="json") | ({"kind": "vlm"} if kind is PackageKind.VLM else {})
        recipe = Recipe(promise=promise)
        check_layout(staged, recipe)
        _refuse_relabelled(staged, kind, manifest, recipes(self._catalogue).values())
        licence = licence_of(staged, recipe)
        self._consent(licence)
        return describe(staged, revision="", licence=licence)

    def _import_plain(self, staged: Path, recipe: Recipe | None) -> NewPackage:
        known = recipe or recognise(staged, self._catalogue)
        if known is None:
            raise RefusedInputError("neither a manifest nor a layout that is known: say what it is with --as")
        check_layout(staged, known)
        for file in url_listing(known.files).files:
            if digest(staged / file.path, file.algorithm) != file.digest:
                raise ModelPackageError(f"{file.path}: its {file.algorithm} differs from the published one")
        licence = licence_of(staged, known)
        self._consent(licence)
        return seal(staged, known, revision="", licence=licence)

    def _consent(self, licence: Licence) -> None:
        with self._sessions() as session:
            if acceptance(session, licence.package, licence.sha256) is not None:
                return
        accepted = self._ask(licence)
        with unit_of_work(self._sessions, self._actor) as uow:
            write = accept_licence if accepted else refuse_licence
            write(uow, package=licence.package, licence=licence.name, text=licence.text)
        if not accepted:
            raise RefusedInputError(f"{licence.package}: the licence {licence.name} was not accepted; nothing changed")

    def _record(self, staged: Path, new: NewPackage, tag: AuditTag, *, source: str) -> None:
        with unit_of_work(self._sessions, self._actor) as uow:
            add_package(uow, new, tag, source=source)
            self._store.publish(staged, new.folder)


def _refuse_relabelled(staged: Path, kind: PackageKind, manifest: Any, published: Iterable[Recipe]) -> None:
    """Refuse weights published for research only whose manifest says otherwise.

    Raises:
        ModelPackageError: the manifest is not what these weights were published under.
    """
    for known in published:
        same_name = kind is PackageKind.VLM and manifest.name == known.name
        if known.promise.get("research_only") and not manifest.research_only and (same_name or _holds(staged, known)):
            raise ModelPackageError(f"{known.name} is published for research only; its manifest says otherwise")


def _holds(staged: Path, known: Recipe) -> bool:
    """Return whether a published file is among the package's, whatever it is called there."""
    published = {file.digest: file.algorithm for file in url_listing(known.files).files}
    weights = [path for path in staged.iterdir() if path.suffix in {".pt", ".safetensors"}]
    return any(digest(path, algorithm) in published for algorithm in set(published.values()) for path in weights)


def _origin(recipe: Recipe, listing: Listing) -> str:
    return f"{recipe.hub.repo}@{listing.commit}" if recipe.hub else ", ".join(file.url for file in recipe.files)


def _only(staged: Path, wanted: set[str]) -> None:
    """Remove what earlier attempts left: parts of other revisions, manifests of a seal that was not recorded."""
    for path in staged.rglob("*"):
        if path.is_file() and (path.name.endswith(PART) or path.relative_to(staged).as_posix() not in wanted):
            path.unlink()
    for path in sorted(staged.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            shutil.rmtree(path)
