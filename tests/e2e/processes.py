"""The installed commands as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]


class ServerCommand:
    """`easyanim-server serve` in a process of its own; stopped by SIGTERM on exit."""

    def __init__(self, *flags: str, environment: Mapping[str, str] | None = None) -> None:
        command: list[str | Path] = [BIN / "easyanim-server", "serve", "--listen", "127.0.0.1:0", *flags]
        self._written = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed on exit; a pipe would be full some time
        surroundings = {**os.environ, **(environment or {})}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._written, text=True, env=surroundings
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().removeprefix("listening on ").strip()
        self.log = ""

    def __enter__(self) -> ServerCommand:
        if not self.address:
            self.__exit__()
            raise AssertionError(self.log)
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._written.close()

    @property
    def worker(self) -> psutil.Process:
        """The process that computes: the child that holds by far the most memory."""
        return max(psutil.Process(self.process.pid).children(), key=lambda child: child.memory_info().rss)

    def stop(self) -> int:
        """SIGTERM and wait; returns the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate(timeout=60)
        self._written.seek(0)
        self.log = self._written.read()
        return self.process.returncode


def client(*arguments: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run `easyanim-client`."""
    return subprocess.run(
        [BIN / "easyanim-client", *map(str, arguments)], capture_output=True, text=True, timeout=timeout
    )


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until `condition` holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never became true"
        time.sleep(0.02)
