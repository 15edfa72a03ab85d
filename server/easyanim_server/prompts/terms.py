"""Which of many terms stand in a text, in time that grows with the sum of their lengths alone."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Kana, Han and Hangul: no spaces between words, or few."""
_UNITS = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")
"""A character where words have no spaces between them, a word, or a mark."""


def found_in(text: str, terms: Iterable[str]) -> list[str]:
    """Find the terms that stand in a text, as whole words where words have spaces between them.

    The algorithm is Aho and Corasick's: callers choose the number of terms and their lengths, so that a search for
    each of them, or a pattern, takes as long as a caller likes.

    Args:
        text: Is read without regard to case.
        terms: Anything; those without a letter, digit or mark are never found.

    Returns:
        The terms that were found, each once, in the order of `terms`.
    """
    automaton = _Automaton()
    kept = list(dict.fromkeys(terms))
    for number, term in enumerate(kept):
        automaton.add(_units(term), number)
    return [kept[number] for number in sorted(automaton.search(_units(text)))]


def _units(text: str) -> list[str]:
    return _UNITS.findall(text.lower())


class _Automaton:
    """Nodes are numbers; 0 is the root."""

    def __init__(self) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._fallback = [0]
        """Of each node the one with the longest proper suffix of what leads to it."""
        self._terms: list[list[int]] = [[]]
        """Those that end in a node."""

    def add(self, units: list[str], term: int) -> None:
        node = 0
        for unit in units:
            following = self._next[node].get(unit)
            if following is None:
                following = self._next[node][unit] = len(self._next)
                self._next.append({})
                self._fallback.append(0)
                self._terms.append([])
            node = following
        if node:
            self._terms[node].append(term)

    def search(self, units: list[str]) -> set[int]:
        self._link()
        found: set[int] = set()
        seen = {0}
        node = 0
        for unit in units:
            while node and unit not in self._next[node]:
                node = self._fallback[node]
            node = self._next[node].get(unit, 0)
            ending = node
            while ending not in seen:  # what ends in the suffixes of a node that was seen was found with it
                seen.add(ending)
                found.update(self._terms[ending])
                ending = self._fallback[ending]
        return found

    def _link(self) -> None:
        queue = deque(self._next[0].values())
        while queue:
            node = queue.popleft()
            for unit, following in self._next[node].items():
                queue.append(following)
                fallback = self._fallback[node]
                while fallback and unit not in self._next[fallback]:
                    fallback = self._fallback[fallback]
                self._fallback[following] = self._next[fallback].get(unit, 0)
