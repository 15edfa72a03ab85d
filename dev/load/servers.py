"""Servers under load, and what their processes cost."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from easyanim_client import Client, EasyAnimError

ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(sys.executable).parent / "easyanim-server"

START_SECONDS = 120.0
IDLE_SECONDS = 30.0
"""How long the last job may take to leave a server whose callers have gone."""


class LoadFailed(Exception):
    """A scenario did not end as it must."""


@dataclass(frozen=True)
class CpuSeconds:
    """CPU time since a server's processes began."""

    front: float
    """Of the process that speaks gRPC."""
    worker: float
    """Of the process that holds the engine; the video encoder's work is in it."""

    def since(self, earlier: CpuSeconds) -> CpuSeconds:
        return CpuSeconds(self.front - earlier.front, self.worker - earlier.worker)

    @property
    def front_share(self) -> float:
        """CPU time outside the engine's process, of all that the server took."""
        return self.front / (self.front + self.worker)


class LoadedServer:
    """`easyanim-server serve` in a process of its own; on exit it must be idle, stop by itself and have logged nothing.

    Its log goes to a file: a pipe that nobody reads would stop the server once it is full.
    """

    def __init__(self, *flags: str, model: str = "builtin:tiny") -> None:
        serve = [SERVER, "serve", "--model", model, "--listen", "127.0.0.1:0", "--log-level", "warning"]
        self._start([*map(str, serve), *flags])

    def _start(self, command: list[str]) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed on exit
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().removeprefix("listening on ").strip()

    def __enter__(self) -> LoadedServer:
        until = time.monotonic() + START_SECONDS
        with Client(self.address or "none") as client:
            while not self._serving(client):
                if self._process.poll() is not None or time.monotonic() > until:
                    raise LoadFailed(f"the server did not start: {self._read_log()}")
                time.sleep(0.2)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self.wait_until_idle()
            self._process.terminate()
            code = self._process.wait(timeout=60)
        finally:
            self._process.kill()  # of no effect on one that has ended
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            log = self._read_log()
            self._log.close()
        if kind is None and (code != 0 or log):
            raise LoadFailed(f"the server ended with {code} and logged: {log or 'nothing'}")

    @property
    def cpu(self) -> CpuSeconds:
        """What the processes took so far."""
        front = psutil.Process(self._process.pid)
        # The other child, multiprocessing's resource tracker, takes none to speak of.
        return CpuSeconds(_cpu_seconds(front), sum(map(_cpu_seconds, front.children())))

    def wait_until_idle(self) -> None:
        """Wait for the last job to end.

        Raises:
            LoadFailed: it is still there after `IDLE_SECONDS`.
        """
        until = time.monotonic() + IDLE_SECONDS
        with Client(self.address) as client:
            while jobs := client.info().jobs:
                if time.monotonic() > until:
                    raise LoadFailed(f"{jobs} jobs are still there {IDLE_SECONDS:g} s after their callers have gone")
                time.sleep(0.05)

    @staticmethod
    def _serving(client: Client) -> bool:
        try:
            return client.health(timeout=2)
        except EasyAnimError:
            return False

    def _read_log(self) -> str:
        self._log.seek(0)
        return self._log.read().strip()


class LargeResultServer(LoadedServer):
    """The same front with a worker that is simulated, see `dev.load.large_result_server`."""

    def __init__(self, megabytes: int) -> None:
        self._start([sys.executable, "-m", "dev.load.large_result_server", str(megabytes)])


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
