"""A server with a simulated engine in a process of its own, whose memory and files can be measured and limited."""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
from pathlib import Path

import psutil

from easyanim_server.rpc.connections import raise_descriptor_limit
from easyanim_server.rpc.trim import limit_arenas
from easyanim_server.telemetry.log import configure_logging
from tests.engines import SIMULATED
from tests.servers import RunningServer, settings

ROOT = Path(__file__).parents[1]


class ServerProcess:
    """Starts on entry, is told to stop on exit. Its garbage collector is off, so that what is in cycles stays."""

    def __init__(self, files: tuple[int, int] = (1024, 1024), **values: str) -> None:
        """Prepare.

        Args:
            files: Soft and hard limit of its open files.
            values: Settings.
        """
        self._words = [json.dumps([files, values])]
        self.address = ""
        self.metrics_port = 0

    def __enter__(self) -> ServerProcess:
        command = [sys.executable, "-m", "tests.server_process", *self._words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.process.stdout is not None
        self.address, port = self.process.stdout.readline().split()
        self.metrics_port = int(port)
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.communicate("\n", timeout=60)

    @property
    def mebibytes(self) -> float:
        """Resident memory of the front."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20

    @property
    def worker(self) -> psutil.Process:
        """The child that computes; another one tracks what such children share."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if "spawn_main" in " ".join(child.cmdline()))


def main(words: str) -> None:
    files, values = json.loads(words)
    resource.setrlimit(resource.RLIMIT_NOFILE, tuple(files))
    configure_logging("console", "warning")
    limit_arenas()
    raise_descriptor_limit()
    gc.disable()
    with RunningServer(settings(**values), SIMULATED) as server:
        print(server.address, server.app.metrics_port or 0, flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1])
