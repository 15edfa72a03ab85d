"""Wrong usage of `easyanim-server`: which option was meant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from easyanim_client.suggestions import name_the_nearest
from easyanim_server.config.sources import SYNONYMS


class Commands(TyperGroup):
    """Names the option that a mistyped one was meant to be."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the options before the command."""
        with _nearest_named():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        with _nearest_named():
            return super().invoke(ctx)


@contextmanager
def _nearest_named() -> Iterator[None]:
    try:
        yield
    except typer.TyperException as error:
        name_the_nearest(error, {option_name(word): option_name(name) for word, name in SYNONYMS.items()})
        raise


def option_name(name: str) -> str:
    """A setting's name as an option."""
    return f"--{name.replace('_', '-')}"
