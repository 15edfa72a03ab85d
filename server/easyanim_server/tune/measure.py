"""What one candidate takes: jobs for a worker process, as a server would send them, and what they came to."""

from __future__ import annotations

import re
import statistics
import uuid
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.events import Chunk, Completed, Phase
from easyanim_server.domain.job import Bucket, Job, OutputFormat, Picture
from easyanim_server.prompts.negative import recommended_negative
from easyanim_server.tune.journal import Row
from easyanim_server.workers.process import LocalWorker

GIB = 2**30

PROBED = 8
"""Steps of the generation from which the time of a step is taken."""


class Measure:
    """Measures a worker that is up.

    Args:
        worker: Used by this object alone meanwhile.
        prompt: What every video shows.
        image: What every video starts from; None draws it.
        guidance: Of every video: the loaded model's own.
    """

    def __init__(self, worker: LocalWorker, prompt: str, image: Path | None, guidance: float) -> None:
        self._worker, self._prompt, self._image, self._guidance = worker, prompt, image, guidance

    async def probe(self, bucket: Bucket, steps: int) -> Row:
        """Seconds of that many steps, projected from the median step of a generation of few.

        Raises:
            EasyAnimError: why there is no video.
        """
        await self._generate(bucket, 1, "warm")
        made = await self._generate(bucket, PROBED, "")
        done = made.completed
        # Devices are told one step ahead (`Engine.step`): the first two ends and the last are not a step apart.
        step = statistics.median(later - end for end, later in pairwise(made.ends[1:-1]))
        once = max(0.0, done.seconds[Phase.DENOISE] - PROBED * step)  # the way of weights that wait elsewhere
        phases = {**done.seconds, Phase.DENOISE: once + steps * step}
        return _facts(done, phases) | {"step_seconds": step, "once_seconds": once, "steps_measured": PROBED}

    async def whole(self, bucket: Bucket, steps: int, out: Path) -> Row:
        """Seconds of that many steps, all of which are taken; the video goes into `out`, without loss.

        Raises:
            EasyAnimError: why there is no video.
        """
        await self._generate(bucket, 1, "warm")
        made = await self._generate(bucket, steps, "")
        done = made.completed
        served = done.readiness
        name = f"{bucket}-{steps}-{served.placement}-{served.backend}-{served.precision}-{done.sha256.hex()[:8]}"
        file = out / "videos" / f"{re.sub(r'[^A-Za-z0-9-]+', '_', name)}.mkv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(made.file)
        return _facts(done, done.seconds) | {
            "step_seconds": done.seconds[Phase.DENOISE] / steps,
            "once_seconds": 0.0,
            "steps_measured": steps,
            "video": file.relative_to(out).as_posix(),
            "latents_sha256": done.latents_sha256,
        }

    async def _generate(self, bucket: Bucket, steps: int, note: str) -> _Made:
        """Have a video made; `note` ends the prompt, so that the next text is read and not remembered."""
        prompt = f"{self._prompt} {note}".strip()
        job = Job(
            id=f"tune-{uuid.uuid4().hex[:12]}",
            prompt=prompt,
            negative_prompt=recommended_negative(prompt),
            bucket=bucket,
            steps=steps,
            guidance=self._guidance,
            seed=0,
            output=OutputFormat.MKV,
            start=start_picture(self._image, bucket),
        )
        chunks: list[bytes] = []
        ends: list[float] = []
        completed = None
        async for event in self._worker.run(job):
            if isinstance(event, Chunk):
                chunks.append(event.data)
            elif isinstance(event, Completed):
                completed = event
            elif event.phase is Phase.DENOISE and event.completed:
                ends.append(event.elapsed)
        assert completed is not None, "a job ends in Completed or raises"
        return _Made(completed, b"".join(chunks), ends)


@dataclass(frozen=True)
class _Made:
    completed: Completed
    file: bytes
    ends: list[float]
    """Of each step, in seconds since the start of work."""


def projected(row: Row, steps: int) -> float:
    """Seconds of a generation with that many steps, from what a probe found."""
    around = sum(seconds for phase, seconds in row["phases"].items() if phase != Phase.DENOISE.value)
    return float(around + row["once_seconds"] + steps * row["step_seconds"])


def start_picture(image: Path | None, bucket: Bucket) -> Picture:
    """The picture that videos start from, cropped to the bucket: the caller's, or a sun over water.

    Raises:
        ConfigurationError: the file is no picture.
    """
    size = (bucket.width, bucket.height)
    if image is None:
        drawn = Image.fromarray(_sunset(*size))
    else:
        try:
            with Image.open(image) as opened:
                drawn = ImageOps.fit(ImageOps.exif_transpose(opened).convert("RGB"), size)
        except OSError as error:
            raise ConfigurationError(f"image {str(image)!r} is no picture: {error}") from error
    return Picture(*size, drawn.tobytes())


def _sunset(width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j][..., None]
    sky = (1 - y) * np.array([50, 70, 140]) + y * np.array([255, 170, 90])
    sea = 0.55 * sky[::-1] + 30 * np.sin(90 * y**2)
    sun = np.exp(-(((x - 0.5) * width / height) ** 2 + (y - 0.42) ** 2) / 0.006)
    picture = np.where(y < 0.6, sky, sea) + sun * np.array([120, 120, 100])
    return np.asarray(picture.clip(0, 255), dtype=np.uint8)


def _facts(done: Completed, phases: dict[Phase, float]) -> Row:
    ready, peak = done.readiness, done.peak_device_bytes
    return {
        "seconds": sum(phases.values()),
        "phases": {phase.value: phases[phase] for phase in Phase if phase in phases},
        "peak_gib": peak / GIB if peak else None,
        "served": {
            "placement": ready.placement,
            "backend": ready.backend,
            "precision": ready.precision,
            "attention": ready.attention,
            "guidance_batch": ready.guidance_batch,
            "vae_tiled": ready.vae_tiled,
        },
        "fallback": ready.fallback,
    }
