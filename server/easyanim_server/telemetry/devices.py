"""The worker's NVIDIA devices as their driver reports them, read in the front through NVML, without CUDA."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import pynvml
import structlog

from easyanim_server.job import Served
from easyanim_server.telemetry.observer import JobObserver

log = structlog.get_logger(__name__)


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
    """Reads the devices that the worker holds. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uuids: tuple[str, ...] = ()
        self._handles: list[pynvml.c_nvmlDevice_t] | None = []

    def worker_ready(self, served: Served) -> None:
        """Read this worker's devices from now on; the driver is asked when somebody wants to know."""
        with self._lock:
            self._uuids, self._handles = served.device_uuids, None

    def read(self) -> tuple[DeviceStatus, ...]:
        """How the devices are now; takes milliseconds, and longer where a driver is in trouble."""
        with self._lock:
            try:
                if self._handles is None:
                    self._handles = []  # a driver that refuses once is not asked again
                    self._handles = _find(self._uuids)
                return tuple(_read(handle) for handle in self._handles)
            except pynvml.NVMLError as error:
                log.warning("the devices cannot be read", devices=self._uuids, error=str(error))
                return ()


def _find(uuids: Sequence[str]) -> list[pynvml.c_nvmlDevice_t]:
    if not uuids:
        return []
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
