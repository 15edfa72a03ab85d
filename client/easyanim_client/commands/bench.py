"""`easyanim-client bench`: the command around `easyanim_client.bench`."""

from __future__ import annotations

import asyncio
import dataclasses
import json as json_format
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from easyanim_client.aio import AsyncClient
from easyanim_client.bench import PERCENTILES, Load, Report, run
from easyanim_client.commands.shared import Address, Json, Tls, reported
from easyanim_client.wording import counted

LABELS = {
    "first_event_seconds": "time to first event",
    "largest_gap_seconds": "largest gap between events",
    "queue_seconds": "queue wait",
    "first_chunk_seconds": "first frames to first chunk",
    "total_seconds": "whole call",
    "cancel_seconds": "cancel latency",
    "chunk_bytes_per_second": "chunk throughput",
}


def bench(
    requests: Annotated[int, typer.Option(min=1, help="How many requests in all.")] = 10,
    concurrency: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 1,
    deadline: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds that each may take; goodput counts those that make it.")
    ] = None,
    cancel_after: Annotated[
        float | None,
        typer.Option(min=0, help="Cancel each so many seconds after its first progress; needs an idle server."),
    ] = None,
    prompt: Annotated[str, typer.Option(help="What happens in the videos.")] = "steam rises from the cup",
    image: Annotated[
        Path | None, typer.Option("--image", exists=True, dir_okay=False, help="First frame: PNG, JPEG or WebP.")
    ] = None,
    bucket: Annotated[str | None, typer.Option(help="Height by width, such as 384x672.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames in a video. Default: the bucket's largest.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. Default: the profile's.")] = None,
    address: Address = "localhost:50051",
    tls: Tls = False,
    json: Json = False,
) -> None:
    """Measure what a caller sees: first event, gaps, queue wait, chunks, cancel latency, goodput under a deadline.

    The videos are received, verified and dropped. With --json, stdout has the table's numbers and every request's.
    """
    if cancel_after is not None and concurrency != 1:
        raise typer.BadParameter("is for one request at a time, without --concurrency", param_hint="--cancel-after")
    arguments = {"prompt": prompt, "start_image": image, "bucket": bucket, "frames": frames, "steps": steps}
    load = Load(requests, concurrency, deadline, cancel_after, arguments)
    with reported(json=json):
        report = asyncio.run(_measure(address, tls, load))
    if json:
        typer.echo(as_json(report))
    else:
        show(report, Console())
    if report.unexpected:
        invalid = all(sample.outcome == "invalid_request" for sample in report.unexpected)
        raise typer.Exit(2 if invalid else 6)


async def _measure(address: str, tls: bool, load: Load) -> Report:
    async with AsyncClient(address, tls=tls) as client:
        await client.info()  # an unreachable server is one error and not as many as requests
        return await run(client, load)


def as_json(report: Report) -> str:
    """Every number of a report, as one line."""
    return json_format.dumps(
        {
            "wall_seconds": report.wall_seconds,
            "deadline_seconds": report.deadline,
            "goodput_per_minute": report.goodput_per_minute,
            "outcomes": report.outcomes,
            "metrics": report.metrics(),
            "samples": [dataclasses.asdict(sample) for sample in report.samples],
        }
    )


def show(report: Report, console: Console) -> None:
    """A table of the distributions, and lines on how the requests ended."""
    columns = [f"p{share}" for share in PERCENTILES] + ["max"]
    table = Table("measured", "count", *columns, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, spread in report.metrics().items():
        form = _rate if name.endswith("_per_second") else _time
        table.add_row(LABELS[name], str(spread["count"]), *(form(spread[column]) for column in columns))
    console.print(table)
    console.print()
    ends = ", ".join(f"{count} {outcome}" for outcome, count in report.outcomes.items())
    within = "" if report.deadline is None else f" within {report.deadline:g} s"
    console.print(f"{counted(len(report.samples), 'request')} in {report.wall_seconds:.1f} s: {ends}", highlight=False)
    if restarts := sum(sample.restarts for sample in report.samples):
        console.print(f"restarts: {restarts}, where the server lost its worker", highlight=False)
    console.print(f"goodput: {report.goodput_per_minute:.1f} videos a minute{within}", highlight=False)
    for message in sorted({f"{sample.outcome}: {sample.message}" for sample in report.unexpected}):
        console.print(f"unexpected: {message}", markup=False, highlight=False)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _rate(bytes_per_second: float) -> str:
    return f"{decimal(round(bytes_per_second))}/s"
