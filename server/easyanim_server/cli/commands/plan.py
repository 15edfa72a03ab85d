"""The command `plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from easyanim_server.cli.flags import described, examples
from easyanim_server.config import environment, model_checks
from easyanim_server.config.settings import Settings
from easyanim_server.domain import cards

EPILOG = examples(
    "easyanim-server plan --vram 24GB --card 4090",
    "easyanim-server plan --vram 12GiB --buckets 384x672,576x1008",
)


def plan(
    vram: Annotated[str, typer.Option(help="The card's memory: 24GiB, 24GB, 24564MiB.")],
    card: Annotated[
        str | None, typer.Option(help=f"Estimate seconds for this card: {', '.join(cards.CARDS)}. Default: an H200's.")
    ] = None,
    model: Annotated[str | None, typer.Option(help=described("model"))] = None,
    buckets: Annotated[str | None, typer.Option(help=described("buckets"))] = None,
    placement: Annotated[str | None, typer.Option(help=described("placement"))] = None,
    precision: Annotated[str | None, typer.Option(help=described("precision"))] = None,
    backend: Annotated[str | None, typer.Option(help=described("backend"))] = None,
    vae_tiling: Annotated[str | None, typer.Option(help=described("vae_tiling"))] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print what fits a card of that size, bucket by placement; needs no GPU."""
    flags = {"model": model, "buckets": buckets, "placement": placement, "precision": precision, "backend": backend,
             "vae_tiling": vae_tiling}  # fmt: skip
    settings = Settings.load({name: value for name, value in flags.items() if value is not None})
    model_checks.check_model(settings.model, settings.revision)
    environment.temporary_folder()
    known = cards.find(card) if card else None
    from easyanim_server.cli import memory_plan as memoryplan

    made = memoryplan.plan(settings, vram, known)
    if as_json:
        typer.echo(memoryplan.to_json(made))
    else:
        memoryplan.show(made)
