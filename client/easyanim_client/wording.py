"""How numbers are put into sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless the number is 1: ``1 step``, ``2 steps``, ``0 jobs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
