"""What `easyanim-server tune` is to measure, in the order of its worth, and which of it is the best."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from easyanim_server.benchmark import record
from easyanim_server.benchmark import stopwatch as measure
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.execution import Backend, Precision
from easyanim_server.domain.job import MAX_STEPS, Bucket
from easyanim_server.domain.placement import FASTEST_FIRST, IN_8_BITS, PlacementSetting
from easyanim_server.engine.compile.backends import BACKENDS
from easyanim_server.engine.config import EngineConfig
from easyanim_server.engine.devices import device_name, resolve_device
from easyanim_server.engine.memory.choose import Forecast, predicted

PRECISIONS = ("bf16", "fp8")

BEFORE_STEPS = 50
"""Of the naive start: what diffusers' pipeline takes where nobody says otherwise."""

TIE = 0.02
"""How much faster than the defaults others must be to replace them: less is noise."""

CANDIDATES = (0.3, 0.6)
"""Of the budget, at least and at most. The rest is for whole generations, above all those that a choice must win; the
least lets a run get on whose budget is too short for these, and the next run checks."""

_UNITS = {"h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True)
class Candidate:
    """Settings to compare: as `Settings` has them, `auto` included."""

    placement: str
    backend: str
    precision: str

    @property
    def label(self) -> str:
        """Names it in results."""
        return f"{self.placement}, {self.backend}, {self.precision}"

    def settings(self, base: Settings, buckets: Sequence[Bucket]) -> Settings:
        """Those of a server that runs it, quietly."""
        chosen = {
            "placement": PlacementSetting(self.placement),
            "backend": Backend(self.backend),
            "precision": Precision(self.precision),
        }
        return base.model_copy(update={**chosen, "buckets": tuple(buckets), "tuned": None, "log_level": "warning"})


BEFORE = Candidate("sequential_cpu_offload", "eager", "bf16")
"""Where everybody starts who follows the error message about memory."""


@dataclass(frozen=True)
class Machine:
    """Where it is measured. This process must hold no part of the card."""

    device: str
    """The device's name as its maker calls it; ``cpu`` for the processor."""
    kind: str
    """``cuda`` or ``cpu``."""
    facts: Mapping[str, Any]
    """Driver and libraries."""
    forecasts: Sequence[Forecast]
    """Of all candidates; empty on the CPU."""


@dataclass(frozen=True)
class TunePlan:
    """What to measure."""

    base: Settings
    """What candidates are variants of: model, buckets, device."""
    placements: tuple[str, ...]
    backends: tuple[str, ...]
    """Empty for those that suit the device."""
    precisions: tuple[str, ...]
    steps: tuple[int, ...]
    """Of whole generations, whose frames are compared; ascending."""
    budget: float
    """Seconds after which nothing more is begun, and candidates are cut off."""
    prompt: str
    image: Path | None
    """The start picture; None draws one."""

    @classmethod
    def parse(
        cls,
        base: Settings,
        *,
        budget: str,
        steps: str,
        placements: str,
        backends: str | None,
        precisions: str,
        prompt: str,
        image: Path | None = None,
    ) -> TunePlan:
        """Read lists separated by commas.

        Raises:
            ConfigurationError: a word is not known, or a number is not one; names the option, and what is allowed.
        """
        try:
            counts = sorted({int(word) for word in _words(steps)})
        except ValueError:
            counts = []
        if not counts or counts[0] < 1 or counts[-1] > MAX_STEPS:
            raise ConfigurationError(f"steps {steps!r} must be numbers from 1 to {MAX_STEPS}, separated by commas")
        if image is not None and not image.is_file():
            raise ConfigurationError(f"image {str(image)!r} is not a file")
        return cls(
            base=base,
            placements=_chosen("placements", placements, (*FASTEST_FIRST, *IN_8_BITS)),
            backends=_chosen("backends", backends, BACKENDS) if backends else (),
            precisions=_chosen("precisions", precisions, PRECISIONS),
            steps=tuple(counts),
            budget=parse_duration(budget),
            prompt=prompt,
            image=image,
        )

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """What is measured, smallest first. Of two that differ by lying or standing the first stands for both."""
        kept: dict[tuple[int, int, int], Bucket] = {}
        for bucket in self.base.catalogue:
            kept.setdefault((*sorted((bucket.height, bucket.width)), bucket.frames), bucket)  # type: ignore[arg-type]
        return tuple(sorted(kept.values(), key=lambda bucket: bucket.height * bucket.width * bucket.frames))

    @property
    def compared(self) -> Bucket:
        """The bucket in which memory modes, steps, and before and after are compared."""
        return self.buckets[0]

    @property
    def defaults(self) -> Candidate:
        """What `serve` does without tuning."""
        return Candidate(self.base.placement.value, self.base.backend.value, self.base.precision.value)

    def candidates(self, kind: str) -> list[Candidate]:
        """All that may replace the defaults on a device of that kind, those first that promise most."""
        backends = self.backends or (("inductor", "eager") if kind == "cuda" else ("eager",))
        order = [one.value for one in (*FASTEST_FIRST, *IN_8_BITS) if one in self.placements]
        made = [
            Candidate(placement, backend, precision)
            for placement in order
            for backend in backends
            for precision in self.precisions
        ]
        # Sequential offload copies every weight in every step, which no compiler makes faster: once is enough.
        slow = [one for one in made if one.placement == BEFORE.placement and one != BEFORE]
        return [one for one in made if one not in slow and one != self.defaults]

    def look(self) -> Machine:
        """Find out about the machine; where it may have a card, in a process of its own, which holds none of it after.

        Raises:
            ConfigurationError: there is no such device.
            UnsupportedModel: there is no such model.
        """
        if self.base.device == "cpu":
            return _look(self)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_look, self).result()


def _look(plan: TunePlan) -> Machine:
    device = resolve_device(plan.base.device)
    facts = {**measure.machine(device), "cpu": record.processor(), "versions": record.versions()}
    candidates = [plan.defaults, BEFORE, *plan.candidates(device.type)]
    asked = [(one.placement, one.backend, one.precision) for one in candidates if one.placement != "auto"]
    config = replace(EngineConfig.resolve(plan.base), buckets=plan.buckets)
    forecasts = predicted(config, list(dict.fromkeys(asked)))
    return Machine(device_name(device), device.type, facts, forecasts)


@dataclass(frozen=True)
class Decision:
    """Which candidate is the best, and why."""

    candidate: Candidate
    reason: str
    """One sentence."""


def decide(defaults: Candidate, totals: Mapping[Candidate, float]) -> Decision:
    """Pick the candidate with the least time in all buckets together; the defaults, where it is a tie.

    Args:
        defaults: What `serve` does without tuning.
        totals: Seconds of those candidates in which every bucket was measured.
    """
    mine = totals.get(defaults)
    others = {one: seconds for one, seconds in totals.items() if one != defaults}
    if not others:
        return Decision(defaults, "nothing else was measured in every bucket")
    best = min(others, key=lambda one: others[one])
    if mine is None:
        return Decision(best, "the defaults cannot serve these buckets here")
    gain = 1 - others[best] / mine
    if gain < TIE:
        how = f"{best.label} takes {others[best]:.4g} s where the defaults take {mine:.4g} s"
        return Decision(defaults, f"no other is at least {TIE:.0%} faster: {how}")
    return Decision(best, f"{gain:.0%} less time than the defaults: {others[best]:.4g} s for {mine:.4g} s")


def for_candidates(budget: float, check: float) -> float:
    """Seconds of a budget after which candidates are cut off, so that there is time to check the best of them.

    Args:
        budget: Seconds of the run.
        check: Seconds that whole generations of the defaults and the choice take.
    """
    least, most = (share * budget for share in CANDIDATES)
    return max(least, min(most, budget - check))


def parse_duration(text: str) -> float:
    """Read a time such as ``90s``, ``20m`` or ``1h30m``; returns seconds.

    Raises:
        ConfigurationError: it is none.
    """
    if not re.fullmatch(r"(\d+(\.\d+)?[hms])+", text.strip()):
        raise ConfigurationError(f"budget {text!r} must be a time such as 90s, 20m or 1h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _parts(text))
    if seconds <= 0:
        raise ConfigurationError(f"budget {text!r} must be more than nothing")
    return seconds


def _parts(text: str) -> Iterator[tuple[str, str]]:
    for found in re.finditer(r"(\d+(?:\.\d+)?)([hms])", text):
        yield found[1], found[2]


def _words(text: str) -> list[str]:
    return [word for word in text.replace(" ", "").split(",") if word]


def _chosen(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    words = _words(text)
    wrong = [word for word in words if word not in known]
    if wrong or not words:
        raise ConfigurationError(f"{option} {', '.join(wrong)!r} must be one or more of {', '.join(known)}")
    return tuple(dict.fromkeys(words))
