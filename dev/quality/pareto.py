"""Which settings are worth their cost, and which of them each profile should be, by rules that are stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dev.quality.settings import DEFAULT, REFERENCE, USUAL_STEPS, Setting
from dev.quality.summary import Summary

FAST_SAVING, DRAFT_SAVING = 2.5, 5.0
"""Times fewer predictions than `USUAL_STEPS` of Euler with guidance."""
LOST_POINTS = 2.0
"""Of agreement with prompts, which a fast setting may lose."""
LOST_DB = 1.0
"""Which it may be farther from the reference than the default."""

RULES = {
    "exact": "as the model was published",
    "balanced": "the fewest predictions with no case of agreement lost and no farther from the reference than `exact`",
    "fast": f"the fewest predictions, at least {FAST_SAVING:g} times fewer than {USUAL_STEPS} Euler steps take, "
    f"with at most {LOST_POINTS:g} points of agreement lost and at most {LOST_DB:g} dB farther from the reference than "
    "`exact`",
    "draft": f"the nearest to the reference of those with {DRAFT_SAVING:g} times fewer predictions",
}


@dataclass(frozen=True)
class Point:
    """A setting, and what it is worth over the cases that all settings have.

    Its losses count more cases where more were made of it, to confirm a choice.
    """

    setting: Setting
    predictions: float
    """Mean passes through the transformer."""
    seconds: float
    """Mean, a whole video."""
    psnr: float
    """dB to the same seed's reference."""
    agrees: float
    """Share of cases."""
    lost: float
    """Points of agreement that it loses against the default, over all cases that both have."""
    behind: float
    """dB by which it is farther from the reference than the default, over all cases that both have."""


def points(summary: Summary, cases: int) -> tuple[list[Point], list[int]]:
    """All settings that were made of the first cases, as far as the default was.

    Args:
        summary: Of results.
        cases: How many of the first ones count.

    Returns:
        The settings, from the fewest predictions up, and the cases that they are compared in. One that was just begun
        when the time was over is left out.
    """
    indices = [index for index in summary.shared(DEFAULT) if index < cases]
    if not indices:
        return [], []
    whole = [
        setting for setting in summary.settings if setting != REFERENCE and set(indices) <= set(summary.shared(setting))
    ]
    found = []
    for setting in whole:
        values: dict[str, Any] = {
            field: summary.mean(setting, column, indices) or 0.0
            for field, column in (
                ("predictions", "predictions"), ("seconds", "seconds"), ("psnr", "ref_psnr"), ("agrees", "agrees"),
            )
        }  # fmt: skip
        lost, behind = summary.lost(setting), summary.behind(setting)
        values |= {"lost": lost[0] if lost else 0.0, "behind": behind[0] if behind else 0.0}
        found.append(Point(setting, **values))
    return sorted(found, key=lambda point: (point.predictions, -point.psnr)), indices


def front(found: Sequence[Point], cost: str = "predictions") -> list[Point]:
    """Those that nothing is better than at no more cost; `cost` is ``predictions`` or ``seconds``."""
    best: list[Point] = []
    for point in sorted(found, key=lambda point: (getattr(point, cost), -point.psnr)):
        if not best or point.psnr > best[-1].psnr:
            best.append(point)
    return best


def choose(found: Sequence[Point], guidance: float) -> dict[str, Point]:
    """The point of each profile by `RULES`; a profile is absent where no setting follows its rule."""
    exact = next((point for point in found if point.setting == DEFAULT), None)
    if exact is None:
        return {}
    usual = Setting(USUAL_STEPS).predictions(guidance)

    def within(point: Point, points: float, decibels: float) -> bool:
        return point.lost <= points + 1e-6 and point.behind <= decibels + 1e-6

    chosen = {"exact": exact}
    balanced = [point for point in found if within(point, 0.0, 0.0)]
    quick = [point for point in found if point.predictions <= usual / FAST_SAVING]
    fast = [point for point in quick if within(point, LOST_POINTS, LOST_DB)]
    draft = [point for point in found if point.predictions <= usual / DRAFT_SAVING]
    if balanced:
        chosen["balanced"] = min(balanced, key=_cheapest)
    if fast:
        chosen["fast"] = min(fast, key=_cheapest)
    if draft:
        chosen["draft"] = min(draft, key=lambda point: (point.behind, point.predictions))
    return chosen


def _cheapest(point: Point) -> tuple[float, float]:
    """To take the least of: the fewest predictions, and of equally many the nearest to the reference."""
    return point.predictions, point.behind
