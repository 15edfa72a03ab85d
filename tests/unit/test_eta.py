"""Estimates are what was measured, for the bucket and guidance that it was measured with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.domain.events import Completed, Phase, Progress
from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.domain.model import BucketStatus, ModelInfo, PromptTokenizer, WorkerInfo
from easyanim_server.jobs.eta import Estimator

MODEL = ModelInfo("m", "", 0, "original", "float32", "cpu")
JOB = Job("1", "", "", Bucket(64, 64, 5), steps=10, guidance=6.0, seed=0, start=Picture(64, 64, b""))
READY = BucketStatus(JOB.bucket, "eager", "float32", "torch")
SECONDS = {Phase.TEXT_ENCODE: 1.0, Phase.IMAGE_ENCODE: 2.0, Phase.DENOISE: 20.0, Phase.DECODE: 4.0}


@pytest.fixture
def learnt() -> Estimator:
    estimator = Estimator()
    estimator.learn(JOB, Completed(1, b"", SECONDS, 27.0, 0, MODEL, READY))
    return estimator


def at(phase: Phase, completed: int, total: int, unit: float | None = None) -> Progress:
    return Progress(phase, completed, total, unit, elapsed=0.0, eta=None)


def test_nothing_is_promised_before_anything_was_measured() -> None:
    assert Estimator().whole(JOB) is None
    assert Estimator().remaining(JOB, at(Phase.TEXT_ENCODE, 1, 2, 0.5)) is None


def test_a_whole_job_is_the_sum_of_its_phases_with_the_steps_it_asks_for(learnt: Estimator) -> None:
    assert learnt.whole(JOB) == pytest.approx(27.0)
    assert learnt.whole(replace(JOB, steps=20)) == pytest.approx(47.0)
    assert learnt.whole(replace(JOB, start=None)) == pytest.approx(25.0), "without a picture nothing is encoded"


def test_other_buckets_and_unguided_jobs_are_measured_by_themselves(learnt: Estimator) -> None:
    assert learnt.whole(replace(JOB, bucket=Bucket(64, 64, 9))) is None
    assert learnt.whole(replace(JOB, guidance=1.0)) is None


def test_what_remains_shrinks_with_progress_and_trusts_this_jobs_own_pace(learnt: Estimator) -> None:
    assert learnt.remaining(JOB, at(Phase.TEXT_ENCODE, 0, 2)) == pytest.approx(27.0)
    assert learnt.remaining(JOB, at(Phase.DENOISE, 4, 10, 3.0)) == pytest.approx(6 * 3.0 + 4.0)
    assert learnt.remaining(JOB, at(Phase.DECODE, 5, 5, 1.0)) == 0.0


def test_the_first_job_has_an_estimate_from_its_first_step_on() -> None:
    assert Estimator().remaining(JOB, at(Phase.DENOISE, 1, 10, 2.0)) == pytest.approx(18.0)


def test_estimates_follow_a_change_of_pace(learnt: Estimator) -> None:
    slower = {**SECONDS, Phase.DENOISE: 40.0}
    for _ in range(10):
        learnt.learn(JOB, Completed(1, b"", slower, 47.0, 0, MODEL, READY))
    assert learnt.whole(JOB) == pytest.approx(47.0, rel=0.05)


def test_a_bucket_that_was_never_run_is_expected_to_take_what_its_warm_up_measured(learnt: Estimator) -> None:
    other = replace(JOB, bucket=Bucket(96, 64, 9))
    model = PromptTokenizer("", "", "", 256)
    learnt.prepare(
        WorkerInfo(
            MODEL, model, (replace(READY, bucket=other.bucket, prediction_seconds=0.5),), capabilities=EASYANIMATE_V51
        )
    )

    assert learnt.expected(other) == pytest.approx(10.0), "10 steps, with guidance two predictions each"
    assert learnt.expected(JOB) == pytest.approx(27.0)
    learnt.learn(other, Completed(1, b"", SECONDS, 27.0, 0, MODEL, READY))
    assert learnt.expected(other) == pytest.approx(27.0)
    assert Estimator().expected(JOB) == 0.0
