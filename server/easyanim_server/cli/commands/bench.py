"""The command `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from easyanim_server.cli.flags import Force, examples, number
from easyanim_server.config import checks as preflight
from easyanim_server.config import environment, model_checks

EPILOG = examples(
    "easyanim-server bench --buckets 384x672 --precisions bf16",
    "easyanim-server bench --device cpu --buckets 96x160x13 --backends eager --steps 4",
)


def bench(
    model: Annotated[str | None, typer.Option(help="Default: synthetic:7b, on the CPU builtin:tiny.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    buckets: Annotated[str | None, typer.Option(help="HxW or HxWxF. Default: three published sizes.")] = None,
    backends: Annotated[str, typer.Option(help="Of ours; generations run in the last.")] = "eager,inductor",
    precisions: Annotated[
        str | None, typer.Option(help="Of the large products. Default: bf16,fp8, on the CPU bf16.", show_default=False)
    ] = None,
    steps: Annotated[str, typer.Option(help="Of whole generations.")] = "25,35,50",
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("bench-results"),
    repeats: Annotated[int, number("How often a step is measured at most.")] = 3,
    full: Annotated[bool, typer.Option("--full", help="All steps in every bucket, not the smallest alone.")] = False,
    pairs: Annotated[bool, typer.Option("--pairs", help="Guidance in batches of two as well.")] = False,
    what: Annotated[str, typer.Option(help="Names the file: GPU-WHAT.json.")] = "speed",
    commit: Annotated[str | None, typer.Option(help="What is measured, where there is no clone to ask.")] = None,
    force: Force = False,
) -> None:
    """Measure stock diffusers and our paths side by side. Lists are separated by commas."""
    if model is not None:
        model_checks.check_model(model)
    environment.temporary_folder()
    from easyanim_server.benchmark import benchmark
    from easyanim_server.benchmark import tables as speedtable

    plan = benchmark.Plan.parse(model, device, buckets, backends, precisions, steps, repeats, full, pairs)
    run = benchmark.Benchmark(plan, out, commit, typer.echo, what)
    if run.file.exists():
        preflight.check_new_file(run.file, force=force)
    run.run()
    typer.echo(f"wrote {run.file}")
    speedtable.show(run.rows)
