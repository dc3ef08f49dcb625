"""``firstread release``: what goes with a release for whoever has to approve it (IEC 62304, ISO 14971, 21 CFR 11)."""

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from config.durable import write_durably
from config.errors import AppError, ConfigurationError
from config.settings import ROOT
from firstread.terminal import console, refuse
from firstread.traceability import HAZARDS, REQUIREMENTS, Matrix, defects, read_matrix
from firstread.traceability_page import traceability_page

release_app = typer.Typer(no_args_is_help=True, help="Traceability, bill of materials, technical file of a release.")
PAGE = "docs/traceability.md"
INTENDED_USE = "docs/intended-use.md"
SUMS = "SHA256SUMS"


@release_app.command("matrix")
def release_matrix(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 when something is wrong.")] = False,
) -> None:
    """Write docs/traceability.md anew from hazard log, requirements and markers; exit 1 when there is a gap."""
    try:
        matrix = read_matrix(ROOT)
    except AppError as exc:
        raise refuse(exc) from exc
    wrong = _wrong(matrix, ROOT) if check else defects(matrix, ROOT)
    if not check:
        write_durably(ROOT / PAGE, traceability_page(matrix).encode())
    for line in wrong:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not wrong:
        console.print(f"{PAGE} is {'up to date' if check else 'written'}", highlight=False)
    raise typer.Exit(1 if wrong else 0)


@release_app.command("sbom")
def release_sbom(
    out: Annotated[Path, typer.Option("--out", help="The file to write.", dir_okay=False)],
) -> None:
    """Write the CycloneDX 1.6 bill of materials and print the SHA-256 of the lock."""
    from firstread.sbom import LOCK, bill_of_materials, sha256

    try:
        write_durably(out, bill_of_materials(ROOT).encode())
    except AppError as exc:
        raise refuse(exc) from exc
    console.print(f"{sha256(ROOT / LOCK)}  {LOCK}", highlight=False, soft_wrap=True)


@release_app.command("evidence")
def release_evidence(
    out: Annotated[Path, typer.Option("--out", help="Folder for the technical file; made when absent.")],
) -> None:
    """Put the technical file of this release together, with the SHA-256 of each document in it."""
    try:
        documents = technical_file(ROOT)
    except AppError as exc:
        raise refuse(exc) from exc
    out.mkdir(parents=True, exist_ok=True)
    for name, content in documents.items():
        write_durably(out / name, content)
    console.print(f"{len(documents)} documents in {out}; verify with: sha256sum -c {SUMS}", highlight=False)


def technical_file(root: Path) -> dict[str, bytes]:
    """Return the documents of a release by name; the last, ``SHA256SUMS``, is over all the others.

    Raises:
        ConfigurationError: the matrix has gaps or its page is old: such a release is none.
    """
    from firstread.sbom import LOCK, bill_of_materials

    wrong = _wrong(read_matrix(root), root)
    if wrong:
        raise ConfigurationError(f"the matrix is not whole: {wrong[0]} (firstread release matrix --check lists all)")
    names = (PAGE, HAZARDS, REQUIREMENTS, INTENDED_USE, LOCK, "CHANGELOG.md", "LICENSE")
    documents = {Path(name).name: (root / name).read_bytes() for name in names}
    documents["sbom.cdx.json"] = bill_of_materials(root).encode()
    sums = (f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(documents.items()))
    return documents | {SUMS: "".join(sums).encode()}


def _wrong(matrix: Matrix, root: Path) -> list[str]:
    """Return the defects of the matrix, and whether its page is another than the generated one."""
    page = root / PAGE
    stale = not page.is_file() or page.read_bytes() != traceability_page(matrix).encode()
    return [*defects(matrix, root), *([f"{PAGE} is not up to date: run make traceability"] if stale else [])]
