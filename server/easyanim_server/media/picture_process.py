"""One process that decodes pictures, seen from the server: a new program with two pipes, killed without regard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.spawn import get_executable

from easyanim_server.media import picture_child

REAP_SECONDS = 1.0
"""How long a process that was killed may take to be gone; it holds at most some memory by then."""

_BOOT = """
import sys, json
path, parent, memory = json.loads(sys.argv[1])
sys.path[:] = path
from easyanim_server.media import picture_child
picture_child.main(parent, memory)
"""
"""Modules are found where this process finds them. Not multiprocessing's own start, which imports the server's main
module with all that it needs."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from a process, or how it ended."""

    frame: tuple[picture_child.Header, bytes] | None
    """None where the process ended instead."""
    began: bool = True
    """Whether the process was ever ready."""
    exit_code: int | None = None
    """Of the process that ended; negative where a signal ended it."""


class PictureProcess:
    """One process with its pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.at_work = False
        """Whether a thread converses with it."""
        self._began = False
        self._conversing = threading.Lock()

    @classmethod
    def start(cls, memory_bytes: int) -> PictureProcess:
        """Start one; called on the event loop's own thread, with whose end the kernel kills the process."""
        given = json.dumps([sys.path, os.getpid(), memory_bytes])
        # A new program, begun by vfork: a fork of this process would carry over gRPC's threads and locks.
        process = subprocess.Popen(
            [get_executable(), "-c", _BOOT, given],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return cls(process)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def converse(self, header: picture_child.Header, content: bytes | memoryview) -> Answer:
        """Send a command and wait for its answer. Runs on a thread; ends when the process does."""
        with self._conversing:
            return self._converse(header, content)

    def _converse(self, header: picture_child.Header, content: bytes | memoryview) -> Answer:
        commands, answers = self.process.stdin, self.process.stdout
        assert commands is not None
        assert answers is not None
        with suppress(OSError, ValueError):  # it has ended; what its answer is, or that there is none, is read below
            picture_child.write(commands, header, content)
        try:
            self._began = self._began or picture_child.read(answers) is not None
            frame = picture_child.read(answers)
        except (OSError, ValueError, KeyError):  # what no decoder of ours would say
            frame = None
        if frame is None:
            self.process.kill()
            self.reap()
            return Answer(None, self._began, self.process.returncode)
        self.at_work = False
        return Answer(frame)

    def forget(self) -> bool:
        """Have it drop what it holds; whether it can be used again."""
        assert self.process.stdin is not None
        try:
            picture_child.write(self.process.stdin, {"do": "forget"})  # some bytes into an empty pipe
        except OSError:
            return False
        return True

    def hang_up(self) -> None:
        """Reap a process that was killed, and close its pipes once no thread converses with it."""
        self.reap()
        with self._conversing:
            for pipe in (self.process.stdin, self.process.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()

    def reap(self) -> None:
        """Wait until it is gone, but not for ever."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(REAP_SECONDS)
