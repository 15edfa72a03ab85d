"""The table of profiles, and what follows from it for work and time."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from easyanim_server.config.settings import Settings
from easyanim_server.domain.events import Completed, Phase
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.domain.model import BucketStatus, ModelInfo
from easyanim_server.domain.profiles import DEFAULT_PROFILE, PROFILES, Acceleration, Solver
from easyanim_server.jobs.eta import Estimator

JOB = Job("1", "", "", Bucket(64, 64, 5), steps=35, guidance=6.0, seed=0)


def of_profile(name: str) -> Job:
    profile = PROFILES[name]
    return replace(JOB, steps=profile.steps, acceleration=profile.acceleration)


def test_in_exact_everything_is_off() -> None:
    assert PROFILES["exact"].acceleration == Acceleration() == Acceleration(Solver.EULER, 0.0, 0.0, 1.0)
    assert DEFAULT_PROFILE == Settings.model_fields["default_profile"].default == "exact"


def test_the_setting_allows_the_profiles_of_the_table() -> None:
    assert get_args(Settings.model_fields["default_profile"].annotation) == tuple(PROFILES)


def test_each_profile_makes_fewer_predictions_than_the_one_before() -> None:
    assert [of_profile(name).predictions for name in PROFILES] == [70, 50, 40, 18]


def test_fifty_exact_steps_with_guidance_are_a_hundred_predictions() -> None:
    assert replace(JOB, steps=50).predictions == 100
    assert replace(JOB, steps=50, guidance=1.0).predictions == 50


@pytest.mark.parametrize("steps", range(1, 201, 7))
def test_shares_of_the_steps_are_exact_where_they_are_whole(steps: int) -> None:
    for start in range(steps + 1):
        interval = Acceleration(guidance_start=start / steps)
        assert sum(interval.guides(step, steps) for step in range(steps)) == steps - start


def test_estimates_count_predictions_and_keep_caches_apart() -> None:
    estimator = Estimator()
    plain = replace(JOB, steps=10)
    done = Completed(
        1, b"", {Phase.DENOISE: 20.0}, 20.0, 0, ModelInfo("m", "", 0, "original", "float32", "cpu"),
        BucketStatus(JOB.bucket, "eager", "float32", "torch"),
    )  # fmt: skip
    estimator.learn(plain, done)

    half = replace(plain, acceleration=Acceleration(guidance_end=0.5))
    assert estimator.whole(half) == pytest.approx(15.0), "15 predictions of one second"
    cached = replace(plain, acceleration=Acceleration(cache_threshold=0.1))
    assert estimator.whole(cached) == pytest.approx(20.0), "at most, as long as none was measured"
    estimator.learn(cached, replace(done, seconds={Phase.DENOISE: 12.0}))
    assert estimator.whole(cached) == pytest.approx(12.0)
    assert estimator.whole(plain) == pytest.approx(20.0)
