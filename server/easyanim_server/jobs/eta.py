"""How long a generation will take, learnt from those that ran."""

from __future__ import annotations

from typing import Any

from easyanim_server.domain.events import Completed, Phase, Progress
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.domain.model import WorkerInfo

WEIGHT = 0.3
"""Share of the newest measurement in the running mean."""

MOST_KNOWN = 4096

ORDER = (Phase.TEXT_ENCODE, Phase.IMAGE_ENCODE, Phase.DENOISE, Phase.DECODE)


class Estimator:
    """Running means of seconds by bucket and phase.

    Of the steps it is the mean of a prediction, as many as the job would make without a cache. Guidance is part of the
    key, since its two may be made at once, and so is the cache's threshold, which says how many are never made.
    """

    def __init__(self) -> None:
        self._means: dict[tuple[Bucket, bool, float, Phase], float] = {}
        """By shape, whether there is guidance, the step cache's threshold, and phase."""
        self._prepared: dict[Bucket, float] = {}
        """Seconds of a prediction, as measured when the bucket was made ready."""
        self.version = 0
        """Grows with everything that changes an estimate."""
        self._known: dict[Any, tuple[float | None, float]] = {}
        """What `whole` and `expected` have said since something was learnt: queues are long, and asked about often."""

    def prepare(self, served: WorkerInfo) -> None:
        """Take in what a worker measured before its first job."""
        self._prepared = {ready.bucket: ready.prediction_seconds for ready in served.buckets}
        self._forget_estimates()

    def learn(self, job: Job, completed: Completed) -> None:
        """Take in what a finished job measured."""
        self._forget_estimates()
        for phase, seconds in completed.seconds.items():
            value = seconds / job.predictions if phase is Phase.DENOISE else seconds
            key = self._key(job, phase)
            known = self._means.get(key, value)
            self._means[key] = known + WEIGHT * (value - known)

    def whole(self, job: Job) -> float | None:
        """Seconds that `job` will take from start to end; None where its bucket was never run."""
        return self._estimates(job)[0]

    def expected(self, job: Job) -> float:
        """As `whole`; of a bucket that was never run the steps alone, and 0 where not even these were measured."""
        return self._estimates(job)[1]

    def remaining(self, job: Job, progress: Progress) -> float | None:
        """Seconds until `job` is complete; None where no step of its bucket was ever measured."""
        later = ORDER[ORDER.index(progress.phase) + 1 :]
        if Phase.DENOISE in later and self._mean(job, Phase.DENOISE) is None:
            return None
        left = progress.total - progress.completed
        if progress.unit_seconds is not None:
            current = left * progress.unit_seconds
        elif self._mean(job, progress.phase) is not None:
            current = self._phase(job, progress.phase) * left / progress.total
        else:
            return None
        return current + sum(self._phase(job, phase) for phase in later)

    def _estimates(self, job: Job) -> tuple[float | None, float]:
        """What `whole` and `expected` say."""
        key = job.bucket, job.steps, job.guidance > 1.0, job.acceleration, job.start is None
        if (known := self._known.get(key)) is not None:
            return known
        if len(self._known) >= MOST_KNOWN:  # callers choose the keys
            self._known.clear()
        whole = None
        if self._mean(job, Phase.DENOISE) is not None:
            whole = sum(self._phase(job, phase) for phase in ORDER)
        expected = job.predictions * self._prepared.get(job.bucket, 0.0) if whole is None else whole
        self._known[key] = whole, expected
        return whole, expected

    def _forget_estimates(self) -> None:
        self.version += 1
        self._known.clear()

    def _phase(self, job: Job, phase: Phase) -> float:
        # A phase that was never measured counts as nothing: beside the steps the others are a few percent.
        if phase is Phase.IMAGE_ENCODE and job.start is None:
            return 0.0
        mean = self._mean(job, phase) or 0.0
        return mean * job.predictions if phase is Phase.DENOISE else mean

    def _mean(self, job: Job, phase: Phase) -> float | None:
        """What was measured; of a cache that was not, what it takes without one, which is the most that it will."""
        key = self._key(job, phase)
        return self._means.get(key, self._means.get((*key[:2], 0.0, phase)))

    @staticmethod
    def _key(job: Job, phase: Phase) -> tuple[Bucket, bool, float, Phase]:
        # Rounded: callers choose it, and each would be remembered for good.
        threshold = round(job.acceleration.cache_threshold, 2) if phase is Phase.DENOISE else 0.0
        return job.bucket, job.guidance > 1.0, threshold, phase
