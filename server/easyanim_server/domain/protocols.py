"""What the floors below offer to those above: an engine to a worker process, a worker to the front."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import Any, Protocol

from easyanim_server.domain.call import NO_CALL, CallContext
from easyanim_server.domain.errors import WorkerLost
from easyanim_server.domain.events import Chunk, Completed, Phase, Progress, Work
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.domain.model import BucketStatus, Capabilities, Lookups, ModelInfo, PromptTokenizer, WorkerInfo

Observer = Callable[[Phase, int, int], None]
"""Called by the engine between units of work with (phase, completed, total).

It may raise to leave the engine, which then is as good as new.
"""


class Engine(Protocol):
    """One model on one device. Used by one thread at a time."""

    @property
    def model(self) -> ModelInfo:
        """What is loaded."""

    @property
    def capabilities(self) -> Capabilities:
        """What the model can be asked for."""

    @property
    def tokenizer(self) -> PromptTokenizer:
        """How prompts are counted."""

    def prepare(self, buckets: Sequence[Bucket], report: Callable[[str], None]) -> tuple[BucketStatus, ...]:
        """Make every bucket ready, so that no request pays for a first time; `report` takes a sentence a stage."""

    def readiness(self, bucket: Bucket) -> BucketStatus:
        """How a bucket is served; known once it was prepared."""

    def begin(self, job: Job, observe: Observer) -> Any:
        """Encode text and pictures and draw the noise; returns a sampling at step 0."""

    def step(self, sampling: Any) -> None:
        """Take one denoising step in place."""

    def work(self, sampling: Any) -> Work:
        """What its steps took so far."""

    def fingerprint(self, sampling: Any) -> str:
        """SHA-256 of the latents' type, shape and bytes, hex."""

    def decode(self, sampling: Any) -> Generator[Any, None, None]:
        """Yield frames in groups as the model decodes them: (n, height, width, 3) uint8 arrays on the host."""

    def peak_bytes(self, reset: bool = False) -> int:
        """Highest device memory since the last reset; 0 on CPU."""

    @property
    def device_uuids(self) -> tuple[str, ...]:
        """The driver's names of the devices in use; empty on the CPU."""

    def lookups(self) -> Lookups:
        """What caches gave since the process began."""

    def probe(self) -> None:
        """Wait for the device; raises where it is broken for as long as this process lives."""


class Worker(Protocol):
    """A place where jobs run, one at a time, seen from the front's event loop."""

    async def start(self, report: Callable[[str], None]) -> WorkerInfo:
        """Bring the worker up; returns when it is warm. `report` takes a sentence for each stage.

        Raises:
            EasyAnimError: it will never come up with these settings.
            WorkerLost: the process died or took too long; another try may succeed.
        """

    def run(self, job: Job, context: CallContext = NO_CALL) -> AsyncIterator[Progress | Chunk | Completed]:
        """Run one job to its end; log lines on it carry the `log_context` of its call.

        Raises:
            EasyAnimError: why there is no video; `JobCancelled` after `cancel`.
        """

    def cancel(self, job: Job) -> None:
        """Ask the worker to leave this job; `run` ends as soon as it has. Never waits."""

    def kill(self) -> None:
        """End a worker that no longer obeys, so that `run` raises `WorkerLost`. Never waits."""

    @property
    def up(self) -> bool:
        """Whether the worker is there, as far as is known."""

    @property
    def beats(self) -> int:
        """Signs of life that it has given so far while it waited for jobs; more of them every second or so."""

    async def lost(self) -> WorkerLost:
        """Wait until the worker is not there any more; returns how it ended."""

    async def stop(self) -> None:
        """End the worker and everything it holds, at once."""
