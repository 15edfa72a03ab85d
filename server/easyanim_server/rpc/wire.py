"""Looks at a request's bytes before they are parsed, which holds the interpreter for as long as there are fields."""

from __future__ import annotations

from google.protobuf.message import Message

from easyanim_server.domain.errors import InvalidArgument, Violation

MOST_FIELDS = 64
"""Of one message; what nobody knows counts too. The contract's largest has about 20."""
MOST_NESTED_BYTES = 256 * 2**10
"""Of a message in a message; those have no pictures, and this much is parsed within a millisecond or two."""

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_MOST_VARINT_BYTES = 10


def check_fields(message: type[Message], data: bytes) -> None:
    """Refuse what takes long to parse for its fields' number; 30 MiB of empty ones take a fifth of a second.

    Whether the bytes can be read at all is left to the parser.

    Args:
        message: What the bytes are to be.
        data: All of it.

    Raises:
        InvalidArgument: there are too many fields, groups, or nested messages that are too long.
    """
    nested = {field.number: field.name for field in message.DESCRIPTOR.fields if field.message_type is not None}
    position = 0
    for _ in range(MOST_FIELDS):
        if position >= len(data):
            return
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == _VARINT:
            _, position = _varint(data, position)
        elif kind == _LENGTH:
            size, position = _varint(data, position)
            if size > MOST_NESTED_BYTES and tag >> 3 in nested:
                raise _refused(nested[tag >> 3], f"has {size} bytes; must have at most {MOST_NESTED_BYTES}")
            position += size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            position += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise _refused("request", "has a group, which this contract does not know; must have none")
    if position < len(data):
        raise _refused("request", f"has more than {MOST_FIELDS} fields; must have at most {MOST_FIELDS}")


def _refused(field: str, description: str) -> InvalidArgument:
    return InvalidArgument([Violation(field, description)])


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of up to ten bytes and where it ends; the end of `data` where it has none, which the parser refuses."""
    value = 0
    for shift, byte in enumerate(data[position : position + _MOST_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position + shift + 1
    return 0, len(data)
