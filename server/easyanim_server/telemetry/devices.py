"""The worker's NVIDIA devices as their driver reports them, read in the front through NVML, without CUDA."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import pynvml
import structlog

from easyanim_server.domain.model import WorkerInfo
from easyanim_server.telemetry.observer import JobObserver

log = structlog.get_logger(__name__)

PATIENCE = 1.0
"""Seconds that a driver has to answer; it takes milliseconds."""


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One device at one moment, other processes' use of it included."""

    index: int
    """As the driver counts: what `nvidia-smi` shows."""
    name: str
    memory_used: int
    """Bytes."""
    memory_total: int
    """Bytes."""
    utilization: float
    """Share of the last moments in which it worked, 0 to 1."""
    temperature: float | None
    """Degrees Celsius; None where the device does not tell."""
    power: float | None
    """Watts; None where the device does not tell."""


class Devices(JobObserver):
    """Reads the devices that the worker holds. Safe to share between threads.

    A driver in trouble can keep a call for good. So there is one reading at a time, on a thread that ends no process
    late, and nobody waits longer than `PATIENCE` for it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched = _Watched(())
        self._reading: _Reading | None = None

    def worker_ready(self, served: WorkerInfo) -> None:
        """Read this worker's devices from now on; the driver is asked when somebody wants to know."""
        with self._lock:
            self._watched = _Watched(served.device_uuids)

    def read(self) -> tuple[DeviceStatus, ...]:
        """How the devices are now; where the driver does not answer in time, how they were when it last did."""
        with self._lock:
            watched = self._watched
            if not watched.uuids:
                return ()
            if self._reading is None:
                self._reading = _Reading()
                threading.Thread(target=self._read, args=(watched, self._reading), name="devices", daemon=True).start()
            reading = self._reading
        reading.wait()
        return watched.last

    def _read(self, watched: _Watched, reading: _Reading) -> None:
        try:
            watched.read()
        finally:
            with self._lock:
                self._reading = None
            reading.ended.set()


class _Watched:
    """The devices of one worker, and what was last read of them."""

    def __init__(self, uuids: tuple[str, ...]) -> None:
        self.uuids = uuids
        self._handles: list[pynvml.c_nvmlDevice_t] | None = None
        self.last: tuple[DeviceStatus, ...] = ()

    def read(self) -> None:
        """Ask the driver; for one thread at a time."""
        try:
            if self._handles is None:
                self._handles = []  # a driver that refuses once is not asked again
                self._handles = _find(self.uuids)
            self.last = tuple(_read(handle) for handle in self._handles)
        except pynvml.NVMLError as error:
            self.last = ()
            log.warning("the devices cannot be read", devices=self.uuids, error=str(error))


class _Reading:
    """One reading that is under way."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._until = time.monotonic() + PATIENCE
        self._lock = threading.Lock()
        self._late = False

    def wait(self) -> None:
        """Until it has ended or has taken too long, which is said once."""
        if self.ended.wait(max(0.0, self._until - time.monotonic())):
            return
        with self._lock:
            first, self._late = not self._late, True
        if first:
            log.warning("the driver does not answer; the devices' last values are given", waited_seconds=PATIENCE)


def _find(uuids: Sequence[str]) -> list[pynvml.c_nvmlDevice_t]:
    pynvml.nvmlInit()  # counted by the library: a second time costs nothing
    return [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]


def _read(handle: pynvml.c_nvmlDevice_t) -> DeviceStatus:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    temperature = power = None
    with suppress(pynvml.NVMLError):
        temperature = float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
    with suppress(pynvml.NVMLError):
        power = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
    return DeviceStatus(
        index=pynvml.nvmlDeviceGetIndex(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        memory_used=memory.used,
        memory_total=memory.total,
        utilization=pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
        temperature=temperature,
        power=power,
    )
