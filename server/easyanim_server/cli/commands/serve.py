"""The command `serve`."""

from __future__ import annotations

import asyncio

import structlog

from easyanim_server.catalog import DEFAULT_MODEL
from easyanim_server.cli.flags import SOURCES, examples, with_settings
from easyanim_server.config import checks as preflight
from easyanim_server.config import environment
from easyanim_server.config.settings import Settings
from easyanim_server.rpc.server import serve as serve_app
from easyanim_server.telemetry import output
from easyanim_server.telemetry.log import configure_logging
from easyanim_server.workers.process import LocalWorker

log = structlog.get_logger(__name__)

EPILOG = examples(
    f"easyanim-server serve  # {DEFAULT_MODEL}",
    "easyanim-server serve --model builtin:demo  # on any machine",
    "easyanim-server serve --buckets 384x672,672x384 --listen 0.0.0.0:50051",
    "easyanim-server serve --config easyanim.toml --log-format json",
    before=SOURCES,
)


@with_settings
def serve(settings: Settings) -> None:
    """Load the model, warm every bucket, serve until SIGTERM or SIGHUP."""
    preflight.check(settings)
    preflight.check_device(settings.device)
    preflight.check_address(settings.listen)
    configure_logging(settings.log_format, settings.log_level)
    output.keep_writable()
    cache = environment.cache_folder(settings.cache_dir)
    if environment.will_not_last(cache):
        log.warning("the home folder cannot be written; compiled code goes with temporary files", folder=str(cache))
    asyncio.run(
        serve_app(settings, LocalWorker(settings), lambda address: print(f"listening on {address}", flush=True))
    )
