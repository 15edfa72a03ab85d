"""The jobs of a batch: from a file of JSON lines, or from a folder of pictures."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from easyanim_client.errors import EasyAnimError, InvalidRequest, Violation, told
from easyanim_client.offered import refused
from easyanim_client.options import OPTIONS, PATH
from easyanim_client.request import build_request
from easyanim_client.served import ServerInfo

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "id": ((str,), "a string"),
    **{option.name: (option.kind.json, option.words or option.kind.words) for option in OPTIONS},
}
"""Keys of a line, named like the arguments of `Client.generate`."""

_KEYS = {field: option.name for option in OPTIONS for field in option.fields if field != option.name}
"""Of the fields of a request whose names are others there."""

_PATHS = [option.name for option in OPTIONS if option.kind is PATH]

_PICTURES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".heic", ".heif", ".avif"))
"""Suffixes of files that are sent; not every server reads the last three, and one that does not says so."""
_ID = re.compile(r"[^/\\\x00-\x1f\ud800-\udfff.][^/\\\x00-\x1f\ud800-\udfff]*")
MAX_ID_BYTES = 200
"""Of a job's name; file systems take 255, with suffixes and those of a file that is not complete yet."""
MAX_PROBLEMS = 20
"""Said at once."""


@dataclass(frozen=True, slots=True)
class BatchJob:
    """One video of a batch."""

    index: int
    """Place in the batch, from 1."""
    place: str
    """Where it stands, for people: a line's number, or a picture's name."""
    id: str
    """Names the job and its file; unique within the batch."""
    arguments: Mapping[str, Any]
    """For `Client.generate`, without `save_to`."""
    sha256: str
    """Of the request, pictures included, without a seed that was drawn for it."""

    @property
    def file_name(self) -> str:
        """Of the video."""
        return f"{self.id}.{self.arguments['format']}"

    def with_seed(self, seed: int) -> BatchJob:
        """The same job where it has a seed, else with this one."""
        if self.arguments.get("seed") is not None:
            return self
        return replace(self, arguments={**self.arguments, "seed": seed})


def read_jobs(source: Path, defaults: Mapping[str, Any]) -> list[BatchJob]:
    """Read a batch and check all of it before anything is sent.

    Args:
        source: A file with a JSON object a line, or a folder in which every picture is a job; its prompt is in the
            text file of the same name, or in `defaults`.
        defaults: Arguments of jobs that do not give them; None values are left out.

    Raises:
        InvalidRequest: names every line or picture that is wrong, and what is allowed.
        OSError: it cannot be read.
    """
    problems: list[str] = []
    given = _from_folder(source) if source.is_dir() else _from_lines(source)
    defaults = {name: value for name, value in defaults.items() if value is not None}
    jobs = []
    for index, (place, fields) in enumerate(given, 1):
        try:
            jobs.append(_job(index, place, fields(), defaults))
        except _Wrong as error:
            problems.append(f"{place}: {error}")
        except (OSError, ValueError) as error:
            problems.append(f"{place}: {told(error)}")
    twice = [name for name, count in Counter(job.id for job in jobs).items() if count > 1]
    problems += [f'id "{name}" is given more than once; ids must be unique' for name in twice]
    if problems:
        raise _refusal(source, problems)
    if not jobs:
        what = "picture" if source.is_dir() else "line"
        others = "".join(f"\n  {name}: {why}" for name, why in left_out(source)[:MAX_PROBLEMS])
        raise InvalidRequest(f"{source} has no {what}, so there is nothing to do{others}")
    return jobs


def check_offered(source: Path, jobs: Iterable[BatchJob], served: ServerInfo) -> None:
    """Hold a batch against what the server offers, before anything is sent.

    Raises:
        InvalidRequest: names every line or picture that the server would refuse, and what is allowed.
    """
    wrong = ((job.place, refused(job.arguments, served)) for job in jobs)
    if problems := [f"{place}: {'; '.join(map(_named, found))}" for place, found in wrong if found]:
        raise _refusal(source, problems)


class _Wrong(Exception):
    """A job that cannot be; says all that is wrong with it."""

    def __init__(self, problems: Iterable[str]) -> None:
        super().__init__("; ".join(problems))


def _refusal(source: Path, problems: Sequence[str]) -> InvalidRequest:
    more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
    return InvalidRequest("\n  ".join([f"{source} cannot be run:", *problems[:MAX_PROBLEMS], *more]))


def _job(index: int, place: str, given: _Given, defaults: Mapping[str, Any]) -> BatchJob:
    fields, problems = given.fields, [*given.problems]
    arguments = {"format": "mp4", **defaults, **{name: value for name, value in fields.items() if name != "id"}}
    sizes = {"bucket", "aspect_ratio"}
    if sizes & fields.keys():  # a job's own size takes the place of the default in either form
        arguments = {name: value for name, value in arguments.items() if name not in sizes - fields.keys()}
    name = fields.get("id", f"{index:04}")
    if not _ID.fullmatch(name) or len(name.encode()) > MAX_ID_BYTES:
        problems.append(
            f"id {name!r} cannot be a file's name: no slash, no dot at its start, at most {MAX_ID_BYTES} bytes of UTF-8"
        )
    prompt = str(arguments.get("prompt", ""))
    if not prompt.strip() and "prompt" not in given.refused:
        problems.append("there is no prompt; give it in the job, in a text file beside the picture, or by --prompt")
    try:
        request = build_request(**{**arguments, "prompt": prompt})
    except (EasyAnimError, OSError) as error:
        # A request is refused for the first that cannot be; what each argument is refused for by itself is the rest.
        problems += dict.fromkeys([*_said(error), *_wrong_arguments(arguments)])
    if problems:
        raise _Wrong(problems)
    return BatchJob(
        index, place, name, arguments, hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
    )


def _wrong_arguments(arguments: Mapping[str, Any]) -> Iterator[str]:
    for name, value in arguments.items():
        try:
            build_request(**{"prompt": "", name: value})
        except (EasyAnimError, OSError) as error:
            yield from _said(error)


def _said(error: EasyAnimError | OSError) -> list[str]:
    violations = error.violations if isinstance(error, InvalidRequest) else ()
    return [*map(_named, violations)] or [told(error)]


def _named(wrong: Violation) -> str:
    key = f" ({_KEYS[wrong.field]})" if wrong.field in _KEYS else ""
    return f"{wrong.field}{key}: {wrong.description}"


@dataclass(frozen=True, slots=True)
class _Given:
    """What a line or a picture says of a job."""

    fields: Mapping[str, Any]
    """Those that can be used."""
    refused: frozenset[str] = frozenset()
    """Keys of the others."""
    problems: tuple[str, ...] = ()
    """What is wrong with them."""


def _from_lines(source: Path) -> Iterator[tuple[str, Callable[[], _Given]]]:
    # Bytes are split at line feeds alone: texts may have other separators of lines within them.
    for number, line in enumerate(source.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        if line.strip():
            yield f"line {number}", partial(_fields, line, source.parent)


def _fields(line: bytes, folder: Path) -> _Given:
    try:
        return _checked(json.loads(line), folder)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: byte {line[error.start]:#04x} at place {error.start + 1}") from error


def _checked(fields: object, folder: Path) -> _Given:
    if not isinstance(fields, dict):
        raise ValueError('must be a JSON object such as {"prompt": "a cat blinks"}')
    wrong = {name: why for name, value in fields.items() if (why := _unfit(name, value))}
    right = {name: value for name, value in fields.items() if name not in wrong}
    paths = {name: folder / right[name] for name in _PATHS if name in right}
    return _Given({**right, **paths}, frozenset(wrong), tuple(wrong.values()))


def _unfit(name: str, value: object) -> str:
    """Why a line cannot have a key or its value; empty where it can."""
    if name not in _TYPES:
        return f"unknown key {name!r}; known are {', '.join(_TYPES)}"
    types, words = _TYPES[name]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        return f"{name} is {json.dumps(value, ensure_ascii=False)}; must be {words}"
    return ""


def _from_folder(source: Path) -> Iterator[tuple[str, Callable[[], _Given]]]:
    pictures = sorted(file for file in source.iterdir() if not _why_left_out(file))
    stems = Counter(picture.stem for picture in pictures)
    for picture in pictures:
        name = picture.stem if stems[picture.stem] == 1 else picture.name
        yield picture.name, partial(_beside, picture, name)


def left_out(source: Path) -> list[tuple[str, str]]:
    """What in a folder is no job, by name and reason; hidden files and texts of pictures are passed over.

    Args:
        source: As of `read_jobs`; a file leaves nothing out.

    Raises:
        OSError: it cannot be read.
    """
    if not source.is_dir():
        return []
    files = sorted(file for file in source.iterdir() if not file.name.startswith("."))
    pictures = {file.stem for file in files if not _why_left_out(file)}
    return [
        (file.name, why)
        for file in files
        if (why := _why_left_out(file)) and not (file.suffix == ".txt" and file.stem in pictures)
    ]


def _why_left_out(file: Path) -> str:
    """Why a file of a folder is no job; empty where it is one."""
    if file.name.startswith("."):  # such as ._NAME.jpg, which macOS puts beside NAME.jpg on other systems' disks
        return "it is hidden"
    if file.is_dir():
        return "it is a folder, and only this one is read"
    if file.suffix.lower() == ".txt":
        return "it is a prompt, and no picture has its name"
    if file.suffix.lower() not in _PICTURES:
        return f"{file.suffix or 'a name without a suffix'} is none of {', '.join(sorted(_PICTURES))}"
    return "" if file.is_file() else "it is not a regular file"


def _beside(picture: Path, name: str) -> _Given:
    """The job of a picture, with the prompt of the text file beside it."""
    text = picture.with_suffix(".txt")
    try:
        prompt = {"prompt": text.read_text(encoding="utf-8-sig").strip()} if text.is_file() else {}
    except UnicodeDecodeError as error:
        raise ValueError(f"{text.name} is not UTF-8: {error.reason} at byte {error.start + 1}") from error
    return _Given({"id": name, "start_image": picture, **prompt})
