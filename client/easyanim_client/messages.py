"""Messages of the contract as the dataclasses that callers get."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from google.protobuf.duration_pb2 import Duration

from easyanim.v1 import video_pb2 as pb
from easyanim_client.forms import MEDIA_TYPES
from easyanim_client.results import (
    Accepted,
    Parameters,
    Phase,
    Progress,
    PromptReading,
    PromptWarning,
    Queued,
    Receipt,
    Timings,
    TokenCount,
)
from easyanim_client.served import (
    Activity,
    Bucket,
    Defaults,
    DeviceStatus,
    Limits,
    Model,
    Profile,
    ServerInfo,
    State,
    Tokenizer,
)

_FORMATS = {media_type: name for name, media_type in MEDIA_TYPES.items()}


def server_info(message: pb.GetServerInfoResponse) -> ServerInfo:
    """What a server says that it serves."""
    model, limits = message.model, message.limits
    return ServerInfo(
        version=message.version,
        state=State(_word(pb.State, message.state)),
        state_detail=message.state_detail,
        jobs=message.job_count,
        model=Model(
            name=model.name,
            fingerprint=model.fingerprint,
            transformer_parameters=model.transformer_parameter_count,
            attention_mode=model.attention_mode,
            dtype=model.dtype,
            device=model.device,
            family=model.family,
        ),
        buckets=tuple(
            Bucket(item.name, item.width_px, item.height_px, tuple(item.frame_counts)) for item in message.buckets
        ),
        limits=Limits(
            max_request_bytes=limits.max_request_bytes,
            max_image_pixels=limits.max_image_pixels,
            max_prompt_chars=limits.max_prompt_chars,
            max_steps=limits.max_step_count,
            max_queued=limits.max_queued_count,
        ),
        activity=tuple(map(_activity, message.activity)),
        devices=tuple(map(_device_status, message.device_status)),
        profiles=tuple(map(_profile, message.profiles)),
        picture_mime_types=tuple(message.picture_mime_types),
        tasks=tuple(message.tasks),
        tokenizers=tuple(Tokenizer(item.name, item.max_token_count) for item in message.tokenizers),
        solvers=tuple(message.solvers),
        defaults=_defaults(message.defaults) if message.HasField("defaults") else None,
    )


def _defaults(message: pb.Defaults) -> Defaults:
    return Defaults(message.guidance_scale, message.step_count, message.bucket, message.frame_count)


def _profile(message: pb.Profile) -> Profile:
    values = message.acceleration
    return Profile(
        name=message.name,
        steps=message.step_count,
        solver=values.solver,
        cache_threshold=values.cache_threshold,
        guidance_interval=(values.guidance_start, values.guidance_end),
        is_default=message.is_default,
    )


def _activity(message: pb.Activity) -> Activity:
    return Activity(
        job_id=message.job_id,
        bucket=message.bucket,
        frames=message.frame_count,
        steps=message.step_count,
        jobs_ahead=message.jobs_ahead_count,
        phase=Phase(_word(pb.Phase, message.phase)) if message.phase else None,
        completed=message.completed_count,
        total=message.total_count,
        unit_seconds=_seconds(message.unit_duration) if message.HasField("unit_duration") else None,
        elapsed_seconds=_seconds(message.elapsed_duration),
        eta_seconds=_seconds(message.eta_duration) if message.HasField("eta_duration") else None,
    )


def _device_status(message: pb.DeviceStatus) -> DeviceStatus:
    return DeviceStatus(
        name=message.name,
        memory_used=message.memory_used_bytes,
        memory_total=message.memory_total_bytes,
        utilization=message.utilization_ratio,
        temperature=message.temperature_celsius if message.HasField("temperature_celsius") else None,
        power=message.power_watts if message.HasField("power_watts") else None,
    )


def accepted(message: pb.Accepted) -> Accepted:
    """The first event: every default resolved."""
    return Accepted(
        job_id=message.job_id,
        parameters=_parameters(message.parameters),
        prompt_tokens=message.prompt_token_count,
        prompt_truncated=message.prompt_truncated,
        prompt_warnings=_warnings(message.prompt_warnings),
    )


def prompt_reading(message: pb.LintPromptResponse) -> PromptReading:
    """How a server's model would read a prompt."""
    return PromptReading(
        tokens=message.prompt_token_count,
        max_tokens=message.max_token_count,
        truncated=message.prompt_truncated,
        warnings=_warnings(message.prompt_warnings),
        negative_prompt=message.negative_prompt,
        tokenizers=tuple(TokenCount(item.name, item.token_count, item.max_token_count) for item in message.tokenizers),
    )


def _warnings(messages: Iterable[pb.PromptWarning]) -> tuple[PromptWarning, ...]:
    return tuple(PromptWarning(item.rule, item.message, item.excerpt) for item in messages)


def queued(message: pb.Queued) -> Queued:
    """The event that a request waits; seconds as floats."""
    return Queued(
        jobs_ahead=message.jobs_ahead_count,
        eta_seconds=_seconds(message.eta_duration) if message.HasField("eta_duration") else None,
    )


def progress(message: pb.Progress) -> Progress:
    """The event that a phase advanced; seconds as floats."""
    return Progress(
        phase=Phase(_word(pb.Phase, message.phase)),
        completed=message.completed_count,
        total=message.total_count,
        unit_seconds=_seconds(message.unit_duration) if message.HasField("unit_duration") else None,
        elapsed_seconds=_seconds(message.elapsed_duration),
        eta_seconds=_seconds(message.eta_duration) if message.HasField("eta_duration") else None,
        reused_steps=message.reused_step_count,
    )


def _parameters(message: pb.Parameters) -> Parameters:
    return Parameters(
        prompt=message.prompt,
        negative_prompt=message.negative_prompt,
        bucket=message.bucket,
        width=message.width_px,
        height=message.height_px,
        frames=message.frame_count,
        steps=message.step_count,
        guidance=message.guidance_scale,
        seed=message.seed,
        fps=message.frame_rate_fps,
        format=_FORMATS.get(message.output_mime_type, message.output_mime_type),
        fit=_word(pb.FitPolicy, message.fit_policy),
        conditioning=_word(pb.Conditioning, message.conditioning),
        profile=message.profile,
        solver=message.solver or "euler",
        cache_threshold=message.cache_threshold,
        # A server without such a setting sends no profile, and guides every step.
        guidance_interval=(message.guidance_start, message.guidance_end) if message.profile else (0.0, 1.0),
        guidance_rescale=message.guidance_rescale,
        background_color=message.background_color or "#000000",
        task=message.task or _word(pb.Conditioning, message.conditioning),
    )


def timings(message: pb.Timings) -> Timings:
    """How long each phase took, in seconds."""
    return Timings(
        queue_seconds=_seconds(message.queue_duration),
        text_encode_seconds=_seconds(message.text_encode_duration),
        image_encode_seconds=_seconds(message.image_encode_duration),
        denoise_seconds=_seconds(message.denoise_duration),
        decode_seconds=_seconds(message.decode_duration),
        total_seconds=_seconds(message.total_duration),
    )


def receipt(message: pb.Receipt) -> Receipt:
    """What produced a video, from a stream's last event or a file's metadata."""
    return Receipt(
        parameters=_parameters(message.parameters),
        model=message.model,
        model_fingerprint=message.model_fingerprint,
        attention_mode=message.attention_mode,
        dtype=message.dtype,
        device=message.device,
        backend=message.backend,
        profile=message.profile,
        versions=dict(message.versions),
        attention=message.attention,
        precision=message.precision,
        latents_sha256=message.latents_sha256,
        start_image_sha256=message.start_image_sha256,
        end_image_sha256=message.end_image_sha256,
        reused_steps=message.reused_step_count,
        predictions=message.prediction_count,
        cache_coefficients=tuple(message.cache_coefficients),
    )


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9


class _Names(Protocol):
    def Name(self, number: int) -> str: ...


def _word(names: _Names, number: int) -> str:
    """The enum's name for a number, without its prefix: `pb.Phase`, 3 -> "denoise".

    Numbers of a newer contract, and zero, which is never sent, are "unknown".
    """
    prefix = names.Name(0).removesuffix("UNSPECIFIED")
    try:
        name = names.Name(number)
    except ValueError:
        return "unknown"
    return name.removeprefix(prefix).lower() if number else "unknown"
