"""How values are put into sentences: callers choose them, so that they are cut before anything else is done to them."""

from __future__ import annotations

SHOWN_CHARS = 80
"""Of a value in a sentence."""


def shown(value: str) -> str:
    """A text in quotes, special characters escaped; of a long one its beginning, and how long it is."""
    if len(value) <= SHOWN_CHARS:
        return repr(value)
    return f"{value[:SHOWN_CHARS]!r}… ({len(value)} characters)"


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless the number is 1: ``1 step``, ``2 steps``, ``0 jobs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
