"""What the command line shows: progress on a terminal or in a log, JSON lines, and closing sentences."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as ProgressBar

from easyanim_client.errors import EasyAnimError, code_of, told
from easyanim_client.results import Accepted, Chunk, Event, Phase, Progress, PromptWarning, Queued, Restarted, Video
from easyanim_client.served import Model, Profile, ServerInfo
from easyanim_client.wording import counted

Show = Callable[[Event], None]

PHASES: dict[Phase, tuple[str, str]] = {
    Phase.TEXT_ENCODE: ("reading the prompt", "prompt"),
    Phase.IMAGE_ENCODE: ("encoding the pictures", "frame"),
    Phase.DENOISE: ("denoising", "step"),
    Phase.DECODE: ("decoding", "frame"),
    Phase.UNKNOWN: ("working", "unit"),
}
"""What a phase does, and what its unit is called."""


def event_json(event: Event) -> str:
    """One line of JSON: the event's kind and fields, a chunk's length in place of its bytes."""
    fields: dict[str, Any]
    if isinstance(event, Chunk):
        fields = {"offset": event.offset, "length": len(event.data)}
    elif isinstance(event, Video):
        fields = dataclasses.asdict(event)
        del fields["data"]
        fields["path"] = str(event.path)
    else:
        fields = dataclasses.asdict(event)
    kind = "completed" if isinstance(event, Video) else type(event).__name__.lower()
    return json.dumps({"event": kind, **fields})


def failure_json(error: EasyAnimError | OSError) -> str:
    """One line of JSON on a failure, which is the last event then; keys without a value are left out."""
    violations = [dataclasses.asdict(item) for item in getattr(error, "violations", ())]
    extras = {name: getattr(error, name, None) for name in ("reason", "retry_after", "error_id", "request_id")}
    if (seconds := extras.pop("retry_after")) is not None:
        extras["retry_after_seconds"] = seconds
    known = {name: value for name, value in extras.items() if value not in (None, "")}
    return error_line(code_of(error), told(error), violations, **known)


def error_line(code: str, message: str, violations: Iterable[Mapping[str, str]] = (), **extras: object) -> str:
    """The event of a failure as one line of JSON."""
    return json.dumps({"event": "error", "code": code, "message": message, "violations": [*violations], **extras})


def info_json(info: ServerInfo) -> str:
    """One line of JSON with everything that a server says about itself."""
    return json.dumps(dataclasses.asdict(info))


@contextmanager
def progress(console: Console) -> Iterator[Show]:
    """A bar that follows the events on a terminal; elsewhere one line for every change of phase or place."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"))
    bar = ProgressBar(*columns, console=console, transient=True)
    task = bar.add_task("sending", total=None, detail="")
    with bar if console.is_terminal else nullcontext():  # a bar that was never started draws nothing
        last = ""

        def show(event: Event) -> None:
            nonlocal last
            if isinstance(event, Accepted):
                console.print(_accepted(event), markup=False, highlight=False, soft_wrap=True)
            elif isinstance(event, Restarted):
                console.print(restart_line(event), markup=False, highlight=False, soft_wrap=True)
            title = event_title(event)
            if title and title != last:
                last = title
                bar.reset(task, total=event.total if isinstance(event, Progress) else None)
                if not console.is_terminal:
                    console.print(title, markup=False, highlight=False)
            if isinstance(event, Progress):
                bar.update(task, description=title, completed=event.completed, detail=event_detail(event))
            elif isinstance(event, Queued):
                bar.update(task, description=title, detail=_eta(event.eta_seconds))

        yield show


def event_title(event: Event) -> str:
    """What happens now, in two or three words; empty where the event is of no phase."""
    if isinstance(event, Queued):
        return f"queued, {event.jobs_ahead} ahead" if event.jobs_ahead else "queued, next"
    return PHASES[event.phase][0] if isinstance(event, Progress) else ""


def restart_line(event: Restarted) -> str:
    """Why the video is begun anew."""
    return f"restarted, run {event.attempt}: {event.detail or event.reason}; the video is made anew with the same seed"


def event_detail(event: Progress) -> str:
    """How far a phase is, how fast it goes and how long it takes."""
    unit = PHASES[event.phase][1]
    parts = [f"{unit} {event.completed} of {event.total}"]
    if event.reused_steps and event.phase is Phase.DENOISE:
        parts.append(f"{event.reused_steps} reused")
    if event.unit_seconds is not None:
        parts.append(f"{event.unit_seconds:.2f} s/{unit}")
    if event.eta_seconds is not None:
        parts.append(_eta(event.eta_seconds))
    return ", ".join(parts)


def _eta(seconds: float | None) -> str:
    return "" if seconds is None else f"ETA {int(seconds) // 60}:{int(seconds) % 60:02d}"


def _accepted(event: Accepted) -> str:
    given = event.parameters
    line = (
        f"job {event.job_id}: {given.bucket}, {counted(given.frames, 'frame')}, {counted(given.steps, 'step')}, "
        f"guidance {given.guidance:g}, seed {given.seed}"
    )
    if given.profile not in ("", "exact"):
        line += f", profile {given.profile}"
    if event.prompt_truncated and not any(item.rule == "too_long" for item in event.prompt_warnings):
        line += (
            f"\nthe prompt has {counted(event.prompt_tokens, 'token')}, more than the model reads; its end is ignored"
        )
    return "\n".join([line, *warning_lines(event.prompt_warnings)])


def warning_lines(warnings: Iterable[PromptWarning]) -> Iterator[str]:
    """What is said about a prompt, a line for each."""
    for item in warnings:
        yield f"{item.rule}: {item.message}" + (f" ({item.excerpt!r})" if item.excerpt not in item.message else "")


def video_summary(video: Video) -> str:
    """One line on a saved video."""
    made = video.receipt.parameters
    return f"{video.path or 'stdout'}: {decimal(video.size)}, {video.timings.total_seconds:.1f} s, seed {made.seed}"


def profile_line(profile: Profile) -> str:
    """What a profile sets."""
    start, end = profile.guidance_interval
    parts = [f"{profile.name}: {counted(profile.steps, 'step')}, {profile.solver}"]
    if profile.cache_threshold:
        parts.append(f"cache {profile.cache_threshold:g}")
    if (start, end) != (0.0, 1.0):
        parts.append(f"guidance {start:g}:{end:g}")
    return ", ".join(parts) + (" (default)" if profile.is_default else "")


def _loaded(model: Model) -> str:
    """The model in a few words; servers know the most of it once it was loaded."""
    if not model.device:
        return "not loaded yet"
    count = model.transformer_parameters
    size = f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"
    family = f"{model.family}, " if model.family else ""
    return (
        f"{family}transformer of {size} parameters, {model.dtype}, {model.attention_mode} attention, on {model.device}"
    )


def info_summary(info: ServerInfo) -> str:
    """A few lines on what a server serves."""
    model, limits = info.model, info.limits
    state = f"{info.state.value} ({info.state_detail})" if info.state_detail else info.state.value
    waiting = sum(item.phase is None for item in info.activity)
    running = len(info.activity) - waiting
    lines = [
        f"easyanim  {info.version}, {state}, {f'{running} running, ' if running else ''}"
        f"{waiting} of {limits.max_queued} places in the queue taken",
        f"model     {model.name}",
        f"          {_loaded(model)}",
        f"limits    {counted(limits.max_steps, 'step')}, {counted(limits.max_prompt_chars, 'character')}, "
        f"{limits.max_image_pixels / 1e6:g} megapixels, {decimal(limits.max_request_bytes)} a request",
    ]
    for bucket in info.buckets:
        lines.append(f"bucket    {bucket.name}, frames {', '.join(map(str, bucket.frame_counts))}")
    if (usual := info.defaults) is not None:
        lines.append(
            f"default   guidance {usual.guidance:g}, {usual.steps} steps, bucket {usual.bucket}, {usual.frames} frames"
        )
    if info.tasks:
        lines.append(f"tasks     {', '.join(info.tasks)}")
    if info.tokenizers:
        read = ", ".join(f"{counted(item.max_tokens, 'token')} by {item.name}" for item in info.tokenizers)
        lines.append(f"prompts   {read}")
    if info.solvers:
        lines.append(f"solvers   {', '.join(info.solvers)}")
    for profile in info.profiles:
        lines.append(f"profile   {profile_line(profile)}")
    return "\n".join(lines)
