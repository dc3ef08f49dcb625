"""What drafts now: the site's active packages in place of what its configuration names."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from config.errors import ModelPackageError
from config.settings import Settings
from db.engine import is_current, make_engine, make_sessions
from db.packages import ActivePackage, active_packages, retired_manifests
from db.types import PackageKind
from worker.experts import packages as experts
from worker.experts.registry import package_sources
from worker.experts.sources import ExpertSource, installed_sources, read_models_file
from worker.store.folders import ModelStore, open_any


@dataclass(frozen=True)
class Drafting:
    """The packages in force at one moment; equal as long as nothing was activated or retired.

    Attributes:
        active: packages people activated.
        retired: SHA-256 of the manifests of packages that never draft again.
    """

    active: tuple[ActivePackage, ...]
    retired: frozenset[str]

    @property
    def vlm(self) -> ActivePackage | None:
        """The active vision-language model; None when the configured one drafts."""
        return next((package for package in self.active if package.kind is PackageKind.VLM), None)

    @property
    def experts(self) -> tuple[ActivePackage, ...]:
        """The active Experts."""
        return tuple(package for package in self.active if package.kind is PackageKind.EXPERT)


@dataclass(frozen=True)
class ExpertOffer:
    """What `ExpertRegistry` and its ``replace`` take.

    Attributes:
        sources: packages, every file checked, and plug-ins.
        accepted_licences: by configuration and by acceptance in the store.
    """

    sources: tuple[ExpertSource, ...]
    accepted_licences: frozenset[str]


def models_dir(settings: Settings) -> Path:
    """Return the folder of the model store."""
    return settings.data_dir.resolve() / "models" / "store"


def drafting(session: Session) -> Drafting:
    """Ask the record what drafts now: two small statements."""
    return Drafting(tuple(active_packages(session)), retired_manifests(session))


def drafting_of(settings: Settings) -> Drafting:
    """Return what drafts now, for processes without sessions; before there is a database nothing was decided."""
    engine = make_engine(settings.database)
    try:
        if not is_current(engine):
            return Drafting((), frozenset())
        with make_sessions(engine)() as session:
            return drafting(session)
    finally:
        engine.dispose()


def vlm_folder(settings: Settings, now: Drafting) -> Path:
    """Return the folder of the vision-language model in force.

    Raises:
        ModelPackageError: it was retired, or its manifest is not the one that was activated.
    """
    if now.vlm is None:
        _refuse_retired(settings.vlm_dir, now.retired)
        return settings.vlm_dir
    folder = ModelStore(models_dir(settings)).path(now.vlm.folder)
    _require_recorded(folder, now.vlm)
    return folder


def expert_offer(settings: Settings, now: Drafting) -> ExpertOffer:
    """Return the Experts in force: configured packages and plug-ins, each replaced by an active one of its name.

    Every file is compared with its manifest, so ask only when ``now`` changed.

    Raises:
        ConfigurationError: the models file cannot be used.
        ModelPackageError: a package is altered or retired, or a plug-in is broken.
    """
    listed = read_models_file(settings.models.registry)
    store = ModelStore(models_dir(settings))
    taken = {package.name for package in now.experts}
    folders = []
    for folder in (settings.models.registry.parent / name for name in listed.experts):
        if experts.open_package(folder).manifest.name not in taken:
            _refuse_retired(folder, now.retired)
            folders.append(folder)
    for active in now.experts:
        _require_recorded(store.path(active.folder), active)
        folders.append(store.path(active.folder))
    plugins = [source for source in installed_sources() if source.card.name not in taken]
    # activating one asked for its licence already
    accepted = {*listed.accepted_licences, *(package.licence for package in now.experts)}
    return ExpertOffer((*package_sources(folders, plugins=False), *plugins), frozenset(accepted))


def _require_recorded(folder: Path, package: ActivePackage) -> None:
    _, _, file = open_any(folder)
    if experts.file_sha256(folder / file) != package.manifest_sha256:
        raise ModelPackageError(f"{package.name}: {file} is altered: it is not the manifest that was activated")


def _refuse_retired(folder: Path, retired: frozenset[str]) -> None:
    if not retired:
        return
    _, manifest, file = open_any(folder)
    if experts.file_sha256(folder / file) in retired:
        raise ModelPackageError(f"{manifest.name} {manifest.version} was retired: it never drafts again")
