"""Fits the step cache's polynomial to a model, from generations in which every step is computed.

Each step but the first and the last gives a point: how much the first block's input has changed since the step before
(what the cache can see), against how much has changed what the blocks add to the video's tokens (what it would get
wrong). Both are relative L1 distances; the second one is that of the prompt's prediction.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from easyanim_server.config.coefficients import DEGREE
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import Job
from easyanim_server.domain.wording import counted
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.step_cache.teacache import UNFITTED, StepCache

PROMPTS = (
    "A woman in a red coat walks through a snowy street at night, the camera follows her from behind.",
    "Steam rises from a cup of coffee on a wooden table, soft morning light, the camera stands still.",
    "A golden retriever runs along a beach towards the camera, waves break behind it, slow motion.",
    "An aerial view of a river in an autumn forest, the camera flies forward, mist over the water.",
)
"""Of generations where no others are given: people, still life, fast movement, and a moving camera."""

Point = tuple[float, float]
"""Change of the first block's input, and change of what the blocks add."""

LEAST_POINTS = 2 * (DEGREE + 1)


@dataclass(frozen=True)
class Fit:
    """A polynomial and where it comes from."""

    coefficients: tuple[float, ...]
    """Highest power first."""
    model: str
    model_fingerprint: str
    bucket: str
    steps: int
    guidance: float
    points: int
    """How many it was fitted to."""
    change_range: Point
    """Least and largest change of the input among them; outside of it the polynomial says nothing."""
    rms_error: float
    """Root of the mean square of what it misses."""

    def write(self, file: Path) -> None:
        """Write it for the setting `cache_coefficients` to read.

        Raises:
            OSError: the file cannot be written.
        """
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def observe(engine: Engine, job: Job) -> list[Point]:
    """Run a job with every step computed; returns the points of its steps, in order.

    Raises:
        ValueError: as `Engine.begin`.
        OutOfDeviceMemory: the device cannot hold it.
    """
    sampling = engine.begin(job)
    sampling.cache = cache = StepCache(0.0, UNFITTED)
    points = []
    while not sampling.done:
        inner = 0 < sampling.index < sampling.steps - 1
        change = engine.change(sampling) if inner else 0.0
        before = cache.residuals[:1]
        engine.step(sampling)
        if inner:
            was, now = before[0], cache.residuals[0]
            distance = (now - was).abs().sum(dtype=torch.float32) / was.abs().sum(dtype=torch.float32)
            points.append((change, float(distance)))
    return points


def point_count(generations: int, steps: int) -> int:
    """How many points so many generations of so many steps give."""
    return generations * max(0, steps - 2)


def require_points(count: int) -> None:
    """Refuse fewer points than a polynomial needs.

    Raises:
        ConfigurationError: they do not determine it, whatever they are.
    """
    if count < LEAST_POINTS:
        raise ConfigurationError(
            f"{count} points do not determine a polynomial of degree {DEGREE}; at least {LEAST_POINTS} are needed, and "
            "every step of a generation but the first and the last gives one: more steps or generations"
        )


def fit(points: Sequence[Point]) -> tuple[tuple[float, ...], float]:
    """Coefficients of the polynomial of least squares, highest power first, and the root of its mean square error.

    Raises:
        ConfigurationError: the points do not determine it.
    """
    require_points(len(points))
    changes, distances = np.array(points, dtype=np.float64).reshape(-1, 2).T
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.RankWarning)
        try:
            coefficients = np.polyfit(changes, distances, DEGREE)
        except np.exceptions.RankWarning as error:
            raise ConfigurationError(
                "changes of the input are too much alike to determine a polynomial; other prompts or more steps help"
            ) from error
    missed = np.polyval(coefficients, changes) - distances
    return tuple(map(float, coefficients)), float(np.sqrt(np.mean(missed**2)))


def fit_model(engine: Engine, jobs: Sequence[Job], report: Callable[[str], None]) -> Fit:
    """Run jobs that differ in prompt and seed alone, and fit.

    Raises:
        ConfigurationError: they do not determine the polynomial.
    """
    points: list[Point] = []
    for number, job in enumerate(jobs, 1):
        report(f"generation {number} of {len(jobs)}: {job.bucket}, {counted(job.steps, 'step')}, {job.prompt[:60]!r}")
        points += observe(engine, job)
    coefficients, error = fit(points)
    changes = [change for change, _ in points]
    return Fit(
        coefficients=coefficients,
        model=engine.model.name,
        model_fingerprint=engine.model.fingerprint,
        bucket=str(jobs[0].bucket),
        steps=jobs[0].steps,
        guidance=jobs[0].guidance,
        points=len(points),
        change_range=(min(changes), max(changes)),
        rms_error=error,
    )
