"""Messages of the contract in; typed events and a verified video out. Knows files, not gRPC."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import uuid
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

from google.protobuf.duration_pb2 import Duration

from easyanim.v1 import video_pb2 as pb
from easyanim_client.errors import CorruptVideo
from easyanim_client.request import MEDIA_TYPES
from easyanim_client.results import (
    Accepted,
    Activity,
    Bucket,
    Chunk,
    DeviceStatus,
    Event,
    Limits,
    Model,
    Parameters,
    Phase,
    Profile,
    Progress,
    PromptReading,
    PromptWarning,
    Queued,
    Receipt,
    Restarted,
    ServerInfo,
    State,
    Timings,
    Video,
)

_FORMATS = {media_type: name for name, media_type in MEDIA_TYPES.items()}


@cache
def keep_freed_memory() -> None:
    """Have glibc keep a few megabytes that it frees, for the rest of the process.

    Otherwise it returns every chunk's memory to the system and faults it in again for the next one, which halves the
    throughput of a large file. Its thresholds follow the largest block that was ever freed, see mallopt(3).
    """
    bytearray(16 * 2**20)


class Assembly:
    """Folds the messages of one generation and puts its file together.

    Used as a context: bytes go to a hidden file beside `save_to`, which `finish` moves into place and which is
    removed on leaving in any other way. Without `save_to` they are kept in memory.

    Args:
        save_to: The file to write; an existing one is replaced once the new one is complete.
    """

    def __init__(self, save_to: Path | None) -> None:
        self._target = save_to
        self._partial: Path | None = None
        self._file: BinaryIO = io.BytesIO()
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._completed: pb.Completed | None = None

    def __enter__(self) -> Assembly:
        keep_freed_memory()
        if self._target is not None:
            if self._target.exists() and not self._target.is_file():
                # Moving the file into place would replace a device such as /dev/null by it.
                raise FileExistsError(errno.EEXIST, "exists and is not a regular file", str(self._target))
            self._partial = self._target.with_name(f".{self._target.name}.{uuid.uuid4().hex[:8]}.part")
            try:
                self._file = self._partial.open("xb")
            except OSError as error:  # of the file that was asked for, not of the hidden one beside it
                missing = error.errno == errno.ENOENT
                why = "the folder does not exist" if missing else error.strerror
                raise OSError(error.errno, why, str(self._target)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)

    def fold(self, message: pb.GenerateResponse) -> Event | None:
        """The event in a message; None for `completed`, which `finish` reports, and for unknown kinds.

        Raises:
            CorruptVideo: a chunk does not continue the file.
            OSError: the file cannot be written.
        """
        kind = message.WhichOneof("event")
        if kind == "accepted":
            return _accepted(message.accepted)
        if kind == "queued":
            return _queued(message.queued)
        if kind == "progress":
            return _progress(message.progress)
        if kind == "chunk":
            return self._append(message.chunk)
        if kind == "restarted":
            return self._restart(message.restarted)
        if kind == "completed":
            self._completed = message.completed
        return None

    def _append(self, chunk: pb.Chunk) -> Chunk:
        if chunk.offset_bytes != self._size:
            raise CorruptVideo(f"a chunk starts at byte {chunk.offset_bytes} where byte {self._size} was expected")
        data = chunk.data  # once: protobuf copies the bytes at every look
        self._file.write(data)
        self._sha256.update(data)
        self._size += len(data)
        return Chunk(chunk.offset_bytes, data)

    def _restart(self, message: pb.Restarted) -> Restarted:
        self._file.seek(0)
        self._file.truncate()
        self._size = 0
        self._sha256 = hashlib.sha256()
        return Restarted(message.attempt, message.reason, message.detail)

    def finish(self) -> Video:
        """Compare what arrived with what was announced, and move the file into place.

        Raises:
            CorruptVideo: the two differ, or `completed` never came.
            OSError: the file cannot be written.
        """
        completed = self._completed
        if completed is None:
            raise CorruptVideo("the stream ended before the video was complete")
        if self._size != completed.size_bytes:
            raise CorruptVideo(f"{self._size} bytes arrived of a file that has {completed.size_bytes}")
        if self._sha256.digest() != completed.sha256:
            raise CorruptVideo("the SHA-256 of what arrived is not the one that the server announced")
        data = self._file.getvalue() if isinstance(self._file, io.BytesIO) else None
        self._file.close()
        if self._partial is not None and self._target is not None:
            os.replace(self._partial, self._target)
        return Video(
            path=self._target,
            data=data,
            size=self._size,
            sha256=completed.sha256.hex(),
            timings=_timings(completed.timings),
            peak_device_bytes=completed.peak_device_memory_bytes,
            receipt=receipt(completed.receipt),
        )


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
        tasks=tuple(message.tasks),
    )


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


def _accepted(message: pb.Accepted) -> Accepted:
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
    )


def _warnings(messages: Iterable[pb.PromptWarning]) -> tuple[PromptWarning, ...]:
    return tuple(PromptWarning(item.rule, item.message, item.excerpt) for item in messages)


def _queued(message: pb.Queued) -> Queued:
    return Queued(
        jobs_ahead=message.jobs_ahead_count,
        eta_seconds=_seconds(message.eta_duration) if message.HasField("eta_duration") else None,
    )


def _progress(message: pb.Progress) -> Progress:
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
        task=message.task or _word(pb.Conditioning, message.conditioning),
    )


def _timings(message: pb.Timings) -> Timings:
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
