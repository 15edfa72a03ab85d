"""Requests into jobs: every field checked, every default resolved."""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from easyanim.v1 import video_pb2 as pb
from easyanim_server.config.settings import Settings
from easyanim_server.domain import job as jobs
from easyanim_server.domain.errors import InvalidArgument, Violation
from easyanim_server.domain.job import Bucket, FitPolicy, Job, OutputFormat, nearest_bucket
from easyanim_server.domain.model import Capabilities
from easyanim_server.domain.profiles import DEFAULT_PROFILE, MAX_CACHE_THRESHOLD, Profile, Solver
from easyanim_server.domain.shape import Geometry
from easyanim_server.domain.wording import counted, shown
from easyanim_server.media.picture_pool import Decoder, Loaded
from easyanim_server.prompts.negative import recommended_negative

ASPECT_RANGE = (0.1, 10.0)

_threads = ThreadPoolExecutor(2, "convert")
"""Of their own, so that checks do not wait for whoever else needs a thread."""

COLOUR_FORM = re.compile(r"#[0-9a-fA-F]{6}")

CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""What prompts may not have: nobody sees it, and the model would read it. White space is text."""
UTF_16 = ", as a file in UTF-16 has that was read as something else"

PICTURES = ("start_image", "end_image")
"""Fields of pictures."""

NEAREST_BUCKETS = 3
"""How many suggestions an unknown bucket gets."""


async def to_job(
    request: pb.GenerateRequest,
    settings: Settings,
    capabilities: Capabilities,
    pictures: Mapping[str, bytes | memoryview] | None = None,
    decoder: Decoder | None = None,
) -> Job:
    """Check a request and resolve its defaults.

    Args:
        request: Without its pictures.
        settings: Of the server; what the operator set goes before the model's defaults.
        capabilities: Of the model that is served.
        pictures: Files by field.
        decoder: What decodes them; needed where there are any.

    Raises:
        InvalidArgument: with every wrong field, not only the first.
        PicturesBusy: pictures cannot be decoded in time.
        ShuttingDown: the server drains.
    """
    pictures = pictures or {}
    check = asyncio.get_running_loop().run_in_executor(_threads, _check, request, settings, capabilities)
    name, profile, wrong = await check
    background = request.background_color.lower() or jobs.BLACK
    loaded, bad_pictures = await _load_pictures(pictures, decoder, jobs.BLACK if wrong else background)
    wrong += bad_pictures
    wrong += _check_task(pictures, capabilities)
    catalogue = settings.buckets_of(capabilities)
    bucket, bad_size = _choose_bucket(request, catalogue, loaded.get("start_image"), capabilities.geometry)
    wrong += bad_size
    if wrong or bucket is None:
        raise InvalidArgument(wrong)

    fit = FitPolicy(pb.FitPolicy.Name(request.fit_policy or pb.FIT_POLICY_CROP).removeprefix("FIT_POLICY_"))
    fitted = {}
    if decoder is not None:
        for field, found in loaded.items():
            fitted[field] = await decoder.fit(field, bucket, fit, background, found.sha256)
    return Job(
        id=uuid.uuid4().hex,
        prompt=without_mark(request.prompt),
        negative_prompt=_negative_prompt(request),
        bucket=bucket,
        steps=profile.steps,
        guidance=request.guidance_scale if request.HasField("guidance_scale") else capabilities.defaults.guidance,
        # Drawn seeds stay where every caller's numbers are exact, JavaScript's too.
        seed=request.seed if request.HasField("seed") else secrets.randbelow(2**53),
        fps=request.frame_rate_fps if request.HasField("frame_rate_fps") else jobs.DEFAULT_FPS,
        output=OutputFormat(request.output_mime_type or OutputFormat.MP4.value),
        start=fitted.get("start_image"),
        end=fitted.get("end_image"),
        fit=fit,
        background=background,
        embed_prompt=request.embed_prompt,
        profile=name,
        acceleration=profile.acceleration,
        guidance_rescale=request.guidance_rescale,
    )


def _check(
    request: pb.GenerateRequest, settings: Settings, capabilities: Capabilities
) -> tuple[str, Profile, list[Violation]]:
    """The profile, and what is wrong in fields that can be checked one by one."""
    wrong: list[Violation] = []
    wrong += _check_prompts(request, settings.max_prompt_chars)
    wrong += _check_number(request, "step_count", 1, capabilities.max_steps)
    wrong += _check_number(request, "guidance_scale", *capabilities.guidance_range)
    wrong += _check_number(request, "guidance_rescale", 0, 1)
    wrong += _check_number(request, "frame_rate_fps", *jobs.FPS_RANGE)
    wrong += _check_number(request, "seed", 0, jobs.MAX_SEED, "leave it out for a random one")
    wrong += _check_output(request)
    wrong += _check_fit(request)
    wrong += _check_background(request)
    name, profile, bad_profile = _profile(request, settings.default_profile, capabilities)
    return name, profile, wrong + bad_profile


def check_prompts(request: pb.GenerateRequest | pb.LintPromptRequest, settings: Settings) -> str:
    """Check the prompts of a request; returns the negative prompt, by default the recommended one.

    Raises:
        InvalidArgument: with every wrong field.
    """
    if wrong := _check_prompts(request, settings.max_prompt_chars):
        raise InvalidArgument(wrong)
    return _negative_prompt(request)


def _negative_prompt(request: pb.GenerateRequest | pb.LintPromptRequest) -> str:
    given = request.HasField("negative_prompt")
    return without_mark(request.negative_prompt) if given else recommended_negative(request.prompt)


def without_mark(text: str) -> str:
    """A text less the byte-order mark that an editor or a shell has put before it, unseen."""
    return text.removeprefix("\ufeff")


def _check_prompts(request: pb.GenerateRequest | pb.LintPromptRequest, max_chars: int) -> list[Violation]:
    wrong = []
    if not without_mark(request.prompt).strip():
        wrong.append(Violation("prompt", f"is empty; must say what happens, in 1 to {counted(max_chars, 'character')}"))
    for name in ("prompt", "negative_prompt"):
        text = getattr(request, name)
        if len(text) > max_chars:
            wrong.append(Violation(name, f"has {counted(len(text), 'character')}; must have at most {max_chars}"))
        elif found := CONTROL.search(text):
            description = (
                f"has U+{ord(found[0]):04X} as character {found.start() + 1}; must be text without control characters"
            )
            wrong.append(Violation(name, description + UTF_16 * (found[0] == "\0")))
    return wrong


def _check_number(request: pb.GenerateRequest, name: str, least: float, most: float, hint: str = "") -> list[Violation]:
    value = getattr(request, name)
    if not request.HasField(name) or (math.isfinite(value) and least <= value <= most):
        return []
    allowed = f"must be from {least} to {most}"
    return [Violation(name, f"is {value}; {allowed}; {hint}" if hint else f"is {value}; {allowed}")]


def _check_output(request: pb.GenerateRequest) -> list[Violation]:
    allowed = [item.value for item in OutputFormat]
    if not request.output_mime_type or request.output_mime_type in allowed:
        return []
    return [Violation("output_mime_type", f"is {shown(request.output_mime_type)}; must be one of {', '.join(allowed)}")]


def _check_fit(request: pb.GenerateRequest) -> list[Violation]:
    if request.fit_policy in pb.FitPolicy.values():
        return []
    names = ", ".join(f"FIT_POLICY_{policy.value}" for policy in FitPolicy)
    return [Violation("fit_policy", f"is {request.fit_policy}; must be one of {names}")]


def _check_background(request: pb.GenerateRequest) -> list[Violation]:
    colour = request.background_color
    if not colour or COLOUR_FORM.fullmatch(colour):
        return []
    said = f"is {colour!r}" if len(colour) <= 2 * len(jobs.BLACK) else f"has {len(colour)} characters"
    return [Violation("background_color", f"{said}; must look like #ffffff: red, green and blue, two hex digits each")]


def _check_task(pictures: Mapping[str, bytes | memoryview], capabilities: Capabilities) -> list[Violation]:
    """Whether the model makes videos from the pictures that a request has, or from none."""
    task = jobs.START_END if "end_image" in pictures else jobs.START if "start_image" in pictures else jobs.TEXT
    if task in capabilities.tasks:
        first = "is set without start_image; the model needs a first frame to end in one"
        return [Violation("end_image", first)] if task == jobs.START_END and "start_image" not in pictures else []
    known = f"the model's tasks are {', '.join(sorted(capabilities.tasks))}, and this would be {task}"
    if task == jobs.TEXT:
        return [Violation("start_image", f"is missing; {known}")]
    more = task == jobs.START_END and jobs.START in capabilities.tasks
    fields = ["end_image"] if more else [name for name in PICTURES if name in pictures]
    sizes = {name: counted(len(pictures[name]), "byte") for name in fields}
    return [Violation(name, f"has {size}; must be left out: {known}") for name, size in sizes.items()]


def _profile(
    request: pb.GenerateRequest, default: str, capabilities: Capabilities
) -> tuple[str, Profile, list[Violation]]:
    """The name of the profile, and its values with the request's own in their place."""
    name = request.profile or default
    known, given, wrong = name in capabilities.profiles, request.acceleration, []
    if not known:  # the other fields are checked all the same
        wrong.append(Violation("profile", f"is {shown(name)}; must be one of {', '.join(capabilities.profiles)}"))
    profile = capabilities.defaults.profile(name if known else DEFAULT_PROFILE)
    values: dict[str, Any] = {field.name: value for field, value in given.ListFields()}
    solvers = capabilities.solvers
    if "solver" in values and values["solver"] not in solvers:
        wrong.append(Violation("acceleration.solver", f"is {shown(given.solver)}; must be one of {', '.join(solvers)}"))
    elif "solver" in values:
        values["solver"] = Solver(given.solver)
    for field, most in (("cache_threshold", MAX_CACHE_THRESHOLD), ("guidance_start", 1.0), ("guidance_end", 1.0)):
        if not 0 <= values.get(field, 0) <= most:  # NaN too
            wrong.append(Violation(f"acceleration.{field}", f"is {values[field]}; must be from 0 to {most:g}"))
    resolved = replace(profile.acceleration, **values)
    known = known or {"guidance_start", "guidance_end"} <= values.keys()
    if known and 0 <= resolved.guidance_end < resolved.guidance_start <= 1:
        description = f"is {resolved.guidance_start}; must be at most guidance_end, which is {resolved.guidance_end}"
        wrong.append(Violation("acceleration.guidance_start", description))
    return name, Profile(request.step_count if request.HasField("step_count") else profile.steps, resolved), wrong


async def _load_pictures(
    pictures: Mapping[str, bytes | memoryview], decoder: Decoder | None, background: str
) -> tuple[dict[str, Loaded], list[Violation]]:
    loaded, wrong = {}, []
    for field, data in pictures.items():
        assert decoder is not None, "whoever has pictures has something to decode them with"
        try:
            loaded[field] = await decoder.load(field, data, background)
        except InvalidArgument as error:
            wrong += [*error.violations]
    return loaded, wrong


def _choose_bucket(
    request: pb.GenerateRequest, catalogue: Sequence[Bucket], start: Loaded | None, geometry: Geometry
) -> tuple[Bucket | None, list[Violation]]:
    wrong: list[Violation] = []
    size = request.WhichOneof("size")
    candidates, where = catalogue, "this server"
    if size == "bucket" and (named := [bucket for bucket in catalogue if bucket.name == request.bucket]):
        candidates, where = named, f"bucket {request.bucket}"
    elif size == "bucket":
        wrong.append(Violation("bucket", _unknown_bucket(request.bucket, catalogue)))
    elif size == "aspect_ratio" and not ASPECT_RANGE[0] <= request.aspect_ratio <= ASPECT_RANGE[1]:  # NaN too
        description = f"is {request.aspect_ratio}; must be from {ASPECT_RANGE[0]} to {ASPECT_RANGE[1]}"
        wrong.append(Violation("aspect_ratio", description))
    frames = request.frame_count if request.HasField("frame_count") else None
    offered = sorted({bucket.frames for bucket in candidates})
    if frames is not None and frames not in offered:
        allowed = f"must be {geometry.frame_form}, from 1 to {geometry.max_frames}, and "
        form = "" if geometry.is_frame_count(frames) else allowed
        counts = ", ".join(map(str, offered))
        wrong.append(Violation("frame_count", f"is {frames}; {form}{where} offers {counts}"))
    if wrong:
        return None, wrong

    if size == "aspect_ratio":
        aspect = request.aspect_ratio
    elif start is not None:
        aspect = start.width / start.height
    else:
        aspect = candidates[0].width / candidates[0].height
    if frames is not None:
        candidates = [bucket for bucket in candidates if bucket.frames == frames]
    name = nearest_bucket(candidates, aspect).name
    return max(bucket for bucket in candidates if bucket.name == name), []


def _unknown_bucket(name: str, catalogue: Sequence[Bucket]) -> str:
    names = list(dict.fromkeys(bucket.name for bucket in catalogue))
    try:
        height, width = (math.log(max(int(part), 1)) for part in name.lower().split("x"))
    except ValueError:
        return f"is {shown(name)}; must be one of {', '.join(names)}"

    def distance(bucket: Bucket) -> float:
        return math.hypot(math.log(bucket.height) - height, math.log(bucket.width) - width)

    nearest = list(dict.fromkeys(bucket.name for bucket in sorted(catalogue, key=distance)))[:NEAREST_BUCKETS]
    return f"is {shown(name)}, which this server does not offer; the nearest are {', '.join(nearest)}"
