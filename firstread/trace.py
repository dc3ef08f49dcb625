"""``firstread trace``: what became of one Study."""

from typing import Annotated

import typer

from firstread.terminal import DataDir


def trace(
    study: Annotated[str, typer.Argument(help="Accession Number, Study or SOP Instance UID, or a study's id.")],
    data_dir: DataDir = None,
) -> None:
    """Print as JSON what became of one Study: association, Instances, timer, rules, queue, model, deliveries."""
    del study, data_dir
    raise typer.Exit(2)
