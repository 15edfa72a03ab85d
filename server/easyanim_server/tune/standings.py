"""Compares candidates by the rows of a journal: which were measured, and which are still worth measuring."""

from __future__ import annotations

import math

from easyanim_server.domain.job import DEFAULT_STEPS
from easyanim_server.tune.journal import Journal, Row
from easyanim_server.tune.measure import projected
from easyanim_server.tune.plan import Candidate, Decision, TunePlan
from easyanim_server.tune.task import AGAIN, GENERATION, PROBE, Task


class Standings:
    """Compares candidates by the rows that were measured so far.

    Args:
        plan: What is to be measured.
        kind: Of the device, ``cuda`` or ``cpu``.
        journal: Of the rows.
    """

    def __init__(self, plan: TunePlan, kind: str, journal: Journal) -> None:
        self._plan, self._kind, self._journal = plan, kind, journal

    def row(self, candidate: Candidate, task: Task) -> Row | None:
        """The latest row of a task; None where it was not measured."""
        what = GENERATION if task.what == GENERATION else PROBE
        return self._journal.find(what, candidate.label, str(task.bucket), task.steps)

    def done(self, candidate: Candidate, task: Task) -> bool:
        """Whether a task has its row; one of kind `AGAIN` needs a second measurement."""
        row = self.row(candidate, task)
        return row is not None and (task.what != AGAIN or "again" in row)

    def totals(self) -> dict[Candidate, float]:
        """Of the candidates in which every bucket was measured."""
        known = [self._plan.defaults, *self._plan.candidates(self._kind)]
        found = {one: self._seconds(one) for one in known}
        return {one: sum(times) for one, times in found.items() if len(times) == len(self._plan.buckets)}

    def hopeless(self, candidate: Candidate, task: Task) -> bool:
        """Whether it was refuted, or takes longer already than the best takes for all buckets."""
        if self._refuted(candidate):
            return True
        totals = self.totals()
        if task.what == GENERATION or candidate == self._plan.defaults or candidate in totals:
            return False
        return sum(self._seconds(candidate)) > min(totals.values(), default=math.inf)

    def is_defaults(self, candidate: Candidate) -> bool:
        """Whether it is what the defaults come to here."""
        row = self.row(self._plan.defaults, Task(PROBE, self._plan.compared, DEFAULT_STEPS))
        served = (row or {}).get("served")
        same = served and (served["placement"], served["backend"]) == (candidate.placement, candidate.backend)
        return bool(same) and candidate.precision == self._plan.base.precision

    def start_seconds(self) -> float:
        """What it takes at least to start a worker, as far as it was seen."""
        return min((row["start_seconds"] for row in self._journal.rows if "start_seconds" in row), default=0.0)

    def expected(self, candidate: Candidate, task: Task) -> float:
        """Seconds of a whole generation; 0 where nothing is known of them."""
        row = self.row(candidate, Task(PROBE, task.bucket, DEFAULT_STEPS))
        return 0.0 if row is None or "error" in row else projected(row, task.steps)

    def check_seconds(self) -> float:
        """What the check takes of a candidate as fast as the defaults: two starts, two videos, second probes."""
        rows = [self.row(self._plan.defaults, Task(PROBE, bucket, DEFAULT_STEPS)) for bucket in self._plan.buckets]
        if any(row is None or "error" in row for row in rows):
            return 0.0
        probed = [row for row in rows if row]
        videos = 2 * (probed[0]["start_seconds"] + projected(probed[0], DEFAULT_STEPS) + projected(probed[0], 1))
        return float(videos + sum(projected(row, 1) + projected(row, row["steps_measured"]) for row in probed))

    def first_error(self) -> str:
        """The earliest error of any row, in one sentence."""
        return next((row["error"] for row in self._journal.rows if "error" in row), "the budget was too short")

    def doubt(self, decision: Decision) -> str:
        """Why the defaults stay after all, in one sentence; empty where they do not, or were the best anyway."""
        chosen = decision.candidate
        if self._refuted(chosen):
            return f"in a whole generation {chosen.label} was not faster"
        if not self._checked(chosen):
            promise = f"{chosen.label} promised {decision.reason}"
            return f"{promise}; no time was left to check that: run the same command again"
        return ""

    def _seconds(self, candidate: Candidate) -> list[float]:
        """Of the buckets that were probed, projected to the usual steps."""
        rows = [self.row(candidate, Task(PROBE, bucket, DEFAULT_STEPS)) for bucket in self._plan.buckets]
        return [row["seconds"] for row in rows if row and "error" not in row]

    def _refuted(self, candidate: Candidate) -> bool:
        """Whether a whole generation failed, or took longer than with the defaults."""
        usual = Task(GENERATION, self._plan.compared, DEFAULT_STEPS)
        mine, theirs = (self.row(one, usual) for one in (candidate, self._plan.defaults))
        if candidate == self._plan.defaults or mine is None or theirs is None or "error" in theirs:
            return False
        return "error" in mine or mine["seconds"] > theirs["seconds"]

    def _checked(self, candidate: Candidate) -> bool:
        """Whether it stood beside the defaults in all that a choice must win, or the defaults cannot serve."""
        defaults = self._plan.defaults
        if candidate == defaults or defaults not in self.totals():
            return True
        usual = Task(GENERATION, self._plan.compared, DEFAULT_STEPS)
        again = [Task(AGAIN, bucket, DEFAULT_STEPS) for bucket in self._plan.buckets]
        return self.done(candidate, usual) and all(self.done(defaults, task) for task in (*again, usual))
