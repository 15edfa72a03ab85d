"""The variants of the VAE that are measured, their results, and what those must show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

TARGET = 2.5  # times as fast as stock


@dataclass(frozen=True)
class Variant:
    """One way to run the network."""

    name: str
    arguments: dict[str, Any]
    """Of `VideoAutoencoder`."""
    search: bool = False
    """Whether cuDNN tries its kernels instead of asking its heuristics."""


@dataclass
class Result:
    """What was measured of one variant at one size."""

    size: str
    variant: str
    encode_ms: float = float("nan")
    decode_ms: float = float("nan")
    encode_speedup: float = float("nan")
    decode_speedup: float = float("nan")
    encode_peak_gb: float = float("nan")
    decode_peak_gb: float = float("nan")
    first_s: float = float("nan")
    encode_to_stock: float = float("nan")
    decode_to_stock: float = float("nan")
    encode_to_exact: float = float("nan")
    decode_to_exact: float = float("nan")
    rounds: list[list[float]] = field(default_factory=list)
    error: str = ""


STOCK = Variant("stock", {"path": "stock"})
TRITON = Variant("triton 4/1", {"way": "triton"})
TRITON_8 = Variant("triton 8/2", {"way": "triton", "sample_frames": 8, "latent_frames": 2})
TRITON_16 = Variant("triton 16/4", {"way": "triton", "sample_frames": 16, "latent_frames": 4})
TRITON_48 = Variant("triton 48/12", {"way": "triton", "sample_frames": 48, "latent_frames": 12})
SEARCH = Variant("triton 4/1 search", {"way": "triton"}, search=True)
SEARCH_16 = Variant("triton 16/4 search", {"way": "triton", "sample_frames": 16, "latent_frames": 4}, search=True)
EAGER = Variant("eager 4/1", {"way": "eager"})
COMPILED = Variant("compiled 4/1", {"way": "compiled"})

HEADER = (
    f"{'size':12} {'variant':20} {'encode':>8} {'decode':>8} {'faster':>13} {'peak GB':>11} {'first s':>8} "
    f"{'to stock':>15} {'to exact':>15}"
)


def row(result: Result) -> str:
    head = f"{result.size:12} {result.variant:20} "
    if result.error and result.encode_ms != result.encode_ms:
        return head + result.error
    return head + (
        f"{result.encode_ms:8.0f} {result.decode_ms:8.0f} {result.encode_speedup:6.2f} {result.decode_speedup:6.2f} "
        f"{result.encode_peak_gb:5.1f} {result.decode_peak_gb:5.1f} {result.first_s:8.1f} "
        f"{result.encode_to_stock:7.4f} {result.decode_to_stock:7.4f} "
        f"{result.encode_to_exact:7.4f} {result.decode_to_exact:7.4f} {result.error}"
    )


def verdicts(results: list[Result]) -> Iterator[str]:
    """What the table must show: as exact as stock, and much faster."""
    stock = {result.size: result for result in results if result.variant == STOCK.name}
    for result in results:
        if result.variant == STOCK.name:
            continue
        if result.error:
            yield f"FAILED {result.size} {result.variant}: {result.error}"
            continue
        base = stock[result.size]
        exact = all(
            getattr(result, half) <= 1.1 * getattr(base, half) + 1e-5 for half in ("encode_to_exact", "decode_to_exact")
        )
        fast = min(result.encode_speedup, result.decode_speedup) >= TARGET
        yield (
            f"{'as exact as stock' if exact else 'LESS EXACT than stock (or not compared)'}, "
            f"{'at least' if fast else 'NOT'} {TARGET} times as fast: {result.size} {result.variant}"
        )
