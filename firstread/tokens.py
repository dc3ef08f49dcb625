"""``firstread tokens``: bearer tokens of DICOMweb clients."""

import typer

tokens_app = typer.Typer(no_args_is_help=True, help="Bearer tokens of DICOMweb clients.")
