"""What a mistyped option of a command line was meant to be; used by `easyanim-client` and `easyanim-server`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

CUTOFF = 0.7
"""Least likeness of two names, in difflib's measure, that is taken for a slip of the finger."""


def name_the_nearest(error: Any, synonyms: Mapping[str, str]) -> None:
    """Complete a typer error about an option that there is not, by the one that was probably meant.

    Args:
        error: A usage error; without an option's name and a context it stays as it is.
        synonyms: What other programs call an option, by option, both with their dashes: for words that are too unlike
            to be taken for a slip. One that the command does not have is passed over.
    """
    wrong, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if wrong is None or context is None or not hasattr(error, "possibilities"):
        return
    offered = _options(context.command)
    meant = synonyms.get(wrong)
    near = [meant] if meant in offered else difflib.get_close_matches(wrong, offered, n=1, cutoff=CUTOFF)
    owners = [name for name, command in getattr(context.command, "commands", {}).items() if wrong in _options(command)]
    if near:
        error.message += f"; did you mean {near[0]}?"
    elif owners:
        error.message += f"; it goes behind a command, as in {context.command_path} {owners[0]} {wrong}"
    error.possibilities = None


def _options(command: Any) -> list[str]:
    return [name for parameter in command.params for name in parameter.opts if name.startswith("-")]
