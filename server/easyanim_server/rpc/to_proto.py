"""Events and server state into the contract's messages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from google.protobuf.duration_pb2 import Duration

from easyanim.v1 import video_pb2 as pb
from easyanim_server import __version__
from easyanim_server.config.settings import Settings
from easyanim_server.domain.events import (
    Accepted,
    Chunk,
    Completed,
    Event,
    Phase,
    Progress,
    PromptWarning,
    Queued,
    Restarted,
)
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.domain.model import BucketStatus, Capabilities
from easyanim_server.domain.profiles import Profile
from easyanim_server.domain.receipt import parameters, receipt
from easyanim_server.domain.record import JobRecord
from easyanim_server.jobs.manager import JobManager
from easyanim_server.media import picture_kinds
from easyanim_server.prompts.tokens import PromptReading
from easyanim_server.telemetry.devices import DeviceStatus


def to_response(event: Event, job: Job) -> pb.GenerateResponse:
    """One event of `job` as it goes to the caller."""
    if isinstance(event, Accepted):
        return pb.GenerateResponse(
            accepted=pb.Accepted(
                job_id=job.id,
                parameters=pb.Parameters(**parameters(job), task=job.task),
                prompt_token_count=event.prompt_tokens,
                prompt_truncated=event.prompt_truncated,
                prompt_warnings=_warnings(event.warnings),
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
                reused_step_count=event.reused_steps,
            )
        )
    if isinstance(event, Chunk):
        # Not as a message, which protobuf would copy into the other one.
        return pb.GenerateResponse(chunk={"offset_bytes": event.offset, "data": event.data})
    if isinstance(event, Restarted):
        return pb.GenerateResponse(
            restarted=pb.Restarted(attempt=event.attempt, reason=event.reason, detail=event.detail)
        )
    return pb.GenerateResponse(completed=_completed(event, job))


def to_server_info(
    settings: Settings, manager: JobManager, devices: Sequence[DeviceStatus], activity: Sequence[pb.Activity]
) -> pb.GetServerInfoResponse:
    """What the server serves and what it is doing.

    Args:
        settings: How it serves.
        manager: What it does.
        devices: As they were just read.
        activity: Of all jobs, see `activity_of`.
    """
    model = pb.Model(name=settings.model)
    readiness: dict[Bucket, BucketStatus] = {}
    capabilities = settings.expected
    if (info := manager.info) is not None:
        model.fingerprint = info.model.fingerprint
        model.transformer_parameter_count = info.model.parameters
        model.attention_mode = info.model.attention_mode
        model.dtype = info.model.dtype
        model.device = info.model.device
        capabilities = info.capabilities
        model.family = capabilities.family
        readiness = {item.bucket: item for item in info.buckets}
    return pb.GetServerInfoResponse(
        version=__version__,
        model=model,
        buckets=_buckets(settings.buckets_of(capabilities), readiness),
        limits=pb.Limits(
            max_request_bytes=settings.max_request_bytes,
            max_image_pixels=settings.max_image_pixels,
            max_prompt_chars=settings.max_prompt_chars,
            max_step_count=capabilities.max_steps,
            max_queued_count=settings.queue_size,
        ),
        state=f"STATE_{manager.state.value}",
        job_count=manager.workload.jobs,
        state_detail=manager.detail,
        placement=info.model.placement if info else "",
        placement_reason=info.model.placement_reason if info else "",
        activity=activity,
        device_status=[_device_status(device) for device in devices],
        profiles=[_profile(name, capabilities.defaults.profile(name), settings) for name in capabilities.profiles],
        picture_mime_types=[picture_kinds.MEDIA_TYPES[kind] for kind in picture_kinds.readable()],
        defaults=_defaults(settings, capabilities) if info else None,
        tasks=sorted(capabilities.tasks) if info else (),
        tokenizers=[
            pb.Tokenizer(name=spec.name, max_token_count=spec.max_tokens)
            for spec in (capabilities.tokenizers if info else ())
        ],
        solvers=capabilities.solvers if info else (),
    )


def _defaults(settings: Settings, capabilities: Capabilities) -> pb.Defaults:
    """What a request gets that has a prompt and nothing else, as `from_proto.to_job` resolves it."""
    catalogue = settings.buckets_of(capabilities)
    name = catalogue[0].name
    return pb.Defaults(
        guidance_scale=capabilities.defaults.guidance,
        step_count=capabilities.defaults.profile(settings.default_profile).steps,
        bucket=name,
        frame_count=max(bucket.frames for bucket in catalogue if bucket.name == name),
    )


def _profile(name: str, profile: Profile, settings: Settings) -> pb.Profile:
    set_ = profile.acceleration
    return pb.Profile(
        name=name,
        step_count=profile.steps,
        acceleration=pb.Acceleration(
            solver=set_.solver.value,
            cache_threshold=set_.cache_threshold,
            guidance_start=set_.guidance_start,
            guidance_end=set_.guidance_end,
        ),
        is_default=name == settings.default_profile,
    )


def activity_of(manager: JobManager) -> Iterator[pb.Activity]:
    """The running jobs, then those that wait; jobs may come and go while this is iterated."""
    for record in tuple(manager.running):
        latest = manager.latest(record)
        progress = latest if isinstance(latest, Progress) else Progress(Phase.TEXT_ENCODE, 0, 1, None, 0.0, None)
        running = _standing(record, progress)
        running.MergeFrom(
            pb.Activity(
                phase=f"PHASE_{progress.phase.value}",
                completed_count=progress.completed,
                total_count=progress.total,
                unit_duration=_duration(progress.unit_seconds),
                elapsed_duration=_duration(progress.elapsed),
            )
        )
        yield running
    for record, queued in manager.waiting():
        waiting = _standing(record, queued)
        waiting.MergeFrom(
            pb.Activity(jobs_ahead_count=queued.ahead, elapsed_duration=_duration(time.monotonic() - record.created))
        )
        yield waiting


def _standing(record: JobRecord, news: Progress | Queued) -> pb.Activity:
    job = record.job
    return pb.Activity(
        job_id=job.id,
        bucket=job.bucket.name,
        frame_count=job.bucket.frames,
        step_count=job.steps,
        eta_duration=_duration(news.eta),
    )


def _device_status(device: DeviceStatus) -> pb.DeviceStatus:
    return pb.DeviceStatus(
        name=device.name,
        memory_used_bytes=device.memory_used,
        memory_total_bytes=device.memory_total,
        utilization_ratio=device.utilization,
        temperature_celsius=device.temperature,
        power_watts=device.power,
    )


def to_lint_response(reading: PromptReading, negative_prompt: str) -> pb.LintPromptResponse:
    """How a prompt would be read."""
    return pb.LintPromptResponse(
        prompt_token_count=reading.tokens,
        max_token_count=reading.max_tokens,
        prompt_truncated=reading.truncated,
        prompt_warnings=_warnings(reading.warnings),
        negative_prompt=negative_prompt,
        tokenizers=[
            pb.Tokenizer(name=count.name, max_token_count=count.max_tokens, token_count=count.tokens)
            for count in reading.counts
        ],
    )


def _warnings(warnings: Sequence[PromptWarning]) -> list[pb.PromptWarning]:
    return [pb.PromptWarning(rule=item.rule, message=item.message, excerpt=item.excerpt) for item in warnings]


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
        receipt=pb.Receipt(**receipt(job, event.model, event.readiness, event.latents_sha256, event.work)),
    )


def _buckets(catalogue: Sequence[Bucket], readiness: Mapping[Bucket, BucketStatus]) -> list[pb.Bucket]:
    by_name: dict[str, list[Bucket]] = {}
    for bucket in catalogue:
        by_name.setdefault(bucket.name, []).append(bucket)
    return [
        pb.Bucket(
            name=name,
            width_px=shapes[0].width,
            height_px=shapes[0].height,
            frame_counts=sorted(shape.frames for shape in shapes),
            plans=[_plan(readiness[shape]) for shape in sorted(shapes) if shape in readiness],
        )
        for name, shapes in by_name.items()
    ]


def _plan(readiness: BucketStatus) -> pb.Plan:
    return pb.Plan(
        frame_count=readiness.bucket.frames,
        backend=readiness.backend,
        precision=readiness.precision,
        attention=readiness.attention,
        build_duration=_duration(readiness.build_seconds),
        prediction_duration=_duration(readiness.prediction_seconds),
        relative_l2=readiness.relative_l2,
        rounding_l2=readiness.rounding_l2,
        cosine_similarity=readiness.cosine,
        guidance_batch=readiness.guidance_batch,
        fallback_reason=readiness.fallback,
        placement=readiness.placement,
        predicted_peak_device_memory_bytes=readiness.predicted_bytes,
        measured_peak_device_memory_bytes=readiness.peak_bytes,
        vae_tiled=readiness.vae_tiled,
    )


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
