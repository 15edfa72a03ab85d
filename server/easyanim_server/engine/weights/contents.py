"""What a model's files hold, where that is not what their names say; reads beginnings, never weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from easyanim_server.domain.errors import EasyAnimError, UnsupportedModel

HEAD_BYTES = 1024
"""Of a file, what its kind is told by; a git-lfs pointer is shorter as a whole."""

AGAIN = "download it again"


def _lfs_size(head: bytes) -> str:
    size = next((line[5:] for line in head.decode("latin-1").splitlines() if line.startswith("size ")), "?")
    return f"a git-lfs pointer to a file of {size} bytes; `git lfs pull` fetches it"


_MARKUP = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")

_KINDS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], str]], ...] = (
    (lambda head: head == b"", lambda head: f"empty; {AGAIN}"),
    (lambda head: head.startswith(b"version https://git-lfs.github.com/spec/"), _lfs_size),
    (
        lambda head: head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_MARKUP),
        lambda head: f"a web page (HTML), such as an error or a login answers with; {AGAIN}",
    ),
    (
        lambda head: head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"),
        lambda head: "a pickle of torch.save, which may run code when it is read; save it as safetensors",
    ),
    (lambda head: head.startswith(b"GGUF"), lambda head: "a GGUF file, and this server reads safetensors"),
    (lambda head: head.startswith(b"\x1f\x8b"), lambda head: "packed with gzip; unpack it"),
    (lambda head: head.strip(b"\0") == b"", lambda head: f"full of zeros, as a download that was cut off; {AGAIN}"),
)


def mistaken(file: Path) -> str | None:
    """What a file is that is no model's file at all, with what to do; None where its beginning may be anything.

    Args:
        file: Its name is not looked at.

    Raises:
        UnsupportedModel: it cannot be read.
    """
    with _readable(file), file.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    return next((told(head) for fits, told in _KINDS if fits(head)), None)


def refuse_mistaken(file: Path) -> None:
    """Refuse a file that is of another kind than any of a model's.

    Raises:
        UnsupportedModel: it is, or cannot be read.
    """
    found = mistaken(file)
    if found:
        raise UnsupportedModel(f"{file} is {found}")


def check_safetensors(file: Path) -> None:
    """Refuse a file that is not safetensors from its first byte to its last, which are where its header says.

    Raises:
        UnsupportedModel: says what the file is instead.
    """
    refuse_mistaken(file)
    with _readable(file), file.open("rb") as opened:
        size = file.stat().st_size
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        text = opened.read(length) if 0 < length <= size - 8 else b""
    if not text.startswith(b"{"):
        raise UnsupportedModel(f"{file} is broken: its {size} bytes do not begin as safetensors do; {AGAIN}")
    try:
        tensors = json.loads(text)
        end = max((item["data_offsets"][1] for name, item in tensors.items() if name != "__metadata__"), default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UnsupportedModel(f"{file} is broken: its header is damaged: {one_line(error)}; {AGAIN}") from error
    if size != 8 + length + end:
        raise UnsupportedModel(f"{file} is broken: it has {size} bytes, and by its header {8 + length + end}; {AGAIN}")


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON file whose top is an object.

    Raises:
        UnsupportedModel: names the file and the place in it.
    """
    refuse_mistaken(file)
    with _readable(file):
        data = file.read_bytes()
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnsupportedModel(f"{file} is not UTF-8: byte {data[error.start]:#04x} in line {line}") from error
    except (ValueError, RecursionError) as error:
        raise UnsupportedModel(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UnsupportedModel(f"{file} is not valid JSON for a model: its top is no object {{...}}")
    return content


def typed(content: dict[str, Any], file: Path, name: str, kind: type, default: Any) -> Any:
    """A value of a configuration, of the type that it must have.

    Raises:
        UnsupportedModel: it has another one.
    """
    value = content.get(name, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        words = {int: "a whole number", list: "a list"}[kind]
        raise UnsupportedModel(f"{file} is damaged: {name} is {value!r} and must be {words}")
    return value


@contextmanager
def blamed_on(file: Path) -> Iterator[None]:
    """Name a file in whatever a library raises that was given its content."""
    try:
        yield
    except EasyAnimError:
        raise
    except Exception as error:  # of a library's choice, by what is wrong
        raise UnsupportedModel(f"{file} is damaged: {one_line(error)}") from error


def one_line(error: Exception, most: int = 300) -> str:
    """An error's type and words without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:most]


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnsupportedModel(f"{file} cannot be read: {error.strerror}") from error
