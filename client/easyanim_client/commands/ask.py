"""`info`, `health` and `lint-prompt`: questions that never wait for the GPU."""

from __future__ import annotations

import dataclasses
import json as json_module
import time
from typing import Annotated

import typer

from easyanim_client.client import Client
from easyanim_client.commands.shared import NOT_SERVING, Address, Json, Tls, reported
from easyanim_client.core import INQUIRY_TIMEOUT
from easyanim_client.errors import DeadlineExceeded, Unavailable
from easyanim_client.render import info_json, info_summary, warning_lines

POLL_SECONDS = 0.5
"""Between two looks at a server that `health --wait` waits for."""


def info(address: Address = "localhost:50051", tls: Tls = False, json: Json = False) -> None:
    """Show what the server serves: model, buckets, limits."""
    with reported(json=json), Client(address, tls=tls) as client:
        served = client.info()
        typer.echo(info_json(served) if json else info_summary(served))


def lint_prompt(
    prompt: Annotated[str, typer.Argument(help="What happens in the video, in English or Chinese.")],
    negative: Annotated[str | None, typer.Option(help="What to avoid. Default: the model's text.")] = None,
    address: Address = "localhost:50051",
    tls: Tls = False,
    json: Json = False,
) -> None:
    """Count a prompt's tokens and say what the model is likely to misread.

    Nothing is generated and no text is changed; a warning is advice, so the exit code is 0 with it too.
    """
    with reported(json=json), Client(address, tls=tls) as client:
        reading = client.lint_prompt(prompt, negative)
    if json:
        typer.echo(json_module.dumps(dataclasses.asdict(reading), ensure_ascii=False))
        return
    typer.echo(f"{reading.tokens} of {reading.max_tokens} tokens" + (", too long" if reading.truncated else ""))
    if len(reading.tokenizers) > 1:
        for item in reading.tokenizers:
            typer.echo(f"  {item.name}: {item.tokens} of {item.max_tokens}")
    for line in warning_lines(reading.warnings):
        typer.echo(line)
    if not reading.warnings:
        typer.echo("nothing to say about it")


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
    raise typer.Exit(0 if serving else NOT_SERVING)
