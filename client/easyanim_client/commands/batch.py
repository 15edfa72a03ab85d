"""`batch`: many videos from a file of jobs or a folder of pictures."""

from __future__ import annotations

import asyncio
import textwrap
from contextlib import AbstractContextManager, nullcontext
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from easyanim_client.aio import AsyncClient
from easyanim_client.batch import Batch, Summary, View
from easyanim_client.batch_jobs import check_offered, left_out, read_jobs
from easyanim_client.batch_view import Rows, Silent, batch_progress
from easyanim_client.commands.flags import with_flags
from easyanim_client.commands.shared import JOBS_FAILED, Address, Json, Quiet, Tls, reported
from easyanim_client.options import OPTIONS

JobTimeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", min=0.001, help="For each job. Default: no limit.")
]


@with_flags(before="retries", of_batch=True)
def batch(
    source: Annotated[
        Path, typer.Argument(exists=True, metavar="JOBS", help="A .jsonl file, or a folder of pictures.")
    ],
    out_dir: Annotated[Path, typer.Option(file_okay=False, help="For videos, results.jsonl and seeds.json.")] = Path(
        "videos"
    ),
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Jobs at the server at once.")] = 2,
    retries: Annotated[int, typer.Option(min=0, help="Of a job that was lost while the server worked on it.")] = 2,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to wait for a full or absent server.")] = 600.0,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace other videos of a job's name. Default: the new one is numbered."),
    ] = False,
    address: Address = "localhost:50051",
    tls: Tls = False,
    timeout: JobTimeout = None,
    json: Json = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Make many videos, several at once; run it again to go on where it ended.

    {lines}
    Or JOBS is a folder in which each picture is a job, and NAME.txt
    beside NAME.jpg its prompt. Hidden files are passed over, and what else is
    no job is listed with the reason. HEIC, HEIF and AVIF are sent too; a server
    that does not read them says so.

    --prompt to --profile are for jobs that do not say it themselves. All jobs
    are read first, and buckets, frames, steps and profiles held against what
    the server offers; where one is wrong, each such line is named with all that
    is wrong with it, and none is sent.

    results.jsonl gets a line for each job: index, id, status, seconds, path,
    receipt, or error. A second run skips what is done and unchanged, and tries
    the rest again with the same seeds. The video of a job that was changed goes
    beside the older one, as NAME-2.mp4, unless --force is given.
    """
    with reported("Cancelled; the server was told to stop. The same command goes on from here.", json=json):
        jobs = read_jobs(source, {name: None if value is False else value for name, value in options.items()})
        for name, why in left_out(source):
            typer.echo(f"{name} is left out: {why}", err=True)
        work = Batch(
            jobs, out_dir, concurrency=concurrency, retries=retries, patience=patience, overwrite=force or "number"
        )

        async def run() -> Summary:
            async with AsyncClient(address, tls=tls, timeout=timeout) as client:
                served = await client.info()  # says at once that nobody is there, and brings the server's limits
                check_offered(source, work.todo, served)
                with _shown(len(work.todo), json=json, quiet=quiet) as view:
                    return await work.run(client, view)

        summary = asyncio.run(run())
    if not json:
        skipped = f", {summary.skipped} done before" if summary.skipped else ""
        typer.echo(f"{summary.results}: {summary.done} done{skipped}, {summary.failed} failed")
    raise typer.Exit(JOBS_FAILED if summary.failed else 0)


_LINES = (
    "JOBS is a file with one JSON object a line. Its keys are named like the arguments of Client.generate: "
    f"{', '.join(option.name for option in OPTIONS)}; and id, the video's name. Paths are relative to the file."
)
batch.__doc__ = cleandoc(batch.__doc__ or "").replace("{lines}", textwrap.fill(_LINES, 76))


def _shown(total: int, *, json: bool, quiet: bool) -> AbstractContextManager[View]:
    if json:
        return nullcontext(Rows())
    return nullcontext(Silent()) if quiet else batch_progress(Console(stderr=True), total)
