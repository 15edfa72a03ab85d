"""What all commands have in common: where the server is, exit codes, and how failures are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from easyanim_client.errors import (
    DeadlineExceeded,
    EasyAnimError,
    InvalidRequest,
    RetryLater,
    ServerFailed,
    Unavailable,
    told,
)

ADDRESS_VARIABLE = "EASYANIM_CLIENT_ADDRESS"

EXIT_CODES: tuple[tuple[type[EasyAnimError], int], ...] = (
    (InvalidRequest, 2),
    (Unavailable, 3),
    (RetryLater, 4),
    (DeadlineExceeded, 5),
    (EasyAnimError, 6),
)
"""By the first class that fits."""
NOT_SERVING = 3
JOBS_FAILED = REPLAY_DIFFERS = 7
NOT_CONFIRMED = 8

EPILOG = """Exit codes:
0    the video is complete; the server is serving
2    wrong usage, an invalid request, or a file that cannot be read or written
3    the server cannot be reached, is unavailable, or is not serving
4    the server's queue is full
5    the timeout passed
6    the server failed, or sent a corrupt video
7    replay: the video is not the same; batch: a job failed
8    the draft is there, and nobody confirmed the final video
130  Ctrl-C; the server was told to stop
143  SIGTERM; the server was told to stop
"""


def epilog(*examples: str, before: str = "") -> str:
    """The end of a command's help: examples, one a line, and the exit codes."""
    return "\n".join(["Examples:", *examples, "", before + EPILOG])


def _checked_address(value: str) -> str:
    """Refuse what gRPC would take for the address of something else."""
    if ":" not in value or value.startswith(("http:", "https:")):
        raise typer.BadParameter(f"{value!r} must be HOST:PORT, such as localhost:50051")
    return value


Address = Annotated[
    str,
    typer.Option(metavar="HOST:PORT", envvar=ADDRESS_VARIABLE, callback=_checked_address, help="Where the server is."),
]
Tls = Annotated[bool, typer.Option("--tls", help="Connect with TLS, trusting gRPC's own roots.")]
Timeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", min=0.001, help="Until the work is given up. Default: no limit.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts.")]


@contextmanager
def reported(on_cancel: str = "Cancelled; the server was told to stop.") -> Iterator[None]:
    """Say on stderr what went wrong and exit with its code."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(on_cancel, err=True)
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise  # typer ends in silence when nobody reads stdout any more
    except (EasyAnimError, OSError) as error:
        for line in explanation(error):
            typer.echo(line, err=True)
        codes = (code for kind, code in EXIT_CODES if isinstance(error, kind))
        raise typer.Exit(next(codes, 2)) from error


def explanation(error: EasyAnimError | OSError) -> Iterator[str]:
    """What went wrong, and what the caller can do about it, in lines."""
    if isinstance(error, InvalidRequest) and error.violations:
        yield "Error: the request is invalid"
        for violation in error.violations:
            yield f"  {violation.field}: {violation.description}"
        return
    yield f"Error: {told(error)}"
    if isinstance(error, Unavailable) and not error.reason:  # nobody of ours answered
        yield f"  is a server there? easyanim-server serve starts one; --address or {ADDRESS_VARIABLE} says where it is"
    if isinstance(error, RetryLater) and error.retry_after is not None:
        yield f"  try again in {error.retry_after:g} s"
    if isinstance(error, ServerFailed) and error.error_id not in str(error):
        yield f"  the server's log has more under error id {error.error_id}"
