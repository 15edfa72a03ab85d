"""What goes with a call beside its request: the request id, and metadata of the caller's own."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping

from easyanim_client.errors import InvalidRequest

REQUEST_ID = "x-request-id"
"""Key of the metadata that names a call."""
_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")
"""What servers keep; they replace others, since ids go into logs."""
_KEY = re.compile(r"[0-9a-z_.-]+")
_TEXT = re.compile(r"[\x20-\x7e]*")

Value = str | bytes
Metadata = tuple[tuple[str, Value], ...]
Given = Mapping[str, Value] | Iterable[tuple[str, Value]]
"""Metadata by key, or in pairs where a key comes twice; keys that end in ``-bin`` have bytes."""


def request_id_or_new(given: str | None) -> str:
    """The id that a caller gave to its call, or a random one.

    Raises:
        InvalidRequest: servers would not keep it.
    """
    if given is None:
        return uuid.uuid4().hex
    if not isinstance(given, str) or not _ID.fullmatch(given):
        raise InvalidRequest.of_field(
            "request_id", f"is {given!r}; must be 1 to 128 letters, digits and . _ : / = + - of ASCII"
        )
    return given


def checked_metadata(given: Given) -> Metadata:
    """Metadata as gRPC takes it.

    Raises:
        InvalidRequest: a key or a value cannot be sent.
    """
    pairs = tuple(given.items() if isinstance(given, Mapping) else given)
    for key, value in pairs:
        if why := _unfit(key, value):
            raise InvalidRequest.of_field("metadata", f"{key!r} {why}")
    return pairs


def _unfit(key: object, value: object) -> str:
    """Why a pair cannot be sent; empty where it can."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        return "is no key; must be lower-case letters, digits and - _ ."
    if key == REQUEST_ID:
        return "is given by request_id"
    if key.startswith("grpc-"):
        return "is gRPC's own; must not begin with grpc-"
    if key.endswith("-bin"):
        return "" if isinstance(value, bytes) else f"is {value!r}; must be bytes, since its key ends in -bin"
    if not isinstance(value, str) or not _TEXT.fullmatch(value):
        return f"is {value!r}; must be a string of printable ASCII, or bytes under a key that ends in -bin"
    return ""
