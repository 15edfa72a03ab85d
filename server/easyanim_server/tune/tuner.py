"""The command `easyanim-server tune`: measures candidates as they would serve, and writes what is best here.

Each candidate is a worker process like the server's, and each measurement is a job that it is given, so that one which
runs out of memory or crashes costs its own row and no other.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from easyanim_server.benchmark import record
from easyanim_server.config import tuned as tuning
from easyanim_server.domain.errors import ConfigurationError, EasyAnimError
from easyanim_server.domain.job import DEFAULT_STEPS
from easyanim_server.tune.journal import Journal, Row
from easyanim_server.tune.measure import GIB, Measure
from easyanim_server.tune.plan import (
    BEFORE,
    BEFORE_STEPS,
    Candidate,
    Decision,
    Machine,
    TunePlan,
    decide,
    for_candidates,
)
from easyanim_server.tune.standings import Standings
from easyanim_server.tune.task import AGAIN, GENERATION, PROBE, Task, named, sentence
from easyanim_server.workers.process import DEFAULT_ENGINE, LocalWorker

FOR_BEFORE = 0.1
"""Of the budget, for a whole generation as it was before; one that takes longer waits until all else is measured."""


@dataclass(frozen=True)
class Tuned:
    """What a run came to."""

    tuning: tuning.Tuning
    decision: Decision
    rows: list[Row]
    left_out: list[str]
    """What was not measured and why, a sentence each."""
    measured: int
    """Rows that this run added."""


class Tuner:
    """Carries a plan out.

    Args:
        plan: What to measure.
        machine: What `plan.look` found.
        out: Folder of the results.
        say: Takes a line about what is done.
        retry: Whether earlier failures are measured again.
        engine_path: What runs inside the workers.
    """

    def __init__(
        self,
        plan: TunePlan,
        machine: Machine,
        out: Path,
        say: Callable[[str], None],
        retry: bool = False,
        engine_path: str = DEFAULT_ENGINE,
    ) -> None:
        self._plan, self._machine, self._out, self._say, self._engine_path = plan, machine, out, say, engine_path
        self._began = time.monotonic()
        self._header = {
            "model": plan.base.model,
            "revision": plan.base.revision,
            "device": machine.device,
            **machine.facts,
            "commit": record.commit(),
            "vram_limit_gib": plan.base.vram_limit_gib,
            "vae_tiling": plan.base.vae_tiling,
            "prompt": plan.prompt,
            "image": hashlib.sha256(plan.image.read_bytes()).hexdigest()[:12] if plan.image else None,
        }
        self.journal = Journal(out / "results.jsonl", self._header, retry)
        self._standings = Standings(plan, machine.kind, self.journal)
        self._unfit: list[str] = []
        self._left_out: dict[tuple[Candidate, Task], str] = {}
        """Why a task was left out when it was last its turn; it may have been done since."""
        self._added = 0

    async def run(self) -> Tuned:
        """Measure what is missing, as long as there is time; write the tuning file.

        Raises:
            ConfigurationError: not even the defaults, nor anything else, can serve these buckets here.
        """
        plan, defaults, compared = self._plan, self._plan.defaults, self._plan.compared
        probes = [Task(PROBE, bucket, DEFAULT_STEPS) for bucket in plan.buckets]
        await self._measure(defaults, probes, until=math.inf)
        candidates_end = self._began + for_candidates(plan.budget, self._standings.check_seconds())
        before = Task(GENERATION, compared, BEFORE_STEPS, within=FOR_BEFORE * plan.budget)
        await self._measure(BEFORE, [Task(PROBE, compared, DEFAULT_STEPS), before], candidates_end)
        for candidate in plan.candidates(self._machine.kind):
            if not self._standings.is_defaults(candidate) and self._fits(candidate):
                await self._measure(candidate, probes, candidates_end)
        decision = decide(defaults, self._standings.totals())
        if not self._standings.totals():
            raise ConfigurationError(f"nothing could be measured in every bucket: {self._standings.first_error()}")
        end = self._began + plan.budget
        counts = sorted({*plan.steps, DEFAULT_STEPS})
        # The most steps are what others are compared with; the usual ones may refute the decision.
        counts = list(dict.fromkeys((DEFAULT_STEPS, counts[-1], *counts)))
        generations = [Task(GENERATION, compared, steps) for steps in counts]
        if decision.candidate != defaults:
            # Side by side with what is to replace them: the machine may have been slower when it began.
            again = [Task(AGAIN, bucket, DEFAULT_STEPS) for bucket in plan.buckets]
            await self._measure(defaults, [*again, generations[0]], end)
            decision = decide(defaults, self._standings.totals())
        await self._measure(decision.candidate, generations, end)
        doubt = self._standings.doubt(decision)
        if doubt:
            decision = Decision(defaults, doubt)
            await self._measure(defaults, generations, end)
        await self._measure(BEFORE, [replace(before, within=math.inf)], end)
        return self._written(decision)

    async def _measure(self, candidate: Candidate, tasks: Sequence[Task], until: float) -> None:
        """Do those tasks that were not done before, in one worker process."""
        missing = [task for task in tasks if not self._standings.done(candidate, task)]
        if not missing or self._standings.hopeless(candidate, missing[0]):
            return
        if time.monotonic() + self._standings.start_seconds() >= until:
            self._leave_out(candidate, missing, "the budget is spent")
            return
        self._say(f"{self._clock()} {candidate.label}: starting")
        buckets = self._plan.buckets
        worker = LocalWorker(candidate.settings(self._plan.base, buckets), self._engine_path)
        left = None if until == math.inf else until - time.monotonic()
        try:
            await asyncio.wait_for(self._in_worker(worker, candidate, missing, until), left)
        except asyncio.TimeoutError:
            rest = [task for task in missing if not self._standings.done(candidate, task)]
            self._leave_out(candidate, rest, "cut off when the budget was spent")
        finally:
            await worker.stop()

    async def _in_worker(self, worker: LocalWorker, candidate: Candidate, tasks: Sequence[Task], until: float) -> None:
        began = time.monotonic()
        try:
            served = await worker.start(lambda detail: self._say(f"{self._clock()}   {detail}"))
        except EasyAnimError as error:
            for task in tasks:
                self._add(candidate, task, {"error": _line(error)})
            return
        start_seconds = time.monotonic() - began
        for task in tasks:
            if self._standings.hopeless(candidate, task):
                self._say(f"{self._clock()}   slower than another already: the rest is left out")
                return
            expected = self._standings.expected(candidate, task) if task.what == GENERATION else 0.0
            if expected > task.within:
                continue
            if time.monotonic() + expected > until:
                self._leave_out(candidate, [task], "it would go beyond the budget")
                continue
            try:
                found = await self._measured(worker, task, served.capabilities.defaults.guidance)
            except EasyAnimError as error:
                self._add(candidate, task, {"error": _line(error)})
                return
            self._add(candidate, task, {**found, "start_seconds": start_seconds})

    async def _measured(self, worker: LocalWorker, task: Task, guidance: float) -> Row:
        measure = Measure(worker, self._plan.prompt, self._plan.image, guidance)
        if task.what != GENERATION:
            return await measure.probe(task.bucket, task.steps)
        return await measure.whole(task.bucket, task.steps, self._out)

    def _add(self, candidate: Candidate, task: Task, found: Row) -> None:
        self._added += 1
        named = {"placement": candidate.placement, "backend": candidate.backend, "precision": candidate.precision}
        what = GENERATION if task.what == GENERATION else PROBE
        where = {"what": what, "candidate": candidate.label, "bucket": str(task.bucket), "steps": task.steps}
        if task.what == AGAIN:
            earlier = self._standings.row(candidate, task)
            if earlier and ("error" in found or earlier.get("seconds", math.inf) <= found["seconds"]):
                found = earlier
            found = {**found, "again": True}
        self.journal.add({**where, **named, **found})
        self._say(f"{self._clock()}   {sentence(self.journal.rows[-1])}")

    def _fits(self, candidate: Candidate) -> bool:
        asked = (candidate.placement, candidate.backend, candidate.precision)
        wrong = [one for one in self._machine.forecasts if one.asked == asked and not one.fits]
        if wrong:
            worst = max(wrong, key=lambda one: one.estimate.least_card)
            need = f"{worst.estimate.bucket} is predicted to need a card with {worst.estimate.least_card / GIB:.1f} GiB"
            self._unfit.append(f"{candidate.label}: {need}")
        return not wrong

    def _leave_out(self, candidate: Candidate, tasks: Sequence[Task], why: str) -> None:
        for task in tasks:
            self._left_out[candidate, replace(task, within=math.inf)] = why
        self._say(f"{self._clock()} not measured: {candidate.label}: {named(tasks)}: {why}")

    def _not_measured(self) -> list[str]:
        """A sentence for each candidate and reason."""
        found: dict[tuple[Candidate, str], list[Task]] = {}
        for (candidate, task), why in self._left_out.items():
            if not self._standings.done(candidate, task):
                found.setdefault((candidate, why), []).append(task)
        return self._unfit + [f"{one.label}: {named(tasks)}: {why}" for (one, why), tasks in found.items()]

    def _written(self, decision: Decision) -> Tuned:
        chosen = decision.candidate
        settings = {"model": self._plan.base.model, "buckets": ",".join(map(str, self._plan.base.catalogue))}
        if chosen != self._plan.defaults:
            settings |= {"placement": chosen.placement, "backend": chosen.backend, "precision": chosen.precision}
        header = {
            **self._header,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "chosen": chosen.label,
            "reason": decision.reason,
            "seconds": {one.label: seconds for one, seconds in self._standings.totals().items()},
        }
        made = tuning.Tuning(header, settings, self.journal.rows)
        tuning.write(self._out / "tuned.json", made)
        return Tuned(made, decision, self.journal.rows, self._not_measured(), self._added)

    def _clock(self) -> str:
        return f"[{time.monotonic() - self._began:4.0f} s of {self._plan.budget:.0f}]"


def _line(error: EasyAnimError) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]
