"""The command `tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from easyanim_server.cli.flags import CacheDir, described, examples
from easyanim_server.config import checks as preflight
from easyanim_server.config.settings import Settings
from easyanim_server.telemetry.log import configure_logging

EPILOG = examples(
    "easyanim-server tune --budget 20m --image cup.jpg --prompt 'steam rises from the cup'",
    "easyanim-server serve --tuned tuning/tuned.json",
)


def tune(
    model: Annotated[str | None, typer.Option(help=described("model"))] = None,
    buckets: Annotated[str | None, typer.Option(help=described("buckets"))] = None,
    device: Annotated[str | None, typer.Option(help=described("device"))] = None,
    budget: Annotated[str, typer.Option(help="When to stop: 90s, 20m, 1h30m. Run it again to go on.")] = "20m",
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("tuning"),
    steps: Annotated[str, typer.Option(help="Of whole generations, whose frames are compared.")] = "25,35,50,75",
    placements: Annotated[
        str, typer.Option(help="Memory modes to try; those with 8 bits only if named.")
    ] = "full,model_cpu_offload,group_offload,sequential_cpu_offload",
    backends: Annotated[
        str | None, typer.Option(help="To try. Default: inductor,eager, on the CPU eager.", show_default=False)
    ] = None,
    precisions: Annotated[str, typer.Option(help="To try; fp8 changes videos, so it is asked for.")] = "bf16",
    prompt: Annotated[str, typer.Option(help="Of the videos that are made.")] = "the light changes slowly",
    image: Annotated[Path | None, typer.Option(help="Their start picture. Default: one that is drawn.")] = None,
    vram_limit_gib: Annotated[str | None, typer.Option(help=described("vram_limit_gib"))] = None,
    cache_dir: CacheDir = None,
    retry: Annotated[bool, typer.Option("--retry", help="Measure again what failed before.")] = False,
) -> None:
    """Measure on this machine which settings are the fastest; `serve --tuned OUT/tuned.json` uses them."""
    flags = {"model": model, "buckets": buckets, "device": device, "vram_limit_gib": vram_limit_gib,
             "cache_dir": cache_dir}  # fmt: skip
    settings = Settings.load({name: value for name, value in flags.items() if value is not None})
    preflight.check(settings)
    from easyanim_server.tune import command as tunecommand

    plan = tunecommand.TunePlan.parse(
        settings, budget=budget, steps=steps, placements=placements, backends=backends, precisions=precisions,
        prompt=prompt, image=image,
    )  # fmt: skip
    configure_logging(settings.log_format, "warning")
    tunecommand.run(plan, out, retry, typer.echo)
