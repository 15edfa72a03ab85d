"""What produced a video, by the contract's names: for the stream's last event, and for the file's metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container
from typing import Any

from easyanim_server.domain.events import NO_WORK, Work
from easyanim_server.domain.job import Job
from easyanim_server.domain.model import BucketStatus, ModelInfo

FORM = 1
"""Of the metadata; another number where readers of this one would misread it."""


def parameters(job: Job) -> dict[str, Any]:
    """The contract's `Parameters`, enums by name."""
    conditioning = "CONDITIONING_TEXT"
    if job.start is not None:
        conditioning = "CONDITIONING_START" if job.end is None else "CONDITIONING_START_END"
    return {
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "bucket": job.bucket.name,
        "width_px": job.bucket.width,
        "height_px": job.bucket.height,
        "frame_count": job.bucket.frames,
        "step_count": job.steps,
        "guidance_scale": job.guidance,
        "seed": job.seed,
        "frame_rate_fps": job.fps,
        "output_mime_type": job.output.value,
        "fit_policy": f"FIT_POLICY_{job.fit.value}",
        "conditioning": conditioning,
        "profile": job.profile,
        "solver": job.acceleration.solver.value,
        "cache_threshold": job.acceleration.cache_threshold,
        "guidance_start": job.acceleration.guidance_start,
        "guidance_end": job.acceleration.guidance_end,
        "background_color": job.background,
        # Receipts without it keep their bytes.
        **({"guidance_rescale": job.guidance_rescale} if job.guidance_rescale else {}),
    }


def receipt(
    job: Job, model: ModelInfo, readiness: BucketStatus, latents_sha256: str, work: Work = NO_WORK
) -> dict[str, Any]:
    """The contract's `Receipt`, enums by name."""
    return {
        "parameters": parameters(job),
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "attention_mode": model.attention_mode,
        "dtype": model.dtype,
        "device": model.device,
        "backend": readiness.backend,
        "profile": job.profile,
        "attention": readiness.attention,
        "precision": readiness.precision,
        "guidance_batch": readiness.guidance_batch,
        "versions": model.versions,
        "placement": readiness.placement,
        "latents_sha256": latents_sha256,
        "start_image_sha256": job.start.source_sha256 if job.start else "",
        "end_image_sha256": job.end.source_sha256 if job.end else "",
        "reused_step_count": work.reused_steps,
        "prediction_count": work.predictions,
        "cache_coefficients": list(work.cache_coefficients),
    }


def comment(
    job: Job,
    model: ModelInfo,
    readiness: BucketStatus,
    latents_sha256: str,
    work: Work = NO_WORK,
    published: Container[str] = (),
) -> str:
    """The metadata of a job's file: its receipt and the SHA-256 of its prompts, as JSON.

    The prompts themselves stay out unless the job says otherwise: people pass files on without looking at their
    metadata. A negative prompt in `published`, which its users did not write, is kept. Nothing here depends
    on the time or on the job's name, so that the same generation gives the same bytes.
    """
    facts = receipt(job, model, readiness, latents_sha256, work)
    if not job.embed_prompt:
        del facts["parameters"]["prompt"]
        if job.negative_prompt and job.negative_prompt not in published:
            del facts["parameters"]["negative_prompt"]
    document = {
        "easyanim": FORM,
        "prompt_sha256": _sha256(job.prompt),
        "negative_prompt_sha256": _sha256(job.negative_prompt),
        "receipt": facts,
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
