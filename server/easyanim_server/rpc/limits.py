"""How long the fields of a request may be: measured on its bytes, before anything is made of them.

What a caller sends is read field by field, over their lengths alone; nothing is copied, decoded or shown. So 30 MB in a
field that holds a name cost as much as 30 bytes, for every field of every message that the server takes, those of
health and reflection too. Pictures are bytes, which the limit of the whole message bounds; they are cut out as views of
the message as it arrived, since parsing would copy them, and each copy holds up the event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from easyanim_server.domain.errors import InvalidArgument, Violation
from easyanim_server.domain.wording import SHOWN_CHARS, counted, shown

NAME_BYTES = 256
"""Of text without a limit of its own: names of buckets, profiles, formats, services; keys and values of maps too."""
MOST_FIELDS = 1000
"""Of a request, those inside of others too, and the entries of repeated ones and of maps: each costs a little time."""
PACKED_BYTES = 8 * MOST_FIELDS
"""Of a repeated number, whose entries stand packed in one field."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_too_long: ContextVar[tuple[Violation, ...]] = ContextVar("too_long", default=())
_files: ContextVar[Mapping[str, memoryview]] = ContextVar("files", default=MappingProxyType({}))


class RequestLimits(grpc.aio.ServerInterceptor):
    """Measures every request of every service before it is parsed."""

    def __init__(self, service: str, max_prompt_chars: int) -> None:
        """Prepare.

        Args:
            service: The one that names wrong fields; of the others, what is too long is cut and then not found.
            max_prompt_chars: See `Settings`; a character has 4 bytes at most.
        """
        self._prefix = f"/{service}/"
        self._own = dict.fromkeys(("prompt", "negative_prompt"), max_prompt_chars)
        self._kinds: dict[str, Descriptor | None] = {}

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Put the measuring before the parsing."""
        handler = await continuation(handler_call_details)
        if handler is None or (kind := self._kind(handler_call_details.method)) is None:
            return handler
        parse, names_fields = handler.request_deserializer, handler_call_details.method.startswith(self._prefix)

        def read(data: bytes) -> Any:
            files: dict[str, memoryview] | None = {} if names_fields else None
            try:
                kept, wrong = measured(data, kind, self._own, files)
            except InvalidArgument:
                if names_fields:
                    raise
                kept, wrong = b"", []
            request = parse(kept)
            _too_long.set(tuple(wrong))
            _files.set(files or {})
            return request

        return handler._replace(request_deserializer=read)

    def _kind(self, method: str) -> Descriptor | None:
        if method not in self._kinds:  # only methods that exist come here
            service, _, name = method.removeprefix("/").rpartition("/")
            try:
                self._kinds[method] = (
                    descriptor_pool.Default().FindServiceByName(service).methods_by_name[name].input_type
                )
            except KeyError:
                self._kinds[method] = None
        return self._kinds[method]


def taken_files() -> dict[str, memoryview]:
    """The files of this call's request by field, which the parsed request is without; given out once.

    They are views of the message as it arrived, which lives as long as one of them.
    """
    files = dict(_files.get())
    _files.set({})
    return files


@contextmanager
def naming_what_is_too_long() -> Iterator[None]:
    """Around the checks of a request: fields that were cut before it was parsed are wrong as well.

    Raises:
        InvalidArgument: with the violations of the checks inside and these.
    """
    wrong = {item.field: item for item in _too_long.get()}
    try:
        yield
    except InvalidArgument as error:
        if not wrong:
            raise
        others = [item for item in error.violations if item.field not in wrong]
        raise InvalidArgument([*wrong.values(), *others]) from error
    if wrong:
        raise InvalidArgument(list(wrong.values()))


def measured(
    data: bytes, kind: Descriptor, most_chars: Mapping[str, int], files: dict[str, memoryview] | None = None
) -> tuple[bytes, list[Violation]]:
    """Measure the fields of a serialised message, and cut those that are too long.

    Args:
        data: The message.
        kind: Of what kind it is.
        most_chars: Of text fields by name, such as ``prompt`` or ``acceleration.solver``; others have `NAME_BYTES`.
        files: Takes the contents of the message's own fields of bytes by name, which are cut; without it they stay.

    Returns:
        The message, `data` itself where nothing was cut, and what is wrong with the others.

    Raises:
        InvalidArgument: it has more than `MOST_FIELDS` fields.
        DecodeError: it is no message.
    """
    walk = _Walk(most_chars, files)
    kept = walk.message(memoryview(data), kind, "")
    return (data if kept is None else kept), list(walk.wrong.values())


class _Walk:
    def __init__(self, most_chars: Mapping[str, int], files: dict[str, memoryview] | None) -> None:
        self._most_chars = most_chars
        self._files = files
        self._fields = 0
        self.wrong: dict[str, Violation] = {}

    def message(self, view: memoryview, kind: Descriptor, path: str) -> bytes | None:
        """The message with every field cut that is too long; None where none is."""
        parts: list[bytes | memoryview] = []
        done = at = 0
        while at < len(view):
            begin = at
            number, at = _varint(view, at)
            self._count()
            if number & 7 != _LENGTH:
                at = _after_number(view, at, number & 7)
                continue
            length, at = _varint(view, at)
            if at + length > len(view):
                raise DecodeError("a field is longer than its message")
            field = kind.fields_by_number.get(number >> 3)
            value = view[at : at + length]
            if self._is_cut(field, path, value):
                parts.append(view[done:begin])
                done = at + length
            elif field is not None and (cut := self._field(value, field, path)) is not None:
                parts += [view[done:begin], _as_varint(number), _as_varint(len(cut)), cut]
                done = at + length
            at += length
        return b"".join([*parts, view[done:]]) if parts else None

    def _is_cut(self, field: FieldDescriptor | None, path: str, value: memoryview) -> bool:
        """Whether a field is left out: a file, which is kept aside, or a long one of no name here."""
        if field is None:
            return len(value) > NAME_BYTES  # of a newer contract, and ignored; parsing would copy it twice
        if self._files is None or path or not _is_file(field):
            return False
        self._files[field.name] = value  # of several the last one counts, as it does where they are parsed
        return True

    def _count(self) -> None:
        self._fields += 1
        if self._fields > MOST_FIELDS:
            raise InvalidArgument([Violation("request", f"has more than {MOST_FIELDS} fields, which is the most")])

    def _field(self, value: memoryview, field: FieldDescriptor, path: str) -> bytes | None:
        """What is left of a field that is too long; None where it is not."""
        name = f"{path}{field.name}"
        if field.message_type is not None:
            return self.message(value, field.message_type, f"{name}.")
        if field.type == FieldDescriptor.TYPE_BYTES:
            return None
        if field.type != FieldDescriptor.TYPE_STRING:
            return None if len(value) <= PACKED_BYTES else self._refuse(name, value, f"{PACKED_BYTES} bytes", 0)
        if (chars := self._most_chars.get(name)) is not None:
            return (
                None if len(value) <= 4 * chars else self._refuse(name, value, counted(chars, "character"), 4 * chars)
            )
        if len(value) <= NAME_BYTES:
            return None
        begins = f" and begins with {shown(_text(value[: 4 * SHOWN_CHARS])[:SHOWN_CHARS])}"
        return self._refuse(name, value, f"{NAME_BYTES} bytes", NAME_BYTES, begins)

    def _refuse(self, name: str, value: memoryview, allowed: str, kept: int, begins: str = "") -> bytes:
        self.wrong[name] = Violation(name, f"has {len(value)} bytes{begins}; must have at most {allowed}")
        return _text(value[:kept]).encode()


def _is_file(field: FieldDescriptor) -> bool:
    alone = field.default_value == b"" and field.containing_oneof is None  # of a repeated one it is a list
    return alone and bool(field.type == FieldDescriptor.TYPE_BYTES)


def _text(value: memoryview) -> str:
    return bytes(value).decode(errors="ignore")


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            break
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise DecodeError("a number does not end")


def _as_varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _after_number(view: memoryview, at: int, wire_type: int) -> int:
    if wire_type == _VARINT:
        return _varint(view, at)[1]
    if wire_type not in (_FIXED64, _FIXED32):
        raise DecodeError("groups are not taken")
    at += 8 if wire_type == _FIXED64 else 4
    if at > len(view):
        raise DecodeError("a field is longer than its message")
    return at
