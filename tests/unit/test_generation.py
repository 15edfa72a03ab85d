"""One job's way through a simulated engine: what is said of it, and what is found out before it costs anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.events import Chunk, Completed, Phase, Progress, Work
from easyanim_server.domain.job import Bucket, Job, OutputFormat
from easyanim_server.media import encoder
from easyanim_server.workers import runner as generation
from easyanim_server.workers.runner import JobRunner
from tests import engines
from tests.engines import SimulatedEngine, SimulatedSampling

JOB = Job("1", "an instant", "", Bucket.parse("32x48x5"), steps=5, guidance=1.0, seed=1)
STEP_SECONDS = 0.1


@pytest.fixture
def said() -> list[Progress | Chunk | Completed]:
    return []


def test_a_format_that_cannot_be_written_is_refused_before_any_work(
    said: list[Progress | Chunk | Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "_has_encoder", lambda codec: codec != "libvpx-vp9")
    job = replace(JOB, output=OutputFormat.WEBM)

    with pytest.raises(ConfigurationError, match="needs the encoder libvpx-vp9"):
        JobRunner(SimulatedEngine("simulated"), job, said.append, lambda: None).run()

    assert said == []


class AheadEngine(SimulatedEngine):
    """Simulates a device: but for the first and the last, a step is told while the one before still runs."""

    def step(self, sampling: SimulatedSampling) -> None:
        sampling.step += 1
        if sampling.step != 2:
            vars(engines)["time"].sleep(STEP_SECONDS * (2 if sampling.step == sampling.job.steps else 1))

    def work(self, sampling: SimulatedSampling) -> Work:
        return Work(running_steps=int(1 < sampling.step < sampling.job.steps))


@pytest.mark.parametrize("kind", [AheadEngine, SimulatedEngine])
def test_a_steps_time_counts_only_steps_that_are_done(
    said: list[Progress | Chunk | Completed], kind: Callable[[str], SimulatedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = SimpleNamespace(sleep=sleep, perf_counter=lambda: now)
    monkeypatch.setattr(engines, "time", clock)
    monkeypatch.setattr(generation, "time", clock)
    monkeypatch.setattr(engines, "UNIT_SECONDS", STEP_SECONDS)
    JobRunner(kind("simulated"), replace(JOB, prompt="a cat"), said.append, lambda: None).run()

    done = said[-1]
    assert isinstance(done, Completed)
    assert sum(done.seconds.values()) == pytest.approx(done.total_seconds, abs=1e-9), "no time belongs to no phase"
    steps = [event for event in said if isinstance(event, Progress) and event.phase is Phase.DENOISE]
    assert [event.completed for event in steps] == [0, 1, 2, 3, 4, 5]
    units = [event.unit_seconds for event in steps[1:]]
    assert all(unit is not None and 0.9 * STEP_SECONDS < unit < 2 * STEP_SECONDS for unit in units), units
