"""What observers are told, and that none of them can harm the work."""

from __future__ import annotations

import pytest

from easyanim_server.domain.call import NO_CALL
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.telemetry.observer import JobObserver, JobObservers

JOB = Job("1", "a cat", "", Bucket.parse("64x64x5"), steps=1, guidance=1.0, seed=1)


class Ledger(JobObserver):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def started(self, job: Job, waited: float) -> None:
        self.lines.append(f"started {job.id} after {waited}")

    def sent(self, size: int) -> None:
        self.lines.append(f"sent {size}")


class Broken(JobObserver):
    def started(self, job: Job, waited: float) -> None:
        raise RuntimeError("a fault that was asked for")


def test_every_observer_hears_what_it_cares_about_in_order() -> None:
    first, second = Ledger(), Ledger()
    both = JobObservers(first, second)
    both.queued(JOB, NO_CALL)
    both.started(JOB, 2.0)
    both.sent(3)
    both.ended(JOB, None)
    assert first.lines == second.lines == ["started 1 after 2.0", "sent 3"]


def test_an_observers_fault_is_logged_and_reaches_neither_the_others_nor_the_caller(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ledger = Ledger()
    JobObservers(Broken(), ledger).started(JOB, 1.0)
    assert ledger.lines == ["started 1 after 1.0"]
    assert "telemetry failed" in capsys.readouterr().out
