"""Runs every prepared shape once before the first request, and measures what that takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from easyanim_server.domain.errors import ConfigurationError, NonFinite, OutOfDeviceMemory
from easyanim_server.domain.job import START, Bucket, Job, Picture
from easyanim_server.domain.model import BucketStatus
from easyanim_server.engine.compile.planner import DAMAGED
from easyanim_server.engine.finite import require_finite
from easyanim_server.engine.memory.choose import PlacementChoice
from easyanim_server.engine.memory.estimate import TILES_SHARE

if TYPE_CHECKING:
    from easyanim_server.engine.engine import Engine


def warm_up(
    engine: Engine, prepared: Mapping[Bucket, BucketStatus], choice: PlacementChoice | None
) -> dict[Bucket, BucketStatus]:
    """Run all buckets; returns their statuses with what was measured.

    Args:
        engine: Prepared for the buckets.
        prepared: Statuses so far.
        choice: What buckets were predicted to take.

    Raises:
        ConfigurationError: a bucket does not fit into the device's memory, or the model gives no finite numbers.
    """
    warmed: dict[Bucket, BucketStatus] = {}
    vae_peaks: dict[tuple[int, int], int] = {}
    for bucket, status in prepared.items():
        size = (bucket.height, bucket.width)
        try:
            seconds, peak = _step_once(engine, bucket)
            if size not in vae_peaks:
                vae_peaks[size] = _decode_once(engine, bucket)
        except OutOfDeviceMemory as error:
            raise ConfigurationError(f"bucket {bucket} ran out of memory when it was warmed: {error}") from error
        except NonFinite as error:
            raise ConfigurationError(f"bucket {bucket} cannot be served: {error}; {DAMAGED}") from error
        predicted = choice and choice.of(bucket)
        warmed[bucket] = replace(
            status,
            prediction_seconds=seconds,
            vae_tiled=engine.pipeline.tiles(*size),
            predicted_bytes=predicted.peak if predicted else 0,
            peak_bytes=max(peak, vae_peaks[size]),
        )
    return warmed


def _step_once(engine: Engine, bucket: Bucket) -> tuple[float, int]:
    """Take a guided step; returns the seconds of a prediction, and the most device memory in bytes."""
    engine.peak_bytes(reset=True)
    sampling = engine.begin(Job("warm", "", "", bucket, steps=1, guidance=2.0, seed=0))
    began = time.perf_counter()
    engine.step(sampling)
    seconds = (time.perf_counter() - began) / sampling.predictions
    require_finite(sampling.latents, "the latents after a step")
    return seconds, engine.peak_bytes()


def _decode_once(engine: Engine, bucket: Bucket) -> int:
    """Decode a short clip, and encode it where the model takes pictures.

    Returns:
        The most device memory that all frames would take, in bytes.
    """
    black = Picture(bucket.width, bucket.height, bytes(3 * bucket.width * bucket.height))
    start = black if START in engine.capabilities.tasks else None
    short = replace(bucket, frames=min(bucket.frames, engine.pipeline.short_clip))
    engine.peak_bytes(reset=True)
    for _ in engine.decode(engine.begin(Job("warm", "", "", short, steps=1, guidance=1.0, seed=0, start=start))):
        pass
    peak = engine.peak_bytes()
    more = 3 * (bucket.frames - short.frames) * bucket.height * bucket.width * engine.pipeline.dtype.itemsize
    return peak and peak + int(TILES_SHARE * more)
