"""The command `fetch`."""

from __future__ import annotations

from typing import Annotated

import typer

from easyanim_server.catalog import DEFAULT_MODEL
from easyanim_server.cli.flags import described, examples
from easyanim_server.config.settings import Settings

EPILOG = examples(
    "easyanim-server fetch EasyAnimateV5-7b-zh-InP",
    "easyanim-server fetch modelscope:PAI/EasyAnimateV5.1-7b-zh-InP",
    "HF_HUB_OFFLINE=1 easyanim-server serve --model EasyAnimateV5-7b-zh-InP",
)


def fetch(
    model: Annotated[str, typer.Argument(help="An id of Hugging Face, or modelscope:ID.")] = DEFAULT_MODEL,
    revision: Annotated[str | None, typer.Option(help=described("revision"))] = None,
) -> None:
    """Download all that `serve` reads of a model, so that it needs no network; goes on where it was cut off."""
    settings = Settings.load({"model": model, **({"revision": revision} if revision else {})})
    from easyanim_server.cli import fetch as fetching

    typer.echo(fetching.fetch(settings.model, settings.revision))
