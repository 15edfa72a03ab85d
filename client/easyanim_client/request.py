"""A GenerateRequest from friendly arguments, with what can be refused before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from google.protobuf.descriptor import FieldDescriptor

from easyanim.v1 import video_pb2 as pb
from easyanim_client.errors import InvalidRequest, MessageTooLarge, Violation

Picture = bytes | str | os.PathLike[str] | BinaryIO
"""A PNG, JPEG or WebP file, or another that the server reads (`ServerInfo.picture_mime_types`): its bytes, its path,
or a file opened in binary mode."""
Fit = Literal["crop", "pad", "stretch"]
Format = Literal["mp4", "webm", "mkv"]
Interval = str | tuple[float, float]
"""Start and end as shares of all steps, such as ``(0.1, 0.8)`` or ``"0.1:0.8"``."""
MessageT = TypeVar("MessageT", pb.GenerateRequest, pb.LintPromptRequest, pb.Acceleration)

MEDIA_TYPES: dict[str, str] = {"mp4": "video/mp4", "webm": "video/webm", "mkv": "video/x-matroska"}
"""Media types by format, which is also the file's suffix."""

_TYPES = {
    FieldDescriptor.CPPTYPE_INT32: "an integer",
    FieldDescriptor.CPPTYPE_INT64: "an integer",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_STRING: "a string",
    FieldDescriptor.CPPTYPE_BOOL: "True or False",
}

DEFAULT_MAX_REQUEST_BYTES = 32 * 2**20
"""What servers take unless they were configured otherwise."""


def build_request(
    prompt: str,
    *,
    start_image: Picture | None = None,
    end_image: Picture | None = None,
    negative_prompt: str | None = None,
    bucket: str | None = None,
    aspect_ratio: float | str | None = None,
    frames: int | None = None,
    fit: Fit = "crop",
    background_color: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int | None = None,
    fps: int | None = None,
    format: Format | None = None,
    embed_prompt: bool = False,
    profile: str | None = None,
    solver: str | None = None,
    cache_threshold: float | None = None,
    guidance_interval: Interval | None = None,
    save_to: Path | None = None,
) -> pb.GenerateRequest:
    """Build the request of one generation; None leaves a field to the server's default.

    Only what the contract cannot express is refused here; ranges are the server's to check.

    Raises:
        InvalidRequest: an argument has no form in the contract.
        OSError: a picture cannot be read.
        TypeError: an argument is of another type.
    """
    if bucket is not None and aspect_ratio is not None:
        raise InvalidRequest.of_field("aspect_ratio", "cannot be given together with bucket; give one of them")
    if fit not in ("crop", "pad", "stretch"):
        raise InvalidRequest.of_field("fit_policy", f"{fit!r} is none of crop, pad, stretch")
    fields: dict[str, Any] = {
        "prompt": prompt,
        "start_image": read_picture("start_image", start_image),
        "end_image": read_picture("end_image", end_image),
        "negative_prompt": negative_prompt,
        "bucket": bucket,
        "aspect_ratio": None if aspect_ratio is None else ratio(aspect_ratio),
        "frame_count": frames,
        "fit_policy": pb.FitPolicy.Value(f"FIT_POLICY_{fit.upper()}"),
        "background_color": background_color,
        "step_count": steps,
        "guidance_scale": guidance,
        "seed": seed,
        "frame_rate_fps": fps,
        "output_mime_type": _media_type(format, save_to),
        "embed_prompt": embed_prompt,
        "profile": profile,
        "acceleration": _acceleration(solver, cache_threshold, guidance_interval),
    }
    return _message(pb.GenerateRequest, fields)


def build_lint_request(prompt: str, negative_prompt: str | None) -> pb.LintPromptRequest:
    """Build the question how a prompt would be read; None leaves the negative prompt to the server.

    Raises:
        InvalidRequest: a text is not Unicode.
    """
    return _message(pb.LintPromptRequest, {"prompt": prompt, "negative_prompt": negative_prompt})


def _message(kind: type[MessageT], fields: Mapping[str, Any], within: str = "") -> MessageT:
    """A message of the fields that are not None; protobuf itself does not say which one it cannot take."""
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return kind(**given)
    except (ValueError, TypeError):
        found = {within + name: why for name, value in given.items() if (why := _unfit(kind, name, value, within))}
        raise InvalidRequest.of_fields([Violation(name, why) for name, why in found.items()]) from None


def _unfit(kind: type[MessageT], name: str, value: Any, within: str) -> str:
    """Why a field cannot hold a value of its type; empty where it can."""
    try:
        kind(**{name: value})
    except TypeError:
        allowed = _TYPES.get(kind.DESCRIPTOR.fields_by_name[name].cpp_type, "of the contract's type")
        raise TypeError(f"{within}{name} is {value!r}; must be {allowed}") from None
    except ValueError:
        if isinstance(value, int):
            bits = 64 if name == "seed" else 32
            return f"is {value}; must be an integer of at most {bits} bits"
        return f"is {value!r}; must be Unicode, without halves of surrogate pairs"
    return ""


def check_size(request: pb.GenerateRequest, limit: int) -> None:
    """Refuse here what gRPC would refuse on the server with less to say.

    Raises:
        MessageTooLarge: the request has more than `limit` bytes.
    """
    size = request.ByteSize()
    if size > limit:
        raise MessageTooLarge(size, limit)


def read_picture(field: str, picture: Picture | None) -> bytes | None:
    """The bytes of a picture; None where there is none.

    Raises:
        InvalidRequest: it is empty.
        OSError: it cannot be read.
        TypeError: it is no picture in any of its forms.
    """
    if picture is None:
        return None
    data: object = picture
    if isinstance(picture, (str, os.PathLike)):
        try:
            data = Path(picture).read_bytes()
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror} ({field})", str(picture)) from error
    elif not isinstance(picture, bytes) and hasattr(picture, "read"):
        data = picture.read()
    if not isinstance(data, bytes):
        raise TypeError(f"{field} must be bytes, a path or a file opened in binary mode; it gave {type(data).__name__}")
    if not data:  # the contract reads no bytes as no picture, which would be another video
        raise InvalidRequest.of_field(field, "is empty")
    return data


def ratio(value: float | str) -> float:
    """Width over height, from a number or words such as ``16:9``.

    Raises:
        InvalidRequest: it is neither.
    """
    width, colon, height = str(value).partition(":")
    try:
        return float(width) / float(height) if colon else float(width)
    except (ValueError, ZeroDivisionError):
        raise InvalidRequest.of_field("aspect_ratio", f"{value!r} must be a number or look like 16:9") from None


def _acceleration(
    solver: str | None, cache_threshold: float | None, interval: Interval | None
) -> pb.Acceleration | None:
    start, end = (None, None) if interval is None else shares(interval)
    if solver is None and cache_threshold is None and interval is None:
        return None
    fields = {"solver": solver, "cache_threshold": cache_threshold, "guidance_start": start, "guidance_end": end}
    return _message(pb.Acceleration, fields, "acceleration.")


def shares(interval: Interval) -> tuple[float, float]:
    """Start and end of an interval, from two numbers or words such as ``0.1:0.8``.

    Raises:
        InvalidRequest: it is neither.
    """
    try:
        start, end = interval.split(":") if isinstance(interval, str) else interval
        return float(start), float(end)
    except (ValueError, TypeError):
        raise InvalidRequest.of_field(
            "acceleration.guidance_start", f"{interval!r} must be two numbers or look like 0.1:0.8"
        ) from None


def _media_type(format: str | None, save_to: Path | None) -> str | None:
    name = format
    if name is None and save_to is not None:
        name = save_to.suffix.lower().removeprefix(".") or None
    if name is None:
        return None
    if name not in MEDIA_TYPES:
        raise InvalidRequest.of_field("output_mime_type", f"{name!r} is none of {', '.join(MEDIA_TYPES)}")
    return MEDIA_TYPES[name]
