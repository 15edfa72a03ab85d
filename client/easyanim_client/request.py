"""A GenerateRequest from friendly arguments, with what can be refused before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from easyanim.v1 import video_pb2 as pb
from easyanim_client.errors import InvalidRequest, MessageTooLarge, Violation
from easyanim_client.options import OPTIONS, GenerateOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

MessageT = TypeVar("MessageT", bound=Message)

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
    prompt: str, *, save_to: Path | None = None, **options: Unpack[GenerateOptions]
) -> pb.GenerateRequest:
    """Build the request of one generation; None leaves a field to the server's default.

    Only what the contract cannot express is refused here; ranges are the server's to check.

    Args:
        prompt: What happens in the video.
        save_to: The file whose suffix is the format where none is given.
        options: See `GenerateOptions`.

    Raises:
        InvalidRequest: an argument has no form in the contract.
        OSError: a picture cannot be read.
        TypeError: an argument is unknown or of another type.
    """
    given: dict[str, Any] = {"prompt": prompt, **options}
    if unknown := given.keys() - {option.name for option in OPTIONS}:
        raise TypeError(f"generate() got an unexpected keyword argument {min(unknown)!r}")
    if given.get("bucket") is not None and given.get("aspect_ratio") is not None:
        raise InvalidRequest.of_field("aspect_ratio", "cannot be given together with bucket; give one of them")
    if given.get("format") is None and save_to is not None:
        given["format"] = save_to.suffix.lower().removeprefix(".") or None
    fields: dict[str, Any] = {}
    within: dict[str, dict[str, Any]] = {}
    for option in OPTIONS:
        value = given.get(option.name, option.default)
        if value is None:
            continue
        encoded = option.encode(value)
        for path, part in zip(option.fields, encoded if len(option.fields) > 1 else (encoded,), strict=True):
            outer, dot, field = path.partition(".")
            (within.setdefault(outer, {}) if dot else fields)[field or outer] = part
    for outer, inner in within.items():
        fields[outer] = _message(type(getattr(pb.GenerateRequest(), outer)), inner, f"{outer}.")
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
