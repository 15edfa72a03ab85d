"""The command `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from easyanim_server.cli.flags import described, examples
from easyanim_server.config import environment, model_checks
from easyanim_server.config.settings import Settings

EPILOG = examples("easyanim-server convert ./EasyAnimateV5.1-7b-zh-InP ./EasyAnimateV5.1-7b-zh-InP-diffusers")


def convert(
    source: Annotated[str, typer.Argument(help="A folder in the authors' layout, or an id.")],
    target: Annotated[Path, typer.Argument(help="Where to write; there must be nothing yet.")],
    revision: Annotated[str | None, typer.Option(help=described("revision"))] = None,
) -> None:
    """Write a model of EasyAnimate's own layout as a diffusers folder; `serve` reads either, so it need not be."""
    settings = Settings.load({"model": source, **({"revision": revision} if revision else {})})
    model_checks.check_model(settings.model, settings.revision)
    environment.temporary_folder()
    from easyanim_server.cli import tools

    tools.convert(settings.model, settings.revision, target)
    typer.echo(f"wrote {settings.model} to {target}")
