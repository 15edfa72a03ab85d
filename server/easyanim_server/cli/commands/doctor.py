"""The command `doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from easyanim_server.cli.doctor import report
from easyanim_server.cli.flags import SOURCES, examples, with_settings
from easyanim_server.config.settings import Settings

EPILOG = examples("easyanim-server doctor --config easyanim.toml", before=SOURCES)


@with_settings
def doctor(
    settings: Settings,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")] = False,
) -> None:
    """Say what this machine can do and what is missing for these settings."""
    raise typer.Exit(report(settings, as_json=json))
