"""Which rows the benchmark of placements measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from easyanim_server.domain.job import Bucket

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What a row measures."""

    cap: float | None
    """GiB of device memory that may be taken; None for all."""
    bucket: Bucket
    placement: str
    steps: int
    tiled: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells rows apart."""
        return (self.cap, self.bucket.name, self.bucket.frames, self.placement, self.tiled)


def key_of(row: Row) -> tuple[Any, ...]:
    return (row["cap_gib"], row["bucket"], row["frames"], row["placement"], row["vae_tiled"])


def on_a_gpu() -> list[Case]:
    """The rows to reach first, then what is good to know; 8-bit weights last, which gives those of 16 bits up."""
    small, square, middle, large = map(Bucket.parse, ("384x672x49", "512x512x49", "576x1008x49", "768x1344x49"))
    whole, group, fp8 = "model_cpu_offload", "group_offload", "model_cpu_offload_and_qfloat8"
    steps = {small: 6, square: 6, middle: 3, large: 2}
    order: list[tuple[float | None, Bucket, str]] = [
        (None, bucket, "full") for bucket in (small, square, middle, large)
    ]
    order += [(24, bucket, whole) for bucket in (small, large, middle, square)]
    order += [(16, bucket, whole) for bucket in (small, middle, square)]
    order += [(12, bucket, group) for bucket in (small, square)]
    order += [(None, small, group), (None, small, "sequential_cpu_offload"), (16, large, group), (12, middle, group)]
    cases = [
        Case(cap, bucket, name, 2 if name.startswith("sequential") else steps[bucket]) for cap, bucket, name in order
    ]
    cases += [Case(12, large, group, steps[large], tiled=True)]
    cases += [Case(cap, bucket, fp8, steps[bucket]) for cap, bucket in ((12, small), (12, square), (16, large))]
    return cases


def on_the_cpu() -> list[Case]:
    """The same code on the tiny model."""
    bucket = Bucket.parse("32x48x5")
    names = ("full", "model_cpu_offload", "group_offload", "sequential_cpu_offload", "model_cpu_offload_and_qfloat8")
    return [Case(None, bucket, name, 2) for name in names]
