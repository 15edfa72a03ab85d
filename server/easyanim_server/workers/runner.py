"""One job's way through the engine and the video encoder, measured phase by phase."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from easyanim_server.domain.events import CHUNK_BYTES, NO_WORK, Chunk, Completed, Encoding, Phase, Progress
from easyanim_server.domain.job import Job
from easyanim_server.domain.protocols import Engine
from easyanim_server.domain.receipt import comment
from easyanim_server.media.encoder import VideoEncoder, require_codec
from easyanim_server.prompts.negative import RECOMMENDED


class JobRunner:
    """Runs one job; says what happens and checks for cancellation between any two units of work."""

    def __init__(
        self,
        engine: Engine,
        job: Job,
        say: Callable[[Progress | Chunk | Completed], None],
        check: Callable[[], None],
    ) -> None:
        """Prepare; nothing happens before `run`.

        Args:
            engine: Used by this generation alone until `run` returns.
            job: What to do.
            say: Takes every event, in order.
            check: Called between units of work; raises to stop.
        """
        self._engine = engine
        self._job = job
        self._say = say
        self._check = check
        self._digest = hashlib.sha256()
        self._size = 0
        self._seconds: dict[Phase, float] = {}
        self._encoding_began: float | None = None
        self._encoding_busy = 0.0
        self._work = NO_WORK
        self._began = self._phase_began = self._heard = time.perf_counter()

    def run(self) -> None:
        """Generate the video; whatever it raises, the engine is as good as new afterwards."""
        engine, job = self._engine, self._job
        engine.peak_bytes(reset=True)
        self._check()
        require_codec(job.output)  # it is opened only when all steps are taken
        sampling = engine.begin(job, self._observe)
        self._observe(Phase.DENOISE, 0, job.steps)
        for step in range(job.steps):
            engine.step(sampling)
            self._work = engine.work(sampling)
            self._observe(Phase.DENOISE, step + 1, job.steps)
        latents = engine.fingerprint(sampling)
        self._work = work = engine.work(sampling)
        self._decode(sampling, comment(job, engine.model, engine.readiness(job.bucket), latents, work, RECOMMENDED))
        self._say(
            Completed(
                size=self._size,
                sha256=self._digest.digest(),
                seconds=self._seconds,
                total_seconds=time.perf_counter() - self._began,
                peak_device_bytes=engine.peak_bytes(),
                model=engine.model,
                readiness=engine.readiness(job.bucket),
                latents_sha256=latents,
                encoding=Encoding((self._encoding_began or self._began) - self._began, self._encoding_busy),
                work=work,
                lookups=engine.lookups(),
            )
        )

    def _decode(self, sampling: object, comment: str) -> None:
        bucket = self._job.bucket
        done = 0
        self._observe(Phase.DECODE, 0, bucket.frames)
        with (
            VideoEncoder(
                self._job.output,
                width=bucket.width,
                height=bucket.height,
                fps=self._job.fps,
                frames=bucket.frames,
                comment=comment,
            ) as video,
            closing(self._engine.decode(sampling)) as groups,
        ):
            for frames in groups:
                if not len(frames):  # on its way: a sign of life, and a chance to leave
                    self._observe(Phase.DECODE, done, bucket.frames)
                    continue
                with self._encoding():
                    data = video.write(frames)
                self._write(data)
                done += len(frames)
                self._observe(Phase.DECODE, done, bucket.frames)
            with self._encoding():
                data = video.close()
            self._write(data)
        self._seconds[Phase.DECODE] = time.perf_counter() - self._phase_began

    def _observe(self, phase: Phase, completed: int, total: int) -> None:
        self._check()
        now = time.perf_counter()
        if phase not in self._seconds:  # it began with the end of the last: what was prepared for it is part of it
            self._phase_began = self._heard
        self._heard = now
        self._seconds[phase] = spent = now - self._phase_began
        done = completed - (self._work.running_steps if phase is Phase.DENOISE else 0)
        unit = spent / done if done else None
        reused = self._work.reused_steps
        self._say(Progress(phase, completed, total, unit, now - self._began, eta=None, reused_steps=reused))

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        began = time.perf_counter()
        self._encoding_began = self._encoding_began or began
        yield
        self._encoding_busy += time.perf_counter() - began

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        for start in range(0, len(data), CHUNK_BYTES):
            part = data[start : start + CHUNK_BYTES]
            self._say(Chunk(self._size, part))
            self._size += len(part)
