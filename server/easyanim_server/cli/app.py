"""The command line of `easyanim-server`: its commands in the order of the help, exit codes of failures."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from easyanim_server import __version__
from easyanim_server.cli.commands import (
    bench,
    cache,
    convert,
    doctor,
    export,
    fetch,
    fit_cache,
    plan,
    serve,
    tune,
    warm,
)
from easyanim_server.cli.usage import Commands
from easyanim_server.config import environment
from easyanim_server.domain.errors import ConfigurationError, EasyAnimError, UnsupportedModel

EXIT_USAGE = 2
EXIT_FAILED = 1


app = typer.Typer(
    cls=Commands,
    help="EasyAnimate V5 and V5.1 behind a streaming gRPC call.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of no command."""


cache_app = typer.Typer(help=cache.HELP, no_args_is_help=True)
cache_app.command("export", epilog=cache.EXPORT_EPILOG)(cache.export_cache)
cache_app.command("import", epilog=cache.IMPORT_EPILOG)(cache.import_cache)

app.command(epilog=serve.EPILOG)(serve.serve)
app.command(epilog=doctor.EPILOG)(doctor.doctor)
app.command(epilog=warm.EPILOG)(warm.warm)
app.command(epilog=plan.EPILOG)(plan.plan)
app.command("fit-cache", epilog=fit_cache.EPILOG)(fit_cache.fit_cache)
app.command(epilog=export.EPILOG)(export.export)
app.command(epilog=fetch.EPILOG)(fetch.fetch)
app.command(epilog=convert.EPILOG)(convert.convert)
app.command(epilog=bench.EPILOG)(bench.bench)
app.command(epilog=tune.EPILOG)(tune.tune)
app.add_typer(cache_app, name="cache")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line; a line for each wrong setting or file and exit code 2, other failures with a name in 1."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")  # a terminal without Unicode is no reason to fail
    try:
        environment.prepare()  # before any command imports torch
        app(prog_name="easyanim-server")
    except EasyAnimError as error:
        for line in str(error).splitlines():
            print(f"easyanim-server: {line}", file=sys.stderr)
        usage = isinstance(error, (ConfigurationError, UnsupportedModel))
        raise SystemExit(EXIT_USAGE if usage else EXIT_FAILED) from None
    except OSError as error:
        if error.filename is None:  # no file of the user's
            raise
        print(f"easyanim-server: {error.filename}: {error.strerror}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None
