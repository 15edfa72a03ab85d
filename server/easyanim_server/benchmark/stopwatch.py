"""A stopwatch for work on a device, and the facts about a machine that its numbers depend on."""

from __future__ import annotations

import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

REPEAT_SECONDS = 15.0
"""Repeated work stops before it takes longer, so that long steps are measured less often than short ones."""

MATMUL_SIZES = {"cuda": 8192, "cpu": 1024}
"""Rows and columns of the square product whose rate others are compared with, by kind of device."""


@dataclass(frozen=True)
class Timing:
    """The same work, measured repeatedly."""

    milliseconds: tuple[float, ...]
    """Of each run, from an idle device to an idle device; at least one."""
    peak_bytes: int
    """Most device memory while it ran; 0 on the CPU."""

    @property
    def median(self) -> float:
        """Median of the milliseconds."""
        return statistics.median(self.milliseconds)


class Stopwatch:
    """Measures work from an idle device to an idle device.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def once(self, run: Callable[[], Result]) -> tuple[float, Result]:
        """Run once; returns the seconds and what came of it."""
        self._wait()
        began = time.perf_counter()
        result = run()
        self._wait()
        return time.perf_counter() - began, result

    def repeat(self, run: Callable[[], object], most: int) -> Timing:
        """Run at least once and at most `most` times, within `REPEAT_SECONDS` if that can be."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        times = [self.once(run)[0]]
        while len(times) < most and sum(times) + times[-1] <= REPEAT_SECONDS:
            times.append(self.once(run)[0])
        peak = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else 0
        return Timing(tuple(1000 * seconds for seconds in times), peak)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class HostPeak:
    """The most memory that this process has held of the host since it was made, file pages that it maps included."""

    def __init__(self) -> None:
        with suppress(OSError):  # where the kernel does not let it, the peak is the process's whole life's
            Path("/proc/self/clear_refs").write_text("5")

    @property
    def nbytes(self) -> int:
        """Bytes."""
        for line in Path("/proc/self/status").read_text(encoding="utf-8-sig").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def matmul_rate(device: torch.device) -> float:
    """Measure a square bfloat16 product of random numbers; returns operations a second.

    Zeros would be faster on cards that are bound by their power.
    """
    size = MATMUL_SIZES[device.type]
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator, device=device).bfloat16() for _ in range(2))
    stopwatch = Stopwatch(device)
    stopwatch.repeat(lambda: a @ b, 10)  # raises the clocks
    return 2000 * size**3 / stopwatch.repeat(lambda: a @ b, 10).median


def machine(device: torch.device) -> dict[str, Any]:
    """Name GPU, driver and libraries; None where there is none."""
    cuda = device.type == "cuda"
    return {
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "driver": _driver() if cuda else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
    }


def _driver() -> str | None:
    """The driver's version, which torch does not know."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.partition("\n")[0].strip() or None
