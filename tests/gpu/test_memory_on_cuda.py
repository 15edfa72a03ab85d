"""Placements on a CUDA device under the memory of smaller cards.

With ``MEMORY_ROWS=bench/results/<card>-memory.json`` rows that `dev/bench/memory.py` has measured there are not
measured again, and those that are missing are added.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dev.bench.memory import MemoryBenchmark
from dev.bench.memory_cases import Case
from easyanim_server.domain.errors import OutOfDeviceMemory
from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.domain.placement import WeightPlacement
from easyanim_server.engine.devices import GIB
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.weights import checkpoint

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
SMALL, SQUARE, MIDDLE, LARGE = map(Bucket.parse, ("384x672x49", "512x512x49", "576x1008x49", "768x1344x49"))
WHOLE, GROUP, SEQUENTIAL, FP8 = (
    "model_cpu_offload", "group_offload", "sequential_cpu_offload", "model_cpu_offload_and_qfloat8",
)  # fmt: skip
STEPS = {SMALL: 4, SQUARE: 4, MIDDLE: 2, LARGE: 2}

REQUIRED = [
    *((24, bucket, WHOLE) for bucket in (SMALL, SQUARE, MIDDLE, LARGE)),
    *((16, bucket, WHOLE) for bucket in (SMALL, SQUARE, MIDDLE)),
    *((12, bucket, GROUP) for bucket in (SMALL, SQUARE)),
]
"""Card, bucket, and the placement that `auto` takes there."""

Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Row]]:
    """The 7B model with its whole text encoder, each case once."""
    cases: list[tuple[float | None, Bucket, str]] = [(None, bucket, "full") for bucket in STEPS]
    cases += [*REQUIRED, (None, SMALL, GROUP), (None, SMALL, SEQUENTIAL), (12, SMALL, FP8)]
    file = Path(os.environ.get("MEMORY_ROWS") or tmp_path_factory.mktemp("memory") / "memory.json")
    asked = [Case(cap, bucket, name, STEPS[bucket]) for cap, bucket, name in cases]
    bench = MemoryBenchmark("synthetic:7b", CUDA, asked, file, seconds=1e9, backend="inductor")
    bench.run()
    yield bench.rows
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def row_of(rows: list[Row], cap: float | None, bucket: Bucket, placement: str) -> Row:
    (found,) = [
        row
        for row in rows
        if (row["cap_gib"], row["bucket"], row["placement"]) == (cap, bucket.name, placement)
    ]  # fmt: skip
    assert "error" not in found, found["error"]
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("cap", "bucket", "placement"), REQUIRED, ids=lambda value: str(value))
def test_a_smaller_card_runs_its_buckets_with_the_video_of_full(
    rows: list[Row], cap: float, bucket: Bucket, placement: str
) -> None:
    row = row_of(rows, cap, bucket, placement)
    assert row["reserved_gib"] <= cap
    assert row["equal_to_full"] is True


@pytest.mark.parametrize(("cap", "most"), [(24, 1.15), (16, 1.35)])
def test_what_a_smaller_card_costs(rows: list[Row], cap: float, most: float) -> None:
    assert row_of(rows, cap, SMALL, WHOLE)["ratio_to_full"] <= most


def test_model_cpu_offload_takes_at_most_the_articles_memory(rows: list[Row]) -> None:
    assert row_of(rows, 24, SMALL, WHOLE)["peak_gib"] <= 14


def test_streaming_ahead_is_five_times_as_fast_as_copying_in_turn(rows: list[Row]) -> None:
    group, sequential = (row_of(rows, None, SMALL, name) for name in (GROUP, SEQUENTIAL))
    assert sequential["phases"]["DENOISE"] >= 5 * group["phases"]["DENOISE"]
    assert group["equal_to_full"] is sequential["equal_to_full"] is True


def test_weights_in_8_bits_fit_12_gib_without_streaming_the_transformer(rows: list[Row]) -> None:
    row = row_of(rows, 12, SMALL, FP8)
    assert row["precision"] == "fp8"
    assert row["peak_gib"] < 10
    assert row["equal_to_full"] is False


BUCKET = Bucket.parse("192x320x13")
JOB = Job(
    "1", "a cat", "ugly", BUCKET, steps=2, guidance=6.0, seed=1,
    start=Picture(BUCKET.width, BUCKET.height, bytes(range(256)) * (3 * BUCKET.width * BUCKET.height // 256)),
)  # fmt: skip


def tiny(placement: str) -> Engine:
    modules = checkpoint.load("builtin:tiny", device=CUDA, dtype=torch.bfloat16, on_host=placement != "full")
    return Engine(EasyAnimatePipeline(modules), placement=placement, locked_limit=GIB)


def render(engine: Engine, job: Job = JOB) -> list[bytes]:
    sampling = engine.begin(job)
    while not sampling.done:
        engine.step(sampling)
    return [frames.tobytes() for frames in engine.decode(sampling)]


@pytest.mark.parametrize("placement", [WHOLE, GROUP, SEQUENTIAL])
def test_every_placement_gives_the_bits_of_full_again_and_again(placement: str) -> None:
    expected = render(tiny("full"))
    engine = tiny(placement)
    assert (engine.placement.locked_bytes > 0) is (placement != SEQUENTIAL)
    for _ in range(3):
        assert render(engine) == expected
    engine.placement.leave()


def test_locked_memory_is_bounded_and_given_back() -> None:
    modules = checkpoint.load("builtin:tiny", device=CUDA, dtype=torch.bfloat16, on_host=True)
    engine = Engine(EasyAnimatePipeline(modules), placement=GROUP, locked_limit=2 * 2**20)
    assert 0 < engine.placement.locked_bytes <= 2 * 2**20
    assert engine.placement.host_bytes > engine.placement.locked_bytes
    engine.placement.use(WeightPlacement(SEQUENTIAL))
    assert engine.placement.locked_bytes == 0


def test_after_a_real_shortage_memory_is_back_at_its_level_and_the_next_video_is_a_fresh_engines() -> None:
    expected = render(tiny("full"))
    engine = tiny(GROUP)
    assert render(engine) == expected
    engine.placement.leave()
    torch.cuda.empty_cache()  # what is cached would serve beyond the limit
    level = torch.cuda.memory_allocated()
    large = Job("2", "a cat", "ugly", LARGE, steps=1, guidance=6.0, seed=1)
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 300 * 2**20) / total)
    try:
        with pytest.raises(OutOfDeviceMemory):
            render(engine, large)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    engine.placement.leave()
    assert torch.cuda.memory_allocated() <= level + 64 * 2**20
    assert render(engine) == expected
