"""One file over HTTP, that goes on where it was cut off: in this process, and in the next one."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import BinaryIO

import httpx

from easyanim_server.domain.errors import ConfigurationError

Observe = Callable[[int], None]
"""Is called with the number of bytes that have come, negative where bytes have to be read again."""

PART = ".part"
"""Behind the name of a file that is not complete; it stays where a download ends early."""

BLOCK = 1 << 20
TIMEOUT_S = 30.0
"""Without any byte."""
AT_ONCE = 4
"""Files."""

ATTEMPTS = 5
"""In a row that bring nothing."""
PAUSE_S = 1.0
"""Before the second such attempt, and twice as long before each further one."""


@dataclass(frozen=True)
class RemoteFile:
    """What a host says of a file."""

    path: str
    """In the model's folder, with slashes."""
    url: str
    size: int
    """Bytes."""
    sha256: str | None = None
    """In hexadecimal digits; None where the host does not say."""


def unobserved(count: int) -> None:
    """Observe nothing."""


def open_client() -> httpx.Client:
    """A client that takes proxies from the environment and follows redirects; to be closed."""
    return httpx.Client(follow_redirects=True, timeout=httpx.Timeout(TIMEOUT_S))


class _StoppedError(Exception):
    """Another file has failed."""


def download_all(
    files: Sequence[tuple[RemoteFile, Path]], observe: Observe = unobserved, headers: dict[str, str] | None = None
) -> None:
    """Bring several files, some at a time; where one fails, the others end and keep what has come.

    Args:
        files: What to bring, and where to. What is there is not looked at.
        observe: As in `download`; calls do not overlap.
        headers: Of each request.

    Raises:
        Exception: as `download`, of the first that failed.
    """
    stopped, turn = Event(), Lock()

    def told(count: int) -> None:
        if stopped.is_set():
            raise _StoppedError
        with turn:
            observe(count)

    with open_client() as client, ThreadPoolExecutor(AT_ONCE) as threads:
        waiting = [threads.submit(download, client, file, place, told, headers) for file, place in files]
        try:
            for future in as_completed(waiting):
                future.result()
        except BaseException:
            stopped.set()
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def download(
    client: httpx.Client,
    file: RemoteFile,
    target: Path,
    observe: Observe = unobserved,
    headers: dict[str, str] | None = None,
) -> None:
    """Bring one file; a connection that is cut is made again, and what has come is not asked for twice.

    Args:
        client: To ask with.
        file: What to bring.
        target: Where to; its folder is made. It appears when the file is complete.
        observe: Progress, with what an earlier call has left in the first call.
        headers: Of each request.

    Raises:
        httpx.HTTPError: the host cannot be reached, or refuses.
        ConfigurationError: what came is not the file that was promised.
        OSError: it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PART)
    with part.open("ab") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)  # of several processes one downloads, and the others wait for it
        if target.exists():
            part.unlink(missing_ok=True)
            observe(file.size)
            return
        opened.seek(0, os.SEEK_END)
        if opened.tell() > file.size:
            opened.truncate(0)
            opened.seek(0)
        observe(opened.tell())
        _complete(client, file, opened, observe, headers or {})
        opened.flush()
        os.fsync(opened.fileno())
        _verify(file, part)
        part.replace(target)


def _complete(
    client: httpx.Client, file: RemoteFile, opened: BinaryIO, observe: Observe, headers: dict[str, str]
) -> None:
    fruitless = 0
    while opened.tell() < file.size:
        before = opened.tell()
        try:
            _append(client, file, opened, observe, headers)
            if opened.tell() == before:
                raise httpx.RemoteProtocolError(f"{file.url} ended at byte {before} of {file.size}")
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if isinstance(error, httpx.HTTPStatusError) and not is_passing(error.response.status_code):
                raise
            fruitless = fruitless + 1 if opened.tell() <= before else 0
            if fruitless >= ATTEMPTS:
                raise
            if fruitless:
                time.sleep(PAUSE_S * 2 ** (fruitless - 1))


def is_passing(status: int) -> bool:
    """Whether a host that answers with that HTTP status may answer otherwise soon."""
    return status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR


def _append(
    client: httpx.Client, file: RemoteFile, opened: BinaryIO, observe: Observe, headers: dict[str, str]
) -> None:
    """One request for all that is missing."""
    start = opened.tell()
    # Packed bytes could not be counted.
    asked = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with client.stream("GET", file.url, headers=asked) as answer:
        answer.raise_for_status()
        if start and answer.status_code != httpx.codes.PARTIAL_CONTENT:  # this host cannot go on, and sends all
            opened.truncate(0)
            opened.seek(0)
            observe(-start)
        for block in answer.iter_raw():
            opened.write(block)
            observe(len(block))


def _verify(file: RemoteFile, part: Path) -> None:
    found = part.stat().st_size
    if found != file.size:
        part.unlink()
        raise ConfigurationError(f"{file.path} has {found} bytes instead of {file.size}; download it again")
    if file.sha256 is None:
        return
    digest = hashlib.sha256()
    with part.open("rb") as opened:
        while block := opened.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != file.sha256:
        part.unlink()
        raise ConfigurationError(f"{file.path} is damaged: its SHA-256 is not {file.sha256}; download it again")
