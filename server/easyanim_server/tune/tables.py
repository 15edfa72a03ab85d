"""The tables of a tuning: before and after, memory modes, steps, sizes. Numbers are measured or marked as predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from easyanim_server.domain.events import Phase
from easyanim_server.domain.job import DEFAULT_STEPS, Bucket
from easyanim_server.domain.placement import FASTEST_FIRST
from easyanim_server.domain.wording import counted
from easyanim_server.engine.memory.estimate import Estimate
from easyanim_server.media.decoder import read_frames
from easyanim_server.tune.journal import Row
from easyanim_server.tune.measure import GIB, projected
from easyanim_server.tune.plan import BEFORE, BEFORE_STEPS, Candidate, Machine, TunePlan
from easyanim_server.tune.task import GENERATION, PROBE
from easyanim_server.tune.tuner import Tuned

NOTHING = "–"


@dataclass(frozen=True)
class Line:
    """One row of a table."""

    cells: tuple[str, ...]
    phases: Mapping[str, float]
    """Seconds of each phase, for a bar; empty where nothing was measured."""
    best: bool = False
    """Whether it is what was chosen."""


@dataclass(frozen=True)
class Table:
    """A table with a bar for each row."""

    name: str
    heading: str
    note: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Timing:
    """What a generation takes."""

    seconds: float
    phases: Mapping[str, float]
    step: float
    peak_gib: float | None
    exact: bool
    """Whether all steps were taken; else denoising is projected from a few of them."""

    @property
    def text(self) -> str:
        """Seconds, marked where they are projected."""
        return f"{'' if self.exact else '≈ '}{_short(self.seconds)}"


class Tables:
    """Makes the tables of what was measured.

    Args:
        plan: What was asked for.
        machine: Where.
        tuned: What it came to.
        out: The folder of the results, with the videos.
    """

    def __init__(self, plan: TunePlan, machine: Machine, tuned: Tuned, out: Path) -> None:
        self.plan, self.machine, self.tuned, self._out = plan, machine, tuned, out
        self.chosen = tuned.decision.candidate
        self._videos: dict[Path, npt.NDArray[np.uint8]] = {}

    @property
    def all(self) -> list[Table]:
        """Those that have a row, in the order of the report."""
        made = [self.before_and_after(), self.memory(), self.steps(), self.resolution(), self.candidates()]
        return [table for table in made if table.lines]

    def before_and_after(self) -> Table:
        """From the naive start to what was chosen, in one bucket."""
        plan, asked = self.plan, []
        asked += [("before", BEFORE, BEFORE_STEPS), (f"before, {DEFAULT_STEPS} steps", BEFORE, DEFAULT_STEPS)]
        asked += [("defaults", plan.defaults, DEFAULT_STEPS)]
        if self.chosen != plan.defaults:
            asked += [("tuned", self.chosen, DEFAULT_STEPS)]
        else:
            asked[-1] = ("tuned = defaults", plan.defaults, DEFAULT_STEPS)
        known = [(name, one, steps, self.timing(one, plan.compared, steps)) for name, one, steps in asked]
        first = known[0][3]
        lines = []
        for name, one, steps, timing in known:
            if timing is not None:
                factor = f"{first.seconds / timing.seconds:.2f}" if first else NOTHING
                served = self.served(one, plan.compared)
                cells = (name, *served, str(steps), _short(timing.step), timing.text, factor)
                lines.append(Line(cells, timing.phases, best=one == self.chosen))
        return Table(
            "before",
            f"Before and after, {plan.compared}",
            f"Before is where the error message about memory leads: {BEFORE.placement}, nothing compiled, "
            f"{BEFORE_STEPS} steps. Defaults are what serve does without this tuning.",
            ("", "placement", "backend", "precision", "steps", "s a step", "seconds", "× faster"),
            tuple(lines),
        )

    def memory(self) -> Table:
        """Placements, each with the backend that it is fastest in."""
        bucket = self.plan.compared
        fastest: dict[str, tuple[Timing, Row]] = {}
        for row in self._rows(PROBE, str(bucket)):
            timing = _projected(row, DEFAULT_STEPS)
            place = row["served"]["placement"]
            if place not in fastest or timing.seconds < fastest[place][0].seconds:
                fastest[place] = (timing, row)
        slowest = max((timing.seconds for timing, _ in fastest.values()), default=0.0)
        chosen = self.served(self.chosen, bucket)[0]
        lines = []
        for place in sorted({*fastest, *self._too_large}, key=_leanest_first):
            if place in fastest:
                timing, row = fastest[place]
                served = row["served"]
                cells = (
                    place, served["backend"], served["precision"], _gib(timing.peak_gib), timing.text,
                    f"{slowest / timing.seconds:.2f}",
                )  # fmt: skip
                lines.append(Line(cells, timing.phases, best=place == chosen))
            else:
                lines.append(Line((place, NOTHING, NOTHING, self._too_large[place], NOTHING, NOTHING), {}))
        return Table(
            "memory",
            f"Memory modes, {bucket}",
            "Where weights are while they are not needed, in the fastest backend of each. All but those in 8 bits "
            "give the same video."
            + ("" if self.machine.kind == "cuda" else " On the CPU there is no device memory to measure."),
            ("placement", "backend", "precision", "peak GiB", "seconds", "× faster"),
            tuple(lines),
        )

    def steps(self) -> Table:
        """Whole generations of the choice by their steps."""
        rows = self.generations()
        most = max(rows, default=0)
        last = rows[most]["seconds"] if rows else 1.0
        lines = [
            Line(
                (str(steps), _short(row["step_seconds"]), _short(row["seconds"]), f"{row['seconds'] / last:.0%}",
                 self.difference(rows, steps)),
                row["phases"],
                best=steps == DEFAULT_STEPS,
            )
            for steps, row in rows.items()
        ]  # fmt: skip
        return Table(
            "steps",
            f"Steps, {self.plan.compared}",
            f"Whole generations with the chosen settings, the same seed, prompt and picture. PSNR is measured against "
            f"the frames of {counted(most, 'step')}: the higher, the less there is to see.",
            ("steps", "s a step", "seconds", f"of {most} steps' time", f"PSNR to {counted(most, 'step')}, dB"),
            tuple(lines),
        )

    def resolution(self) -> Table:
        """Every bucket with the choice and with the defaults."""
        same = self.chosen == self.plan.defaults
        lines = []
        for bucket in self.plan.buckets:
            mine, theirs = (self._probe(one, bucket) for one in (self.chosen, self.plan.defaults))
            if mine is not None:
                cells: tuple[str, ...] = (str(bucket), _gib(mine.peak_gib), _short(mine.step), mine.text)
                if not same:
                    both = (theirs.text, f"{theirs.seconds / mine.seconds:.2f}") if theirs else (NOTHING, NOTHING)
                    cells += both
                lines.append(Line(cells, mine.phases))
        return Table(
            "resolution",
            f"Sizes, {DEFAULT_STEPS} steps",
            "With the chosen settings" + (", which are the defaults." if same else ", and beside them the defaults."),
            ("bucket", "peak GiB", "s a step", "seconds", *(() if same else ("defaults", "× faster"))),
            tuple(lines),
        )

    def candidates(self) -> Table:
        """All that was compared."""
        plan = self.plan
        lines = []
        for one in dict.fromkeys([plan.defaults, *plan.candidates(self.machine.kind), BEFORE]):
            known = [timing for bucket in plan.buckets if (timing := self._probe(one, bucket))]
            errors = [row["error"] for row in self.tuned.rows if row["candidate"] == one.label and "error" in row]
            if not known and not errors:
                continue
            phases: dict[str, float] = {}
            for timing in known:
                for phase, seconds in timing.phases.items():
                    phases[phase] = phases.get(phase, 0.0) + seconds
            total = f"≈ {_short(sum(timing.seconds for timing in known))}" if known else NOTHING
            note = errors[0] if errors else "chosen" if one == self.chosen else ""
            served = self.served(one, plan.compared)[1]
            if known and one.backend not in ("auto", served):
                note = f"{note} ran as {served}".strip()
            best = min(self.tuned.tuning.header["seconds"].values(), default=0.0)
            if not errors and len(known) < len(plan.buckets):
                note = "slower already" if sum(timing.seconds for timing in known) > best else "not in every bucket"
            name = f"defaults ({', '.join(self.served(one, plan.compared))})" if one == plan.defaults else one.label
            cells = (name, f"{len(known)} of {len(plan.buckets)}", total, note)
            lines.append(Line(cells, phases, best=one == self.chosen))
        return Table(
            "candidates",
            "All that was compared",
            f"Seconds of {DEFAULT_STEPS} steps in all measured buckets together. Of the choice: "
            f"{self.tuned.decision.reason}.",
            ("settings", "buckets", "seconds", ""),
            tuple(lines),
        )

    def generations(self) -> dict[int, Row]:
        """Whole generations of the choice, by steps."""
        rows = self._rows(GENERATION, str(self.plan.compared))
        mine = [row for row in rows if row["candidate"] == self.chosen.label]
        return {row["steps"]: row for row in sorted(mine, key=lambda row: row["steps"])}

    def difference(self, rows: Mapping[int, Row], steps: int) -> str:
        """PSNR of a generation against the one with the most steps."""
        one, other = self.frames(rows[steps]), self.frames(rows[max(rows)])
        if steps == max(rows) or one is None or other is None:
            return NOTHING
        return f"{psnr(one, other):.1f}"

    def frames(self, row: Row | None) -> npt.NDArray[np.uint8] | None:
        """All frames of a row's video, (n, height, width, 3); None where the video is gone."""
        file = self._out / str((row or {}).get("video", ""))
        if file.is_file() and file not in self._videos:
            self._videos[file] = read_frames(file)
        return self._videos.get(file)

    def whole(self, candidate: Candidate, steps: int) -> Row | None:
        """A whole generation of a candidate."""
        rows = self._rows(GENERATION, str(self.plan.compared))
        return next((row for row in rows if row["candidate"] == candidate.label and row["steps"] == steps), None)

    def timing(self, candidate: Candidate, bucket: Bucket, steps: int) -> Timing | None:
        """A whole generation's; else one that is projected from another whole one, else from a probe."""
        rows = self._rows(GENERATION, str(bucket))
        mine = {row["steps"]: row for row in rows if row["candidate"] == candidate.label}
        if steps in mine:
            row = mine[steps]
            return Timing(row["seconds"], row["phases"], row["step_seconds"], row["peak_gib"], exact=True)
        return _projected(mine[max(mine)], steps) if mine else self._probe(candidate, bucket, steps)

    def served(self, candidate: Candidate, bucket: Bucket) -> tuple[str, str, str]:
        """Placement, backend and precision that a candidate came to."""
        rows = self._rows(PROBE, str(bucket))
        row = next((row for row in rows if row["candidate"] == candidate.label), None)
        if row is None:
            return candidate.placement, candidate.backend, candidate.precision
        return row["served"]["placement"], row["served"]["backend"], row["served"]["precision"]

    def _probe(self, candidate: Candidate, bucket: Bucket, steps: int = DEFAULT_STEPS) -> Timing | None:
        rows = self._rows(PROBE, str(bucket))
        row = next((row for row in rows if row["candidate"] == candidate.label), None)
        return None if row is None else _projected(row, steps)

    def _rows(self, what: str, bucket: str) -> list[Row]:
        named = [row for row in self.tuned.rows if row["what"] == what and row["bucket"] == bucket]
        return [row for row in named if "error" not in row]

    @property
    def _too_large(self) -> dict[str, str]:
        """What placements are predicted to need that do not fit here, in the leanest way to run each."""
        needs: dict[tuple[str, ...], Estimate] = {}
        for one in self.machine.forecasts:
            worst = needs.get(one.asked)
            if not one.fits and (worst is None or one.estimate.least_card > worst.least_card):
                needs[one.asked] = one.estimate
        leanest: dict[str, Estimate] = {}
        for (place, *_), need in needs.items():
            if place not in leanest or need.least_card < leanest[place].least_card:
                leanest[place] = need
        return {
            place: f"{need.least_card / GIB:.1f} predicted for {need.bucket}, does not fit"
            for place, need in leanest.items()
        }


def psnr(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two videos in dB; infinite for equal ones."""
    error = float(np.mean((one.astype(np.float32) - other.astype(np.float32)) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def markdown(tables: Sequence[Table]) -> str:
    """The tables for a document."""
    parts = []
    for table in tables:
        parts += [f"## {table.heading}", "", table.note, "", f"| {' | '.join(table.columns)} |"]
        parts += [f"|{'---|' * len(table.columns)}"]
        for line in table.lines:
            cells = [cell.replace("|", "\\|") for cell in line.cells]
            parts.append(f"| {' | '.join(f'**{cell}**' if line.best and cell else cell for cell in cells)} |")
        parts.append("")
    return "\n".join(parts)


def _projected(row: Row, steps: int) -> Timing:
    denoise = row["once_seconds"] + steps * row["step_seconds"]
    phases = {**row["phases"], Phase.DENOISE.value: denoise}
    return Timing(projected(row, steps), phases, row["step_seconds"], row["peak_gib"], exact=False)


def _leanest_first(place: str) -> tuple[int, str]:
    return (-FASTEST_FIRST.index(place) if place in FASTEST_FIRST else 1, place)


def _gib(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"


def _short(seconds: float) -> str:
    """Three digits, and none that a run cannot tell."""
    if seconds >= 100:
        return f"{seconds:.0f}"
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}" if seconds >= 1 else f"{seconds:.3f}"
