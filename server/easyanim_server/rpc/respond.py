"""Events and server state into the contract's messages."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from easyanim.v1 import video_pb2 as pb
from easyanim_server import __version__
from easyanim_server import job as jobs
from easyanim_server.job import Accepted, Chunk, Completed, Event, Job, ModelInfo, Phase, Progress, Queued
from easyanim_server.jobs.scheduler import Scheduler
from easyanim_server.settings import Settings


def to_response(event: Event, job: Job) -> pb.GenerateResponse:
    """One event of `job` as it goes to the caller."""
    if isinstance(event, Accepted):
        return pb.GenerateResponse(
            accepted=pb.Accepted(
                job_id=job.id,
                parameters=_parameters(job),
                prompt_token_count=event.prompt_tokens,
                prompt_truncated=event.prompt_truncated,
            )
        )
    if isinstance(event, Queued):
        return pb.GenerateResponse(queued=pb.Queued(jobs_ahead_count=event.ahead, eta_duration=_duration(event.eta)))
    if isinstance(event, Progress):
        return pb.GenerateResponse(
            progress=pb.Progress(
                phase=f"PHASE_{event.phase.value}",
                completed_count=event.completed,
                total_count=event.total,
                unit_duration=_duration(event.unit_seconds),
                elapsed_duration=_duration(event.elapsed),
                eta_duration=_duration(event.eta),
            )
        )
    if isinstance(event, Chunk):
        return pb.GenerateResponse(chunk=pb.Chunk(offset_bytes=event.offset, data=event.data))
    return pb.GenerateResponse(completed=_completed(event, job))


def to_server_info(settings: Settings, scheduler: Scheduler) -> pb.GetServerInfoResponse:
    """What the server serves and what it is doing."""
    model = pb.Model(name=settings.model)
    if (served := scheduler.model) is not None:
        model.fingerprint = served.fingerprint
        model.transformer_parameter_count = served.parameters
        model.attention_mode = served.attention_mode
        model.dtype = served.dtype
        model.device = served.device
    return pb.GetServerInfoResponse(
        version=__version__,
        model=model,
        buckets=_buckets(settings),
        limits=pb.Limits(
            max_request_bytes=settings.max_request_bytes,
            max_image_pixels=settings.max_image_pixels,
            max_prompt_chars=settings.max_prompt_chars,
            max_step_count=jobs.MAX_STEPS,
            max_queued_count=settings.queue_size,
        ),
        state=f"STATE_{scheduler.state.value}",
        job_count=scheduler.job_count,
        state_detail=scheduler.detail,
    )


def _parameters(job: Job) -> pb.Parameters:
    conditioning = pb.CONDITIONING_TEXT
    if job.start is not None:
        conditioning = pb.CONDITIONING_START if job.end is None else pb.CONDITIONING_START_END
    return pb.Parameters(
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        bucket=job.bucket.name,
        width_px=job.bucket.width,
        height_px=job.bucket.height,
        frame_count=job.bucket.frames,
        step_count=job.steps,
        guidance_scale=job.guidance,
        seed=job.seed,
        frame_rate_fps=job.fps,
        output_mime_type=job.output.value,
        fit_policy=f"FIT_POLICY_{job.fit.value}",
        conditioning=conditioning,
    )


def _completed(event: Completed, job: Job) -> pb.Completed:
    return pb.Completed(
        size_bytes=event.size,
        sha256=event.sha256,
        timings=pb.Timings(
            queue_duration=_duration(event.queue_seconds),
            text_encode_duration=_duration(event.seconds.get(Phase.TEXT_ENCODE, 0.0)),
            image_encode_duration=_duration(event.seconds.get(Phase.IMAGE_ENCODE, 0.0)),
            denoise_duration=_duration(event.seconds.get(Phase.DENOISE, 0.0)),
            decode_duration=_duration(event.seconds.get(Phase.DECODE, 0.0)),
            total_duration=_duration(event.total_seconds),
        ),
        peak_device_memory_bytes=event.peak_device_bytes,
        receipt=_receipt(event.model, job),
    )


def _receipt(model: ModelInfo, job: Job) -> pb.Receipt:
    return pb.Receipt(
        parameters=_parameters(job),
        model=model.name,
        model_fingerprint=model.fingerprint,
        attention_mode=model.attention_mode,
        dtype=model.dtype,
        device=model.device,
        backend=model.backend,
        profile=model.profile,
        versions=model.versions,
    )


def _buckets(settings: Settings) -> list[pb.Bucket]:
    counts: dict[str, list[int]] = {}
    for bucket in settings.catalogue:
        counts.setdefault(bucket.name, []).append(bucket.frames)
    sizes = {bucket.name: bucket for bucket in settings.catalogue}
    return [
        pb.Bucket(name=name, width_px=sizes[name].width, height_px=sizes[name].height, frame_counts=sorted(frames))
        for name, frames in counts.items()
    ]


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
