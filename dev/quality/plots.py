"""Draws quality against cost, and the motion that was found against the motion that was asked for."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dev.quality.pareto import Point, front
from dev.quality.settings import DEFAULT, PROFILE_SETTINGS
from dev.quality.tables import GROUPS, Report

NEUTRAL = "#7a8088"
"""Legible on white and on black."""
SOLVERS = {"euler": "#2f7fd1", "unipc": "#d9762b", "dpmpp_2m": "#2e9f6b"}
LANGUAGES = {"en": ("English", "#2f7fd1"), "zh": ("Chinese", "#d9762b")}


def draw(report: Report, file: Path) -> None:
    """Write the picture, on nothing, for any background."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    cost, time, motion = figure.subplots(1, 3, width_ratios=(1.25, 1.25, 1))
    found, _ = report.points
    _front(cost, found, report, "predictions", "predictions a video")
    _front(time, found, report, "seconds", "seconds a video")
    _motion(motion, report)
    for axes in (cost, time, motion):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[:].set_color(NEUTRAL)
        axes.tick_params(colors=NEUTRAL, which="both", labelsize=8)
        for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
            label.set_color(NEUTRAL)
            label.set_fontsize(9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150, transparent=True, metadata={"Software": None})


def _front(axes: Any, found: list[Point], report: Report, cost: str, title: str) -> None:
    axes.set_title("near the reference, and cheap" if cost == "predictions" else "near the reference, and quick")
    axes.set_xlabel(title)
    axes.set_ylabel("dB to the same seed's 200 Euler steps")
    if not found:
        return
    axes.set_xscale("log")
    best = front(found, cost)
    axes.step(
        [getattr(point, cost) for point in best], [point.psnr for point in best], where="post",
        color=NEUTRAL, linewidth=1, zorder=1,
    )  # fmt: skip
    for solver, colour in SOLVERS.items():
        for plain in (True, False):
            some = [
                point for point in found
                if point.setting.acceleration.solver.value == solver and _is_plain(point) == plain
            ]  # fmt: skip
            if some:
                axes.scatter(
                    [getattr(point, cost) for point in some], [point.psnr for point in some], s=26,
                    color=colour if plain else "none", edgecolors=colour, linewidths=1, zorder=2,
                    label=solver if plain else f"{solver}, cached or partly guided",
                )  # fmt: skip
    chosen = {point.setting: name for name, point in report.chosen.items()}
    for point in found:
        name = next((name for name, setting in PROFILE_SETTINGS.items() if setting == point.setting), None)
        place = (getattr(point, cost), point.psnr)
        if point.setting in chosen:
            axes.scatter(*place, s=120, facecolors="none", edgecolors=NEUTRAL, linewidths=1.2, zorder=3)
        words = [name or "", f"rule: {chosen[point.setting]}" if chosen.get(point.setting, name) != name else ""]
        text = "\n".join(word for word in words if word)
        if text:
            axes.annotate(
                text, place, xytext=(7, -4), textcoords="offset points", va="top", color=NEUTRAL, fontsize=8,
                weight="bold" if name else "normal",
            )  # fmt: skip
    exact = next((point for point in found if point.setting == DEFAULT), None)
    if exact:
        axes.axhline(exact.psnr - 1, color=NEUTRAL, linewidth=0.8, linestyle=":")
        axes.annotate(
            "1 dB below exact", (0.01, exact.psnr - 1), xycoords=("axes fraction", "data"), xytext=(0, 3),
            textcoords="offset points", color=NEUTRAL, fontsize=7,
        )  # fmt: skip
    if cost == "predictions":
        axes.legend(frameon=False, fontsize=7, labelcolor=NEUTRAL, loc="lower right")
    _ticks(axes, [getattr(point, cost) for point in found])


def _is_plain(point: Point) -> bool:
    used = point.setting.acceleration
    return not used.cache_threshold and (used.guidance_start, used.guidance_end) == (0.0, 1.0)


def _ticks(axes: Any, values: list[float]) -> None:
    """A few round numbers, written out."""
    low, high = min(values), max(values)
    ticks = [
        base * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for base in (1, 2, 5)
    ]
    axes.set_xticks([tick for tick in ticks if low * 0.8 <= tick <= high * 1.25])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def _motion(axes: Any, report: Report) -> None:
    """How far videos go the way that was asked for, by what was asked for."""
    axes.set_title("motion, of what the prompt asks for")
    axes.set_ylabel("size along the way that was asked for")
    groups = [group for group in GROUPS if group != "hold"]
    axes.axhspan(0.6, 1.4, color=NEUTRAL, alpha=0.15, linewidth=0)
    axes.axhline(1.0, color=NEUTRAL, linewidth=0.8)
    rng = random.Random(0)
    for language, (name, colour) in LANGUAGES.items():
        side = -0.17 if language == "en" else 0.17
        for agrees in (True, False):
            places = [
                (groups.index(case["group"]) + side + rng.uniform(-0.11, 0.11), min(2.0, max(-1.0, row["ratio"])))
                for row in report.summary.videos(DEFAULT)
                for case in (report.summary.cases[row["index"]],)
                if case["language"] == language and case["group"] in groups and row["agrees"] == agrees
            ]
            if places:
                axes.scatter(
                    *zip(*places, strict=True), s=14, color=colour if agrees else "none", edgecolors=colour,
                    linewidths=0.9, label=name if agrees else f"{name}, does not agree",
                )  # fmt: skip
    axes.set_ylim(-1.1, 2.1)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_xticks(range(len(groups)), [GROUPS[group].replace(", ", ",\n").replace(" at", "\nat") for group in groups])
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=7, labelcolor=NEUTRAL, loc="lower right")
