"""The process that decodes pictures: commands on stdin, answers on stdout, limits on all that a file can ask for.

It imports Pillow and neither grpc nor torch, holds the pictures of one request at a time, and trusts nothing that it
is given. What a library does to it, a crash among them, costs the picture that it works on and nothing else. A frame in
either direction is the length of a JSON header, the header, and as many bytes as its `size` says.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import signal
import struct
import sys
import traceback
from contextlib import suppress
from typing import IO, Any

from PIL import Image

from easyanim_server.domain.errors import InvalidArgument
from easyanim_server.domain.job import Bucket, FitPolicy
from easyanim_server.media import picture

_LENGTH = struct.Struct(">I")
_PR_SET_PDEATHSIG = 1
MAX_FILES = 64
"""Descriptors: three pipes, and what an import of a library opens for a moment."""

Header = dict[str, Any]


def main(parent: int, memory_bytes: int) -> None:
    """Serve commands until stdin ends.

    Args:
        parent: Id of the process that gives the commands; this one does not outlive it.
        memory_bytes: Most address space to take.
    """
    _limit(parent, memory_bytes)
    decoded: dict[str, Image.Image] = {}
    commands, answers = sys.stdin.buffer, sys.stdout.buffer
    write(answers, {"ready": True})
    while (frame := read(commands)) is not None:
        header, content = frame
        if header["do"] == "forget":
            decoded.clear()
            continue
        # Of this picture alone, and exact; RLIMIT_CPU counts whole seconds of the process's life.
        signal.setitimer(signal.ITIMER_PROF, header["cpu_seconds"])
        write(answers, *_answer(header, content, decoded))
        signal.setitimer(signal.ITIMER_PROF, 0)
        del frame, content


def _answer(header: Header, content: bytes, decoded: dict[str, Image.Image]) -> tuple[Header, bytes]:
    field, background = header["field"], header["background"]
    try:
        if header["do"] == "fit":
            bucket, policy = Bucket(*header["bucket"]), FitPolicy(header["policy"])
            return {}, picture.fit(decoded[field], bucket, policy, background).rgb
        image = picture.load(content, field, max_pixels=header["max_pixels"], background=background)
        decoded[field] = image
        return {"width": image.width, "height": image.height, "sha256": hashlib.sha256(content).hexdigest()}, b""
    except InvalidArgument as error:
        return {"refused": error.violations[0].description}, b""
    except MemoryError:
        return {"no_memory": True}, b""
    except Exception:
        return {"failed": traceback.format_exc()}, b""


def read(stream: IO[bytes]) -> tuple[Header, bytes] | None:
    """The next frame; None at the end of the stream."""
    length = stream.read(_LENGTH.size)
    if len(length) < _LENGTH.size:
        return None
    header: Header = json.loads(stream.read(_LENGTH.unpack(length)[0]))
    content = stream.read(header["size"])
    return (header, content) if len(content) == header["size"] else None


def write(stream: IO[bytes], header: Header, content: bytes | memoryview = b"") -> None:
    """Send a frame; `size` is added to its header."""
    words = json.dumps({**header, "size": len(content)}).encode()
    stream.write(_LENGTH.pack(len(words)) + words)
    stream.write(content)
    stream.flush()


def _limit(parent: int, memory_bytes: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the server, which ends this process when it is time
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory is short, this process goes before the server
    for kind, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, MAX_FILES),
    ):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be noticed
        os._exit(1)
