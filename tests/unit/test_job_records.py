"""Records of jobs: their states, their order in the queue, and the store that keeps them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easyanim_server.domain.errors import JobCancelled, ResultDropped, ShuttingDown
from easyanim_server.domain.events import Completed, Phase
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.domain.model import BucketStatus, ModelInfo
from easyanim_server.domain.record import JobRecord, JobState
from easyanim_server.jobs.eta import Estimator
from easyanim_server.jobs.queue import BLOCK, IN_ORDER, JobQueue, QueuePolicy
from easyanim_server.jobs.store.memory import MemoryStore
from tests.fakes.clock import SteppedClock
from tests.fakes.worker import DONE

BUCKET = Bucket(64, 64, 5)
SECONDS = 2.0
"""Of a job of one step, once one was measured."""


def record(name: str, created: float = 0.0, bucket: Bucket = BUCKET) -> JobRecord:
    return JobRecord(Job(name, "a cat", "", bucket, steps=1, guidance=1.0, seed=0), created)


def completed(seconds: float = SECONDS) -> Completed:
    model = ModelInfo("simulated", "0" * 64, 0, "original", "float32", "simulated")
    return Completed(1, b"", {Phase.DENOISE: seconds}, seconds, 0, model, BucketStatus(BUCKET, "eager", "x", "y"))


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

    assert [queue.add(item).number for item in (first, second, third, lost)] == [0, 1, 0, 0]
    assert [queue.place(item).number for item in (lost, third, first, second)] == [0, 1, 2, 3]
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


class Shuffled:
    """A policy under which newcomers go anywhere."""

    def key(self, record: JobRecord, now: float) -> tuple[float, ...]:
        return (record.created,)


@pytest.mark.parametrize("policy", [IN_ORDER, Shuffled()])
def test_a_place_in_a_long_queue_costs_a_look_at_its_neighbours(policy: QueuePolicy) -> None:
    estimator = CountingEstimator()
    queue = JobQueue(estimator, policy, clock=SteppedClock())
    waiting = [record(str(number), float(number * 577 % 1009)) for number in range(1009)]
    for item in waiting:
        before = estimator.asked
        queue.add(item)
        assert estimator.asked - before <= 3 * BLOCK
    for item in waiting[::7]:
        before = estimator.asked
        queue.place(item)
        assert queue.expected_seconds == 0.0
        queue.remove(item)
        assert estimator.asked - before <= 3 * BLOCK


BUCKETS = (BUCKET, Bucket(64, 96, 9), Bucket(96, 96, 9))
ACTIONS = st.one_of(
    st.tuples(st.just("add"), st.floats(0, 9), st.sampled_from(BUCKETS)),
    st.tuples(st.just("add"), st.floats(0, 9), st.sampled_from(BUCKETS)),
    st.tuples(st.just("remove"), st.integers(0, 400)),
    st.tuples(st.just("pop")),
    st.tuples(st.just("learn"), st.sampled_from(BUCKETS), st.floats(0.1, 9)),
)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 120), st.lists(ACTIONS, max_size=40))
def test_places_and_sums_are_those_of_a_walk_through_the_queue(length: int, actions: list[Any]) -> None:
    estimator = Estimator()
    queue = JobQueue(estimator, Shuffled(), clock=SteppedClock())
    model: list[JobRecord] = []

    def add(created: float, bucket: Bucket) -> None:
        model.append(record("x", created, bucket))
        model.sort(key=lambda item: item.created)  # as it is stable, arrivals decide among the same
        place = queue.add(item := next(one for one in model if one not in queue))
        assert place == queue.place(item)

    for number in range(length):
        add(float(number * 7 % 10), BUCKETS[number % 2])
    for action, *values in actions:
        if action == "add":
            add(*values)
        elif action == "learn":
            estimator.learn(record("x", bucket=values[0]).job, completed(values[1]))
        elif model and action == "pop":
            assert queue.pop() is model.pop(0)
        elif model:
            queue.remove(model.pop(values[0] % len(model)))

    assert (len(queue), list(queue)) == (len(model), model)
    before: float | None = 0.0
    expected = 0.0
    for number, item in enumerate(model):
        place = queue.place(item)
        assert place.number == number
        assert place.seconds_before == (before if before is None else pytest.approx(before))
        whole = estimator.whole(item.job)
        before = None if before is None or whole is None else before + whole
        expected += estimator.expected(item.job)
    assert queue.expected_seconds == pytest.approx(expected)


def test_the_sums_of_the_queue_follow_what_is_learnt() -> None:
    estimator = Estimator()
    queue = JobQueue(estimator)
    known, other, last = record("1"), record("2", 1.0, Bucket(64, 96, 9)), record("3", 2.0)
    queue.add(known)
    assert queue.add(last).seconds_before is None, "nothing was measured"

    estimator.learn(known.job, completed())
    assert (queue.place(last).seconds_before, queue.expected_seconds) == (SECONDS, 2 * SECONDS)
    queue.add(other)
    assert (queue.place(last).seconds_before, queue.expected_seconds) == (None, 2 * SECONDS)
    queue.remove(other)
    queue.remove(known)
    assert (queue.place(last).seconds_before, queue.expected_seconds) == (0.0, SECONDS)
    queue.pop()
    assert queue.expected_seconds == 0.0


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
