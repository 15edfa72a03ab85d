"""Means over rows, always over cases that both sides of a comparison have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import mean
from typing import Any

from dev.quality.settings import DEFAULT, REFERENCE, Setting

Row = dict[str, Any]


class Summary:
    """The rows of a results file, to ask for means.

    Args:
        rows: As `results.Results` has them.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.cases: dict[int, Row] = {}
        self.settings: list[Setting] = []
        """All that were used."""
        self.single: dict[str, Row] = {}
        """What there is one row of: ``vae`` and ``trust``."""
        self._videos: dict[str, dict[int, Row]] = {}
        for row in rows:
            match row["what"]:
                case "video":
                    self._videos.setdefault(row["setting"], {})[row["index"]] = row
                case "case":
                    self.cases[row["index"]] = row
                case "setting":
                    self.settings.append(Setting.of(row))
                case what:
                    self.single[what] = row

    def videos(self, setting: Setting, where: Callable[[Row], bool] = lambda case: True) -> list[Row]:
        """Rows of a setting whose case is as wanted, by index."""
        found = self._videos.get(setting.name, {})
        return [found[index] for index in sorted(found) if where(self.cases[index])]

    def shared(self, *settings: Setting) -> list[int]:
        """Cases that were made with all of these settings and compared with the reference."""
        sets = [
            {row["index"] for row in self.videos(setting) if setting == REFERENCE or row["ref_psnr"] is not None}
            for setting in settings
        ]
        return sorted(set.intersection(*sets))

    def paired(self, *settings: Setting) -> list[int]:
        """Cases that were made with all of these settings."""
        return sorted(set.intersection(*({row["index"] for row in self.videos(setting)} for setting in settings)))

    def mean(self, setting: Setting, column: str, indices: Sequence[int] | None = None) -> float | None:
        """Mean of a column over the cases that have it; of truth values the share."""
        rows = self.videos(setting) if indices is None else [self._videos[setting.name][index] for index in indices]
        values = [float(row[column]) for row in rows if row[column] is not None]
        return mean(values) if values else None

    def agreement(self, setting: Setting, where: Callable[[Row], bool] = lambda case: True) -> tuple[int, int]:
        """How many of a setting's videos do as their prompts say, and of how many."""
        rows = self.videos(setting, where)
        return sum(row["agrees"] for row in rows), len(rows)

    def lost(self, setting: Setting) -> tuple[float, int] | None:
        """Points of agreement that a setting loses against the default, in the same cases, and their number."""
        indices = self.paired(setting, DEFAULT)
        if not indices:
            return None
        before, now = (self.mean(which, "agrees", indices) or 0.0 for which in (DEFAULT, setting))
        return 100 * (before - now), len(indices)

    def behind(self, setting: Setting) -> tuple[float, int] | None:
        """Decibels by which a setting is farther from the reference than the default, in the same cases."""
        indices = self.shared(setting, DEFAULT)
        if not indices:
            return None
        before, now = (self.mean(which, "ref_psnr", indices) or 0.0 for which in (DEFAULT, setting))
        return before - now, len(indices)
