"""The command `warm`."""

from __future__ import annotations

import typer

from easyanim_server.cli.flags import SOURCES, examples, with_settings
from easyanim_server.config import checks as preflight
from easyanim_server.config.settings import Settings
from easyanim_server.telemetry.log import configure_logging

EPILOG = examples("easyanim-server warm --buckets 384x672 --cache-dir /var/cache/easyanim", before=SOURCES)


@with_settings
def warm(settings: Settings) -> None:
    """Build every bucket, so that later starts find compiled code in the cache."""
    preflight.check(settings)
    from easyanim_server.cli import tools

    configure_logging(settings.log_format, settings.log_level)
    for line in tools.warm(settings, lambda detail: typer.echo(detail, err=True)):
        typer.echo(line)
