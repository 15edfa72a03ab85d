"""Which devices this machine has, and which one a setting means."""

from __future__ import annotations

import psutil
import torch

from easyanim_server.domain.errors import ConfigurationError

GIB = 2**30


def resolve_device(name: str) -> torch.device:
    """Find the device that a setting names: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigurationError: the name is another one, or there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(f"device {name!r} must be auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"device {name!r} must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(f"device {name!r} is not there; torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Compute type by name; ``auto`` is bfloat16 on CUDA and float32 on CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]


def limit_memory(device: torch.device, limit_gib: float | None) -> None:
    """Let this process take no more of a CUDA device's memory than that, where there is a limit.

    Raises:
        ConfigurationError: the device has less.
    """
    if device.type != "cuda" or limit_gib is None:
        return
    total = torch.cuda.get_device_properties(device).total_memory
    if limit_gib * GIB > total:
        raise ConfigurationError(
            f"vram_limit_gib={limit_gib:g} is more than {device_name(device)} has: {total / GIB:.1f}"
        )
    index = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.set_per_process_memory_fraction(limit_gib * GIB / total, index)


def locked_limit(setting: float | None) -> int:
    """Bytes of host memory that may be locked; None means half of what there is."""
    total: int = psutil.virtual_memory().total
    return total // 2 if setting is None else int(setting * GIB)


def device_name(device: torch.device) -> str:
    """Name of a device as its maker calls it; ``cpu`` for the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def describe_devices() -> list[str]:
    """One sentence for every CUDA device; none where torch sees none."""
    sentences = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        capability = f"compute capability {facts.major}.{facts.minor}"
        sentences.append(f"{facts.name}, {capability}, {free / GIB:.1f} of {total / GIB:.1f} GiB free")
    return sentences


def device_uuids(device: torch.device) -> tuple[str, ...]:
    """The driver's name of a device, such as ``GPU-8f5a...``; empty on the CPU."""
    return (f"GPU-{torch.cuda.get_device_properties(device).uuid}",) if device.type == "cuda" else ()


def peak_bytes(device: torch.device, reset: bool = False) -> int:
    """Highest memory of a device since the last reset; 0 on the CPU."""
    if device.type != "cuda":
        return 0
    peak = torch.cuda.max_memory_allocated(device)
    if reset:
        torch.cuda.reset_peak_memory_stats(device)
    return peak


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
