"""What all commands have in common: where the server is, exit codes, and how failures are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

import typer

from easyanim_client.core import check_address
from easyanim_client.errors import (
    NO_TLS,
    UNTRUSTED,
    WANTS_TLS,
    DeadlineExceeded,
    EasyAnimError,
    InvalidRequest,
    RetryLater,
    ServerFailed,
    Unavailable,
    told,
)
from easyanim_client.options import OPTIONS
from easyanim_client.proxies import proxy_of
from easyanim_client.render import failure_json

ADDRESS_VARIABLE = "EASYANIM_CLIENT_ADDRESS"

EXIT_CODES: tuple[tuple[type[EasyAnimError], int], ...] = (
    (InvalidRequest, 2),
    (Unavailable, 3),
    (RetryLater, 4),
    (DeadlineExceeded, 5),
    (EasyAnimError, 6),
)
"""By the first class that fits."""
FLAGS: Mapping[str, str] = {
    **{field: option.flag for option in OPTIONS[1:] for field in option.fields},
    "output_mime_type": "--out",  # by its suffix
    "draft_bucket": "--draft-bucket",
    "draft_steps": "--draft-steps",
}
"""What gives the fields of a request where a command has them as options."""

HINTS: Mapping[str, str] = {
    NO_TLS: "leave out --tls, unless something else than an easyanim server listens there",
    WANTS_TLS: "give --tls if the server wants TLS; through a tunnel, see whether a server runs at its other end",
    UNTRUSTED: "--tls trusts gRPC's own roots; GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names a file with others",
}
"""What can be done about a server that cannot be talked to, by what the failure says."""

NOBODY = f"is a server there? easyanim-server serve starts one; --address or {ADDRESS_VARIABLE} says where it is"

NOT_SERVING = 3
JOBS_FAILED = REPLAY_DIFFERS = 7
NOT_CONFIRMED = 8

EPILOG = """Exit codes:
0    the video is complete; the server is serving
2    wrong usage, an invalid request, or a file that cannot be read or written
3    the server cannot be reached, is unavailable, or is not serving
4    the server has no room now: its queue, request memory, picture decoders or disk are in use
5    the timeout passed
6    the server failed, or sent a corrupt video
7    replay: the video is not the same; batch: a job failed
8    the draft is there, and nobody confirmed the final video
130  Ctrl-C; the server was told to stop
143  SIGTERM; the server was told to stop
"""


_ADDRESS: ContextVar[str] = ContextVar("address", default="")
"""Where this command's server is said to be."""


def epilog(*examples: str, before: str = "") -> str:
    """The end of a command's help: examples, one a line, and the exit codes."""
    return "\n".join(["Examples:", *examples, "", before + EPILOG])


def _checked_address(value: str) -> str:
    """Refuse what gRPC would take for the address of something else."""
    try:
        check_address(value)
    except InvalidRequest as error:
        raise typer.BadParameter(error.violations[0].description) from error
    _ADDRESS.set(value)
    return value


Address = Annotated[
    str,
    typer.Option(metavar="HOST:PORT", envvar=ADDRESS_VARIABLE, callback=_checked_address, help="Where the server is."),
]
Tls = Annotated[bool, typer.Option("--tls", help="Connect with TLS, trusting gRPC's own roots.")]
Timeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", min=0.001, help="Until the work is given up. Default: no limit.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist already.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts; a failure too.")]


def refuse_taken(option: str, file: Path | None, *, force: bool) -> None:
    """Refuse the name of a file that is there, before any work for it.

    Raises:
        BadParameter: names the option and what replaces the file.
    """
    if file is not None and not force and file.is_file():
        raise typer.BadParameter(f"{str(file)!r} exists already; --force replaces it", param_hint=option)


@contextmanager
def reported(
    on_cancel: str = "Cancelled; the server was told to stop.",
    *,
    json: bool = False,
    options: Mapping[str, str] = FLAGS,
) -> Iterator[None]:
    """Say on stderr what went wrong and exit with its code.

    Args:
        on_cancel: What Ctrl-C did.
        json: Whether stdout gets a failure too, as its last line.
        options: Those of the command by the field that they give.
    """
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(on_cancel, err=True)
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise  # typer ends in silence when nobody reads stdout any more
    except (EasyAnimError, OSError) as error:
        for line in explanation(error, options):
            typer.echo(line, err=True)
        if json:
            typer.echo(failure_json(error))
        codes = (code for kind, code in EXIT_CODES if isinstance(error, kind))
        raise typer.Exit(next(codes, 2)) from error


def explanation(error: EasyAnimError | OSError, options: Mapping[str, str] = FLAGS) -> Iterator[str]:
    """What went wrong, and what the caller can do about it, in lines."""
    if isinstance(error, InvalidRequest) and error.violations:
        yield "Error: the request is invalid"
        for violation in error.violations:
            option = f" ({options[violation.field]})" if violation.field in options else ""
            yield f"  {violation.field}{option}: {violation.description}"
        return
    yield f"Error: {told(error)}"
    if isinstance(error, Unavailable) and not error.reason:  # nobody of ours answered
        proxy = proxy_of(_ADDRESS.get())
        if proxy:
            yield f"  {_ADDRESS.get()} is reached through the proxy {proxy[1]} ({proxy[0]}); no_proxy lists exceptions"
        yield f"  {HINTS.get(str(error), NOBODY)}"
    if isinstance(error, RetryLater) and error.retry_after is not None:
        yield f"  try again in {error.retry_after:g} s"
    if isinstance(error, ServerFailed) and error.error_id not in str(error):
        yield f"  the server's log has more under error id {error.error_id}"
