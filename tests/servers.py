"""A real server for tests: grpc.aio on a free port, a spawned worker process, on an event loop of its own thread."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import Any

from easyanim_server.config.settings import Settings
from easyanim_server.rpc.server import App
from easyanim_server.workers.process import LocalWorker


class RunningServer:
    """Starts on entry, serves from a thread, drains and stops on exit."""

    def __init__(self, settings: Settings, engine_path: str, *, wait: bool = True) -> None:
        self.settings = settings
        self.address = ""
        self.worker = LocalWorker(settings, engine_path)
        self.app: App
        self.error: BaseException | None = None
        self._wait = wait
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="server")
        self._listening = threading.Event()

    def __enter__(self) -> RunningServer:
        self._thread.start()
        self._listening.wait()
        if self._wait:
            self.wait_for("SERVING")
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the server did not stop"

    def stop(self) -> None:
        """What a SIGTERM does."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # it ends just now
                self._loop.call_soon_threadsafe(self.app.stop)

    def wait_for(self, state: str, seconds: float = 180.0) -> None:
        """Block until the server is in `state`."""
        until = time.monotonic() + seconds
        while self.app.jobs.state.value != state:
            assert self._thread.is_alive(), f"the server ended: {self.error!r}"
            assert time.monotonic() < until, f"not {state} after {seconds} s: {self.app.jobs.detail}"
            time.sleep(0.01)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            self.error = error
        finally:
            self._listening.set()
            self._loop.close()

    async def _serve(self) -> None:
        self.app = App(self.settings, self.worker)
        self.address = f"127.0.0.1:{await self.app.start()}"
        self._listening.set()
        await self.app.run_until_stopped()


def settings(**values: Any) -> Settings:
    """Settings for a test's server: a free port, small buckets, quick heartbeats."""
    defaults = {"listen": "127.0.0.1:0", "model": "simulated:fine", "buckets": "64x96x9,96x64x9,64x64x5"}
    return Settings.load({**defaults, **values})
