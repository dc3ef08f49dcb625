"""What the ``models`` verbs do: acts on the model store, each with its own event."""

import sys
from pathlib import Path
from typing import Any

import typer
from sqlalchemy.orm import Session, sessionmaker

from config.errors import ModelPackageError
from config.settings import Settings
from db import packages
from db.engine import current_sessions, is_current, make_engine, make_sessions
from db.package_models import Package
from db.packages import NewPackage
from db.types import PackageState
from db.uow import unit_of_work
from firstread.people import actor
from firstread.terminal import console
from worker.store import active, folders
from worker.store.acquire import Acquisition, Ask
from worker.store.folders import Licence, ModelStore
from worker.store.published import Recipe, find_recipe, read_promise

PREFIX = 12
"""How many characters of a licence's SHA-256 are enough to accept it."""

COLUMNS = (
    "name",
    "version",
    "revision",
    "kind",
    "state",
    "licence",
    "accepted",
    "research only",
    "demonstration",
)


def fetch(settings: Settings, name: str, *, revision: str, manifest: Path | None, accepted: str) -> NewPackage:
    """Fetch published weights into the store; see `worker.store.acquire.Acquisition.fetch`."""
    recipe = find_recipe(name, manifest=manifest)
    return _acquisition(settings, accepted).fetch(recipe, revision=revision)


def bring(settings: Settings, path: Path, *, named: str, manifest: Path | None, accepted: str) -> NewPackage:
    """Import a folder or tar into the store; see `worker.store.acquire.Acquisition.bring`."""
    recipe = find_recipe(named) if named else None
    if manifest is not None:
        recipe = Recipe(promise=read_promise(manifest))
    return _acquisition(settings, accepted).bring(path, recipe=recipe)


def stored(settings: Settings) -> tuple[list[tuple[str, ...]], set[str]]:
    """Return the rows of the store, `COLUMNS`, and the places its active packages take."""
    engine = make_engine(settings.database)
    if not is_current(engine):
        return [], set()
    with make_sessions(engine)() as session:
        found = packages.list_packages(session)
        taken = {package.place for package in found if package.state is PackageState.ACTIVE}
        return [_row(session, package) for package in found], taken


def configured(settings: Settings, taken: set[str]) -> list[tuple[str, ...]]:
    """Return the rows of what the configuration names, every file compared; what an active package replaces is marked.

    Raises:
        ModelPackageError: files are not what their manifest says.
        ConfigurationError: the models file cannot be used.
    """
    from worker.experts.registry import ExpertRegistry
    from worker.vlm.package import verify_vlm_package

    cards: list[tuple[str, str, Any]] = []
    # the demonstration model need not have been built where another one drafts
    if settings.vlm_dir.exists() or packages.VLM_PLACE not in taken:
        cards.append(("vlm", packages.VLM_PLACE, verify_vlm_package(settings.vlm_dir).card()))
    experts = ExpertRegistry.open(settings.models.registry).cards()
    cards += [("expert", packages.expert_place(card.name), card) for card in experts]
    return [
        (
            card.name,
            card.version,
            "",
            kind,
            "REPLACED" if place in taken else "CONFIGURED",
            card.licence,
            "configuration",
            "yes" if card.research_only else "no",
            "yes" if card.demonstration else "no",
        )
        for kind, place, card in cards
    ]


def verify(settings: Settings, name: str) -> bool:
    """Compare the files of one package, or of all that are not retired, and print what differs; True when none does.

    Raises:
        RefusedInputError: no such package.
    """
    sessions = current_sessions(settings.database)
    with sessions() as session:
        chosen = (
            [packages.find_package(session, name)]
            if name
            else [p for p in packages.list_packages(session) if p.state is not PackageState.RETIRED]
        )
    differing = [package for package in chosen if _differences(settings, sessions, package)]
    return not differing


def activate(settings: Settings, name: str) -> tuple[Package, str | None]:
    """Let a package draft, after every file was compared; return it and the name of the one it replaces.

    Raises:
        RefusedInputError: no such package, or its licence was not accepted.
        ModelPackageError: a file differs.
        LifecycleError: it is active or retired.
    """
    sessions = current_sessions(settings.database)
    with sessions() as session:
        package = packages.find_package(session, name)
    if _differences(settings, sessions, package):
        raise ModelPackageError(f"{package.name} is not what was recorded: it is not activated")
    with unit_of_work(sessions, actor()) as uow:
        return package, packages.activate(uow, package.id)


def retire(settings: Settings, name: str, *, reason: str, fall_back: bool) -> Package:
    """Take a package out for good; return it as it was.

    Raises:
        RefusedInputError: no such package.
        LifecycleError: it is retired, or active and no fall-back was asked for.
    """
    sessions = current_sessions(settings.database)
    with sessions() as session:
        package = packages.find_package(session, name)
    with unit_of_work(sessions, actor()) as uow:
        packages.retire(uow, package.id, reason=reason, fall_back=fall_back)
    return package


def _acquisition(settings: Settings, accepted: str) -> Acquisition:
    store = ModelStore(active.models_dir(settings))
    return Acquisition(store, current_sessions(settings.database), actor(), _asking(accepted.lower()))


def _asking(accepted: str) -> Ask:
    def ask(licence: Licence) -> bool:
        console.print(licence.text, highlight=False, markup=False, soft_wrap=True)
        console.print(
            f"licence of {licence.package}: {licence.name}, SHA-256 {licence.sha256}", highlight=False, soft_wrap=True
        )
        if accepted:
            return len(accepted) >= PREFIX and licence.sha256.startswith(accepted)
        if not sys.stdin.isatty():
            console.print("nobody can be asked here: read the text, then give its SHA-256 with --accept-licence")
            return False
        return typer.confirm("Do you accept this licence for this site?", default=False)

    return ask


def _differences(settings: Settings, sessions: sessionmaker[Session], package: Package) -> list[str]:
    """Compare, record and print; return what differs."""
    folder = ModelStore(active.models_dir(settings)).path(package.folder)
    different = folders.faults(folder, package.manifest_sha256)
    with unit_of_work(sessions, actor()) as uow:
        packages.record_verification(uow, package, different)
    for fault in different:
        console.print(f"{package.name}: {fault}", highlight=False, markup=False, soft_wrap=True)
    if not different:
        console.print(f"{package.name} {package.version}: every file as recorded", highlight=False)
    return different


def _row(session: Session, package: Package) -> tuple[str, ...]:
    accepted = packages.acceptance(session, package.name, package.licence_sha256)
    return (
        package.name,
        package.version,
        package.revision[:12],
        package.kind.value,
        package.state.value,
        package.licence,
        f"{accepted.accepted_by}, {accepted.accepted_at:%Y-%m-%d %H:%M}" if accepted else "no",
        "yes" if package.research_only else "no",
        "yes" if package.demonstration else "no",
    )
