"""The forms in which arguments are given, and what the contract has for each."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO, Literal

from easyanim.v1 import video_pb2 as pb
from easyanim_client.errors import InvalidRequest

Picture = bytes | str | os.PathLike[str] | BinaryIO
"""A PNG, JPEG or WebP file, or another that the server reads (`ServerInfo.picture_mime_types`): its bytes, its path,
or a file opened in binary mode."""
Fit = Literal["crop", "pad", "stretch"]
Format = Literal["mp4", "webm", "mkv"]
Interval = str | tuple[float, float]
"""Start and end as shares of all steps, such as ``(0.1, 0.8)`` or ``"0.1:0.8"``."""

MEDIA_TYPES: dict[str, str] = {"mp4": "video/mp4", "webm": "video/webm", "mkv": "video/x-matroska"}
"""Media types by format, which is also the file's suffix."""


def read_picture(field: str, picture: Picture | None) -> bytes | None:
    """The bytes of a picture; None where there is none.

    Raises:
        InvalidRequest: it is empty, or a device.
        OSError: it cannot be read.
        TypeError: it is no picture in any of its forms.
    """
    if picture is None:
        return None
    data: object = picture
    if isinstance(picture, (str, os.PathLike)):
        try:
            if stat.S_ISCHR(os.stat(picture).st_mode):  # such as /dev/zero, which never ends
                raise InvalidRequest.of_field(field, f"{os.fspath(picture)} is a device; must be a file")
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


def fit_policy(fit: str) -> int:
    """The contract's number of a way to fit pictures.

    Raises:
        InvalidRequest: there is no such way.
    """
    if fit not in ("crop", "pad", "stretch"):
        raise InvalidRequest.of_field("fit_policy", f"{fit!r} is none of crop, pad, stretch")
    return pb.FitPolicy.Value(f"FIT_POLICY_{fit.upper()}")


def media_type(format: str) -> str:
    """The media type of a format.

    Raises:
        InvalidRequest: there is no such format.
    """
    if format not in MEDIA_TYPES:
        raise InvalidRequest.of_field("output_mime_type", f"{format!r} is none of {', '.join(MEDIA_TYPES)}")
    return MEDIA_TYPES[format]
