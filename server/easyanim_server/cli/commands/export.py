"""The command `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from easyanim_server.cli.flags import examples
from easyanim_server.config import environment

EPILOG = examples("easyanim-server export ./tiny", "easyanim-server serve --model ./tiny")


def export(
    folder: Annotated[Path, typer.Argument(help="Where to write; must be empty or new.")],
    model: Annotated[str, typer.Option(help="What to write.")] = "builtin:tiny",
) -> None:
    """Write a model as a diffusers folder, which `serve --model FOLDER` and diffusers itself can load."""
    environment.temporary_folder()
    from easyanim_server.cli import tools

    tools.export(model, folder)
    typer.echo(f"wrote {model} to {folder}")
