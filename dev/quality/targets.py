"""What quality was promised, and whether measurements keep it."""

from __future__ import annotations

from dataclasses import dataclass

from dev.quality.pareto import DRAFT_SAVING, FAST_SAVING, LOST_DB, LOST_POINTS
from dev.quality.settings import DEFAULT, PROFILE_SETTINGS, USUAL_STEPS, Setting
from dev.quality.summary import Summary

AGREEMENT = 0.9
STILL = 0.3
"""Pixels a frame, of a short side of 128, below which a picture stands still."""
FIRST_FRAME = 24.0
VAE = 25.0
TRUST = 0.99

NAMES = {"en": "English", "zh": "Chinese"}
FAST = PROFILE_SETTINGS["fast"]


@dataclass(frozen=True)
class Target:
    """One promise."""

    sentence: str
    wanted: str
    measured: str
    """Empty where it was not measured."""
    met: bool | None
    cases: int

    @property
    def verdict(self) -> str:
        """In a word or two."""
        return {True: "met", False: "**missed**", None: "not measured"}[self.met]


def judge(summary: Summary, guidance: float) -> list[Target]:
    """All promises, measured or not."""
    return [
        *(_agreement(summary, language) for language in NAMES),
        _still(summary),
        _decibels(
            "first frame against the given picture",
            FIRST_FRAME,
            summary.mean(DEFAULT, "first_psnr"),
            len(summary.videos(DEFAULT)),
        ),
        _vae(summary),
        _saving(summary, "fast", FAST_SAVING, guidance),
        _at_most("`fast`: points of agreement lost against `exact`", LOST_POINTS, summary.lost(FAST)),
        _at_most(
            "`fast`: dB farther from the reference of 200 steps than 35 Euler steps", LOST_DB, summary.behind(FAST)
        ),
        _saving(summary, "draft", DRAFT_SAVING, guidance),
        _trust(summary),
    ]


def percent(share: float, digits: int = 0) -> str:
    """A share with its sign set apart."""
    return f"{100 * share:.{digits}f} %"


def _agreement(summary: Summary, language: str) -> Target:
    agree, count = summary.agreement(DEFAULT, lambda case: case["language"] == language)
    sentence = f"motion goes where the prompt says, and as far within 40 %: {NAMES[language]}"
    share = agree / count if count else 0.0
    return Target(
        sentence, f"≥ {percent(AGREEMENT)}", percent(share, 1) if count else "", _if(count, share >= AGREEMENT), count
    )


def _still(summary: Summary) -> Target:
    speeds = [row["speed"] for row in summary.videos(DEFAULT, lambda case: case["group"] == "hold")]
    most = max(speeds, default=0.0)
    measured = f"{most:.2f} at most, {sum(speeds) / len(speeds):.2f} on average" if speeds else ""
    return Target("“hold still”: pixels a frame", f"< {STILL:g}", measured, _if(speeds, most < STILL), len(speeds))


def _vae(summary: Summary) -> Target:
    row = summary.single.get("vae")
    sentence = "VAE alone: photographs that were held out, at 128x128"
    return _decibels(sentence, VAE, row["stills_psnr"] if row else None, row["stills"] if row else 0)


def _decibels(sentence: str, wanted: float, value: float | None, count: int) -> Target:
    measured = "" if value is None else f"{value:.1f} dB"
    return Target(sentence, f"≥ {wanted:g} dB", measured, None if value is None else value >= wanted, count)


def _saving(summary: Summary, name: str, saving: float, guidance: float) -> Target:
    made = summary.mean(PROFILE_SETTINGS[name], "predictions")
    usual = Setting(USUAL_STEPS).predictions(guidance)
    times = usual / made if made else 0.0
    sentence = f"`{name}`: how many times fewer predictions than {USUAL_STEPS} Euler steps, which take {usual}"
    count = len(summary.videos(PROFILE_SETTINGS[name]))
    return Target(sentence, f"≥ {saving:g}", f"{times:.2f}" if made else "", _if(made, times >= saving), count)


def _at_most(sentence: str, most: float, found: tuple[float, int] | None) -> Target:
    value, count = found or (0.0, 0)
    return Target(sentence, f"≤ {most:g}", f"{value:.1f}" if found else "", _if(found, value <= most), count)


def _trust(summary: Summary) -> Target:
    row = summary.single.get("trust")
    sentence = "the judge of motion itself: true clips, blurred and with noise, that it finds in agreement"
    if row is None:
        return Target(sentence, f"≥ {percent(TRUST)}", "", None, 0)
    met = row["agreement"] >= TRUST
    return Target(sentence, f"≥ {percent(TRUST)}", percent(row["agreement"], 1), met, row["cases"])


def _if(known: object, met: bool) -> bool | None:
    return met if known else None
