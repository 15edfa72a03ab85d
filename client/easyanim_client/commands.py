"""The commands of `easyanim-client`, thin over Client; the only importer of typer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console

from easyanim_client.client import Client
from easyanim_client.core import INQUIRY_TIMEOUT
from easyanim_client.errors import (
    DeadlineExceeded,
    EasyAnimError,
    InvalidRequest,
    RetryLater,
    ServerFailed,
    Unavailable,
)
from easyanim_client.render import Show, event_json, info_json, info_summary, progress, video_summary
from easyanim_client.request import Fit
from easyanim_client.top import watch

POLL_SECONDS = 0.5
"""Between two looks at a server that `health --wait` waits for."""

EXIT_CODES: tuple[tuple[type[EasyAnimError], int], ...] = (
    (InvalidRequest, 2),
    (Unavailable, 3),
    (RetryLater, 4),
    (DeadlineExceeded, 5),
    (EasyAnimError, 6),
)
"""By the first class that fits."""

EPILOG = """Exit codes:
0    the video is complete; the server is serving
2    wrong usage, an invalid request, or a file that cannot be read or written
3    the server cannot be reached, is unavailable, or is not serving
4    the server's queue is full
5    the timeout passed
6    the server failed, or sent a corrupt video
130  Ctrl-C; the server was told to stop
143  SIGTERM; the server was told to stop
"""

app = typer.Typer(
    help="Turns a picture and a sentence into a video on an easyanim server.",
    epilog=EPILOG,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Address = Annotated[str, typer.Option(metavar="HOST:PORT", help="The server.")]
Tls = Annotated[bool, typer.Option("--tls", help="Connect with TLS, trusting gRPC's own roots.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts.")]


@app.command(epilog=EPILOG)
def generate(
    prompt: Annotated[str, typer.Argument(help="What happens in the video.", show_default=False)],
    image: Annotated[
        Path | None, typer.Option("--image", exists=True, dir_okay=False, help="First frame: PNG, JPEG or WebP.")
    ] = None,
    end_image: Annotated[
        Path | None, typer.Option("--end-image", exists=True, dir_okay=False, help="Last frame; needs --image.")
    ] = None,
    out: Annotated[
        Path, typer.Option(dir_okay=False, help="File to write; its suffix .mp4, .webm or .mkv is the format.")
    ] = Path("out.mp4"),
    bucket: Annotated[str | None, typer.Option(help="Height by width, such as 384x672.")] = None,
    aspect: Annotated[str | None, typer.Option(help="Width over height, such as 16:9, instead of --bucket.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames in the video. Default: the bucket's largest.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. Default: 35.")] = None,
    guidance: Annotated[float | None, typer.Option(help="1 (off) to 20. Default: 6.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise. Default: drawn.")] = None,
    fps: Annotated[int | None, typer.Option(help="Frames per second. Default: 8.")] = None,
    fit: Annotated[str, typer.Option(help="Pictures of another aspect: crop, pad or stretch.")] = "crop",
    negative: Annotated[str | None, typer.Option(help="What to avoid. Default: the model's text.")] = None,
    address: Address = "localhost:50051",
    tls: Tls = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds until the work is given up. Default: none.")] = None,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Generate one video and save it.

    Progress goes to stderr, one line on the saved video to stdout.
    With --json, stdout has one object per event; the last one holds the receipt.
    """
    shown: AbstractContextManager[Show]
    if json:
        shown = nullcontext(lambda event: typer.echo(event_json(event)))
    elif quiet:
        shown = nullcontext(lambda event: None)
    else:
        shown = progress(Console(stderr=True))
    with reported(), Client(address, tls=tls, timeout=timeout) as client:
        generation = client.generate(
            prompt,
            start_image=image,
            end_image=end_image,
            negative_prompt=negative,
            bucket=bucket,
            aspect_ratio=aspect,
            frames=frames,
            fit=cast(Fit, fit),  # the client refuses others
            steps=steps,
            guidance=guidance,
            seed=seed,
            fps=fps,
            save_to=out,
        )
        with shown as show:
            for event in generation:
                show(event)
        if not json:
            typer.echo(video_summary(generation.result()))


@app.command(epilog=EPILOG)
def info(address: Address = "localhost:50051", tls: Tls = False, json: Json = False) -> None:
    """Show what the server serves: model, buckets, limits."""
    with reported(), Client(address, tls=tls) as client:
        served = client.info()
        typer.echo(info_json(served) if json else info_summary(served))


@app.command(epilog=EPILOG)
def health(
    address: Address = "localhost:50051",
    tls: Tls = False,
    wait: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Wait so long for it to serve.")] = 0.0,
) -> None:
    """Exit with 0 if the server is serving, else with 3."""
    deadline = time.monotonic() + wait
    with reported():
        while True:
            left = deadline - time.monotonic()
            try:
                # A new connection each time: an old one would sit out gRPC's pause between attempts.
                with Client(address, tls=tls) as client:
                    serving = client.health(timeout=min(INQUIRY_TIMEOUT, max(left, 1.0)))
            except (Unavailable, DeadlineExceeded) as error:
                if left <= POLL_SECONDS:
                    raise Unavailable(str(error)) from error
                serving = False
            if serving or left <= POLL_SECONDS:
                break
            time.sleep(POLL_SECONDS)
    typer.echo("serving" if serving else "not serving")
    raise typer.Exit(0 if serving else 3)


@app.command(epilog=EPILOG)
def top(
    address: Address = "localhost:50051",
    tls: Tls = False,
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one picture of the server and exit.")] = False,
) -> None:
    """Watch a server live: its queue, the running step and its ETA, the GPU's memory. Ctrl-C ends it."""
    with reported(), Client(address, tls=tls) as client:
        watch(client.info, address, Console(), interval=interval, once=once)


@contextmanager
def reported() -> Iterator[None]:
    """Say on stderr what went wrong and exit with its code."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Cancelled; the server was told to stop.", err=True)
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
    yield f"Error: {error}"
    if isinstance(error, RetryLater) and error.retry_after is not None:
        yield f"  try again in {error.retry_after:g} s"
    if isinstance(error, ServerFailed) and error.error_id not in str(error):
        yield f"  the server's log has more under error id {error.error_id}"
