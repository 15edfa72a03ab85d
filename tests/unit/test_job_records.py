"""Records of jobs: their states, their order in the queue, and the store that keeps them."""

from __future__ import annotations

import pytest

from easyanim_server.domain.errors import JobCancelled, ResultDropped, ShuttingDown
from easyanim_server.domain.events import Completed, Phase
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.domain.model import BucketStatus, ModelInfo
from easyanim_server.domain.record import JobRecord, JobState
from easyanim_server.jobs.eta import Estimator
from easyanim_server.jobs.queue import JobQueue
from easyanim_server.jobs.store.memory import MemoryStore
from tests.fakes.clock import SteppedClock
from tests.unit.test_spool import DONE

BUCKET = Bucket(64, 64, 5)
SECONDS = 2.0
"""Of a job of one step, once one was measured."""


def record(name: str, created: float = 0.0, bucket: Bucket = BUCKET) -> JobRecord:
    return JobRecord(Job(name, "a cat", "", bucket, steps=1, guidance=1.0, seed=0), created)


def completed() -> Completed:
    model = ModelInfo("simulated", "0" * 64, 0, "original", "float32", "simulated")
    return Completed(1, b"", {Phase.DENOISE: SECONDS}, SECONDS, 0, model, BucketStatus(BUCKET, "eager", "x", "y"))


def test_a_record_goes_from_the_queue_to_one_final_state() -> None:
    job = record("1", created=1.0)
    assert (job.state, job.over) == (JobState.QUEUED, False)
    job.start(2.0)
    assert (job.state, job.started) == (JobState.RUNNING, 2.0)
    job.succeed(DONE, 3.0)
    assert (job.state, job.ended, job.completed) == (JobState.SUCCEEDED, 3.0, DONE)

    assert not job.fail(ShuttingDown(), 4.0), "a final state stays"
    assert (job.state, job.failure) == (JobState.SUCCEEDED, None)
    job.lose(ResultDropped("unread"), 5.0)
    assert (job.state, job.completed) == (JobState.FAILED, None)


def test_a_cancelled_record_is_no_failure_and_does_not_run_again() -> None:
    job = record("1")
    assert job.fail(JobCancelled(), 1.0)
    job.start(2.0)
    assert job.state is JobState.CANCELLED


def test_a_restarted_record_waits_for_its_next_attempt() -> None:
    job = record("1")
    job.start(1.0)
    job.restart(2.0)
    assert (job.state, job.attempt, job.requeued, job.started) == (JobState.QUEUED, 2, 2.0, None)


def test_the_queue_gives_attempts_before_newcomers_and_these_as_they_came() -> None:
    queue = JobQueue(Estimator(), clock=SteppedClock())
    first, second, third = record("1", 1.0), record("2", 1.0), record("3", 0.5)
    lost = record("4", 9.0)
    lost.restart(10.0)

    assert [queue.add(item) for item in (first, second, third, lost)] == [True, True, False, False]
    assert [item.job.id for item in queue] == ["4", "3", "1", "2"]
    queue.remove(first)
    assert first not in queue
    assert [queue.pop() for _ in range(len(queue))] == [lost, third, second]
    with pytest.raises(IndexError):
        queue.pop()


def test_another_policy_is_another_order() -> None:
    class NewestFirst:
        def key(self, record: JobRecord, now: float) -> tuple[float, ...]:
            return (-record.created,)

    queue = JobQueue(Estimator(), NewestFirst())
    for number in range(3):
        queue.add(record(str(number), float(number)))
    assert [item.job.id for item in queue] == ["2", "1", "0"]


class CountingEstimator(Estimator):
    """Counts how often it is asked about a job."""

    asked = 0

    def whole(self, job: Job) -> float | None:
        self.asked += 1
        return super().whole(job)


def test_a_new_job_costs_the_same_in_a_short_queue_and_in_a_long_one() -> None:
    estimator = CountingEstimator()
    queue = JobQueue(estimator)

    def cost(name: str) -> int:
        before = estimator.asked
        queue.add(record(name))
        assert queue.whole_seconds is None or queue.expected_seconds >= 0
        return estimator.asked - before

    short = cost("short")
    for number in range(500):
        queue.add(record(str(number)))
    assert 0 < cost("long") <= short


def test_the_sums_of_the_queue_follow_what_is_learnt() -> None:
    estimator = Estimator()
    queue = JobQueue(estimator)
    known, other = record("1"), record("2", bucket=Bucket(64, 96, 9))
    queue.add(known)
    queue.add(record("3"))
    assert queue.whole_seconds is None, "nothing was measured"

    estimator.learn(known.job, completed())
    assert [queue.whole_seconds, queue.expected_seconds] == [2 * SECONDS, 2 * SECONDS]
    queue.add(other)
    assert (queue.whole_seconds, queue.expected_seconds) == (None, 2 * SECONDS)
    queue.remove(other)
    queue.remove(known)
    assert queue.whole_seconds == SECONDS
    queue.pop()
    assert (queue.whole_seconds, queue.expected_seconds) == (0.0, 0.0)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def test_a_store_keeps_records_until_they_are_removed(store: MemoryStore) -> None:
    first, second = record("1"), record("2")
    await store.add(first)
    await store.add(second)
    with pytest.raises(ValueError, match="job 1 is in the store already"):
        await store.add(record("1"))

    assert (store.get("1"), store.get("3")) == (first, None)
    await store.remove(first)
    await store.remove(first)
    await store.save(first)
    assert [*store.records] == [second]
