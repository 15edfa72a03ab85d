"""The options of a generation, each written once.

Requests, flags of the commands, keys of batch files and replays derive from this table. A new field of the contract
is one entry here, which is also its type for callers; where receipts have it, `results.Parameters` names it too.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar, get_type_hints

from easyanim_client.forms import (
    MEDIA_TYPES,
    Fit,
    Format,
    Interval,
    Picture,
    fit_policy,
    media_type,
    ratio,
    read_picture,
    shares,
)

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Kind:
    """What values an option has outside of Python."""

    json: tuple[type, ...]
    """Types of a batch file's values."""
    words: str
    """Says so to people."""
    shell: type
    """What a flag's text is read as; `Path` is a file that must be there."""


TEXT = Kind((str,), "a string", str)
PATH = Kind((str,), "a path", Path)
INTEGER = Kind((int,), "an integer", int)
NUMBER = Kind((int, float), "a number", float)
SWITCH = Kind((bool,), "true or false", bool)
ASPECT = Kind((int, float, str), 'a number or a string such as "16:9"', str)


def _unchanged(value: Any) -> Any:
    return value


def _named_alike(recording: Any) -> Any:
    raise AssertionError("the table puts a parameter's own name here")


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a generation."""

    field: str
    """Of the contract's GenerateRequest, or within a message of it, as in ``acceleration.solver``; a blank separates
    two."""
    kind: Kind
    flag: str
    help: str = ""
    """Of `generate`; empty where that command has no such flag."""
    batch: bool | str = False
    """Whether `batch` has the flag, for jobs that do not say it themselves; a text is its help there."""
    words: str = ""
    """What a batch file may have; empty where the kind's words do."""
    metavar: str | None = None
    default: Any = None
    encode: Callable[[Any], Any] = _unchanged
    """From an argument to the contract's value; of two fields, to both."""
    recorded: Callable[[Any], Any] | None = _named_alike
    """The argument that makes a `Recording` again, by default its parameter of the same name; None where whoever
    replays has to give it, or where another option says it."""
    name: str = ""
    """Of the argument of `Client.generate`, and the key of batch files."""
    type: Any = None
    """Of the argument of `Client.generate`."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Those of the contract that it fills."""
        return tuple(self.field.split())


class GenerateOptions(TypedDict, total=False):
    """What `Client.generate` takes beside the prompt. What is left out, or None, is the server's to choose."""

    start_image: Annotated[
        Picture | None,
        Option(
            "start_image",
            PATH,
            "--image",
            help="First frame: PNG, JPEG or WebP.",
            encode=partial(read_picture, "start_image"),
            recorded=None,
        ),
    ]
    """The first frame. Default: none, text to video."""
    end_image: Annotated[
        Picture | None,
        Option(
            "end_image",
            PATH,
            "--end-image",
            help="Last frame; needs --image.",
            encode=partial(read_picture, "end_image"),
            recorded=None,
        ),
    ]
    """The last frame; needs `start_image`."""
    negative_prompt: Annotated[
        str | None,
        Option(
            "negative_prompt",
            TEXT,
            "--negative",
            help="What to avoid. Default: the model's text.",
            batch=True,
            recorded=None,
        ),
    ]
    """What to avoid; empty means nothing. Default: what the model's authors recommend."""
    bucket: Annotated[
        str | None,
        Option(
            "bucket",
            TEXT,
            "--bucket",
            help="Height by width, such as 384x672.",
            batch=True,
            words='a string such as "384x672"',
        ),
    ]
    """Size as height by width in pixels, such as ``"384x672"``; not together with `aspect_ratio`. Default: the one
    nearest to the start image's aspect."""
    aspect_ratio: Annotated[
        float | str | None,
        Option(
            "aspect_ratio",
            ASPECT,
            "--aspect",
            help="Width over height, such as 16:9, instead of --bucket.",
            batch=True,
            encode=ratio,
            recorded=None,
        ),
    ]
    """Width over height, such as ``1.78`` or ``"16:9"``; the nearest bucket is taken."""
    frames: Annotated[
        int | None,
        Option(
            "frame_count",
            INTEGER,
            "--frames",
            help="Frames in the video. Default: the bucket's largest.",
            batch="Frames in a video. Default: the bucket's largest.",
        ),
    ]
    """Frames in the video, one of the bucket's counts. Default: its largest."""
    fit: Annotated[
        Fit,
        Option(
            "fit_policy",
            TEXT,
            "--fit",
            help="Pictures of another aspect: crop, pad or stretch.",
            batch="Pictures of another aspect: crop (default), pad or stretch.",
            words="crop, pad or stretch",
            default="crop",
            encode=fit_policy,
        ),
    ]
    """How pictures of another aspect become the bucket's: ``"crop"`` covers the frame, ``"pad"`` adds bars,
    ``"stretch"`` distorts."""
    background_color: Annotated[
        str | None,
        Option(
            "background_color",
            TEXT,
            "--background",
            help="Behind transparent and padded pictures. Default: black.",
            batch=True,
            words='a string such as "#ffffff"',
            metavar="#RRGGBB",
        ),
    ]
    """What lies under transparent pictures and in the bars of ``"pad"``, such as ``"#ffffff"``. Default: black."""
    steps: Annotated[
        int | None,
        Option(
            "step_count",
            INTEGER,
            "--steps",
            help="Denoising steps. Default: the profile's; exact has the model's own.",
            batch=True,
        ),
    ]
    """Denoising steps. Default: the profile's, of ``"exact"`` the model's own."""
    guidance: Annotated[
        float | None,
        Option("guidance_scale", NUMBER, "--guidance", help="1 (off) to 20. Default: the model's.", batch=True),
    ]
    """Classifier-free guidance in [1, 20]; 1 switches it off and halves the work. Default: the model's."""
    guidance_rescale: Annotated[
        float | None,
        Option("guidance_rescale", NUMBER, "--guidance-rescale", help="0 (off) to 1. Default: 0.", batch=True),
    ]
    """How far guidance is brought back to the spread of the prompt's own prediction, in [0, 1]. Default: 0, off."""
    seed: Annotated[int | None, Option("seed", INTEGER, "--seed", help="Of the noise. Default: drawn.")]
    """Of the noise, 0 to 2^63-1; the same request with the same seed gives the same video. Default: drawn."""
    fps: Annotated[
        int | None, Option("frame_rate_fps", INTEGER, "--fps", help="Frames per second. Default: 8.", batch=True)
    ]
    """Frames per second of the file, 1 to 60. Default: 8."""
    format: Annotated[
        Format | None,
        Option(  # `generate` reads it from --out
            "output_mime_type",
            TEXT,
            "--format",
            batch="mp4 (default), webm or mkv.",
            words=", ".join(MEDIA_TYPES),
            encode=media_type,
        ),
    ]
    """``"mp4"`` (H.264), ``"webm"`` (VP9) or ``"mkv"`` (lossless FFV1). Default: by the suffix of `save_to`, else
    mp4."""
    embed_prompt: Annotated[
        bool,
        Option(
            "embed_prompt",
            SWITCH,
            "--embed-prompt",
            help="Keep the prompts in the file's metadata, for replay.",
            batch="Keep the prompts in the files' metadata, for replay.",
            default=False,
            recorded=attrgetter("embedded_prompt"),
        ),
    ]
    """Whether the prompts go into the file's metadata; only their SHA-256 does otherwise."""
    profile: Annotated[
        str | None,
        Option(
            "profile",
            TEXT,
            "--profile",
            help="exact, balanced, fast or draft: quality for time. Default: the server's.",
            batch=True,
            words="exact, balanced, fast or draft",
            recorded=lambda recording: recording.receipt.parameters.profile or "exact",
        ),
    ]
    """How much quality is traded for time: ``"exact"``, ``"balanced"``, ``"fast"`` or ``"draft"``; what else is given
    goes before it. Default: the server's."""
    solver: Annotated[
        str | None,
        Option(
            "acceleration.solver",
            TEXT,
            "--solver",
            help="euler, ddim (of V5), unipc or dpmpp_2m, as far as the model has it. Default: the profile's.",
            words="euler, ddim, unipc or dpmpp_2m",
        ),
    ]
    """``"euler"``, ``"ddim"``, ``"unipc"`` or ``"dpmpp_2m"``; `ServerInfo.solvers` has the loaded model's. Default: the
    profile's."""
    cache_threshold: Annotated[
        float | None,
        Option(
            "acceleration.cache_threshold",
            NUMBER,
            "--cache-threshold",
            help="Change up to which a step reuses an earlier one; 0 is off.",
        ),
    ]
    """Change of its input up to which a step reuses what was computed before; 0 is off. Default: the profile's."""
    guidance_interval: Annotated[
        Interval | None,
        Option(
            "acceleration.guidance_start acceleration.guidance_end",
            TEXT,
            "--guidance-interval",
            help="Steps with guidance, in shares of all, such as 0.1:0.8.",
            words='a string such as "0.1:0.8"',
            metavar="START:END",
            encode=shares,
        ),
    ]
    """Start and end of guidance as shares of the steps, such as ``(0.1, 0.8)`` or ``"0.1:0.8"``. Default: the
    profile's."""


PROMPT = Option("prompt", TEXT, "--prompt", batch="What happens in the videos.", recorded=None, name="prompt", type=str)
"""An argument by itself of `Client.generate` and of the command."""


def _entries() -> list[Option]:
    entries = []
    for name, hint in get_type_hints(GenerateOptions, include_extras=True).items():
        given: Option = hint.__metadata__[0]
        recorded = given.recorded if given.recorded is not _named_alike else attrgetter(f"receipt.parameters.{name}")
        entries.append(replace(given, name=name, type=hint.__origin__, recorded=recorded))
    return entries


OPTIONS: tuple[Option, ...] = (PROMPT, *_entries())


def spelled_out(function: FunctionT) -> FunctionT:
    """Have `help` and `inspect.signature` show every option where a function takes them as ``**options``."""
    signature = inspect.signature(function)
    kind = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(item.name, kind, default=item.default, annotation=item.type) for item in OPTIONS[1:]]
    others = list(signature.parameters.values())
    named = [item for item in others if item.kind is not inspect.Parameter.VAR_KEYWORD]
    first = next(index for index, item in enumerate(named) if item.kind is kind)
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*named[:first], *options, *named[first:]]
    )
    return function
