"""What is predicted of memory and time is what was measured, and the placement follows from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.events import Phase
from easyanim_server.domain.execution import Tiling
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.placement import FASTEST_FIRST, PlacementSetting, WeightPlacement
from easyanim_server.engine.config import EngineConfig
from easyanim_server.engine.memory.choose import PlacementChoice, choose, find_placement
from easyanim_server.engine.memory.estimate import CONTEXT_BYTES, GIB, Estimate, estimate
from easyanim_server.engine.memory.outline import Outline
from easyanim_server.engine.weights import checkpoint

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"
BUCKETS = EASYANIMATE_V51.defaults.buckets
SMALLEST, LARGEST = Bucket.parse("384x672x49"), Bucket.parse("768x1344x49")

Row = dict[str, Any]


@pytest.fixture(scope="module")
def outline() -> Outline:
    return checkpoint.outline("synthetic:7b", torch.bfloat16)


def rows(name: str) -> list[Row]:
    return list(json.loads((RESULTS / name).read_text())["rows"])


STEPS = [
    row
    for row in rows("h200-speed.json")
    if row["what"] == "step" and row["backend"] in ("eager", "inductor") and row["cfg"] == "2 x batch of 1"
]
GENERATIONS = [row for row in rows("h200-speed.json") if row["what"] == "generation"]
VAE = [row for row in rows("h200-vae.json") if row["variant"] == "triton 4/1"]


def named(row: Row) -> str:
    return "-".join(str(row[key]) for key in ("bucket", "backend", "precision", "steps") if key in row)


def predicted(outline: Outline, row: Row, placement: str = "model_cpu_offload") -> Estimate:
    bucket = Bucket.parse(f"{row['bucket']}x{row['frames']}")
    steps = row.get("steps", 35)
    placed = WeightPlacement(placement)
    return estimate(outline, bucket, placed, row["backend"], row["precision"], tiled=False, steps=steps)


def test_the_7b_model_weighs_what_is_published(outline: Outline) -> None:
    assert outline.rest + sum(outline.blocks) == 2 * 6_814_670_912
    assert outline.total / 1e9 == pytest.approx(13.63 + 13.67 + 0.49, rel=0.01)
    assert len(outline.blocks) == 36
    assert sum(outline.blocks_fp8) < 0.56 * sum(outline.blocks)


@pytest.mark.parametrize("row", STEPS, ids=named)
def test_a_steps_memory_is_predicted_within_two_percent(outline: Outline, row: Row) -> None:
    peak = predicted(outline, row).peaks[Phase.DENOISE] / GIB
    assert peak == pytest.approx(row["peak_gib"], rel=0.02)


@pytest.mark.parametrize("row", VAE, ids=lambda row: row["size"])
def test_the_vaes_memory_is_predicted_within_ten_percent(outline: Outline, row: Row) -> None:
    # What was measured is beside the weights and the video that was there before.
    bucket = Bucket.parse(row["size"])
    peaks = estimate(outline, bucket, WeightPlacement.GROUP, "inductor", "bf16", tiled=False).peaks
    video = 3 * bucket.frames * bucket.height * bucket.width * 2
    assert (peaks[Phase.IMAGE_ENCODE] - outline.vae - video) / 1e9 == pytest.approx(row["encode_peak_gb"], rel=0.1)
    assert (peaks[Phase.DECODE] - outline.vae) / 1e9 == pytest.approx(row["decode_peak_gb"], rel=0.1)


@pytest.mark.parametrize("row", GENERATIONS, ids=named)
def test_seconds_are_predicted_within_ten_percent(outline: Outline, row: Row) -> None:
    assert predicted(outline, row, "full").seconds == pytest.approx(row["seconds"], rel=0.1)


MEASURED = RESULTS / "h200-memory.json"


@pytest.mark.skipif(not MEASURED.exists(), reason="dev/bench/memory.py was not run yet")
def test_every_measured_placement_took_what_was_predicted_within_ten_percent(outline: Outline) -> None:
    measured = [row for row in rows("h200-memory.json") if "error" not in row and row["model"] == "synthetic:7b"]
    assert measured
    for row in measured:
        bucket = Bucket.parse(f"{row['bucket']}x{row['frames']}")
        placement = WeightPlacement(row["placement"])
        made = estimate(outline, bucket, placement, row["backend"], row["precision"], tiled=row["vae_tiled"])
        assert made.peak / GIB == pytest.approx(row["peak_gib"], rel=0.1), row


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], torch.device]:
    """Pretends that there is a CUDA device with so many GiB, of which CUDA takes its share."""

    def pretend(gib: float) -> torch.device:
        free = int(gib * GIB) - CONTEXT_BYTES
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, int(gib * GIB)))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB, total=64 * GIB))
        return torch.device("cuda")

    return pretend


def find(device: torch.device, **values: Any) -> PlacementChoice:
    settings = Settings.load({"model": "synthetic:7b", "device": "cpu", **values})
    config = replace(EngineConfig.resolve(settings), device=device, dtype=torch.bfloat16).of_model(EASYANIMATE_V51)
    return find_placement(config, lambda: checkpoint.outline("synthetic:7b", config.dtype))


def test_settings_and_card_decide_before_anything_is_loaded(card: Callable[[float], torch.device]) -> None:
    assert find(card(24)).placement == "model_cpu_offload"
    assert find(card(80), vram_limit_gib="24").placement == "model_cpu_offload"
    assert find(card(80), placement="group_offload").reason.startswith("group_offload as configured")
    with pytest.raises(ConfigurationError, match="bucket 384x672x49"):
        find(card(24), placement="full")


def test_weights_that_the_host_has_no_room_for_are_refused_at_start(
    card: Callable[[float], torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = card(24)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16 * GIB, total=64 * GIB))
    with pytest.raises(ConfigurationError, match=r"keeps 25\.9 GiB of weights in host memory, of which 16\.0 GiB"):
        find(device)
    assert find(card(80)).placement == "full"


CHOICES = {12: "group_offload", 16: "group_offload", 24: "model_cpu_offload", 48: "full", 80: "full", 141: "full"}


@pytest.mark.parametrize(("gib", "placement"), CHOICES.items(), ids=lambda value: str(value))
def test_auto_is_the_fastest_placement_in_which_every_published_bucket_fits(
    outline: Outline, gib: int, placement: str
) -> None:
    made = choose(outline, BUCKETS, gib * GIB)

    assert made.placement == placement
    assert all(item.least_card <= gib * GIB for item in made.estimates)
    for faster in FASTEST_FIRST[: FASTEST_FIRST.index(WeightPlacement(placement))]:
        with pytest.raises(ConfigurationError):
            choose(outline, BUCKETS, gib * GIB, placement=PlacementSetting(faster), tiling=Tiling.OFF)


def test_smaller_buckets_let_auto_be_faster_on_the_same_card(outline: Outline) -> None:
    small = [bucket for bucket in BUCKETS if bucket.height * bucket.width <= 576 * 1008]
    assert choose(outline, small, 16 * GIB).placement == "model_cpu_offload"
    assert choose(outline, small, 12 * GIB).placement == "group_offload"


@pytest.mark.parametrize("gib", [8, 12, 16, 24, 32, 48])
def test_auto_never_takes_sequential_where_group_fits_and_never_stores_8_bits_unasked(
    outline: Outline, gib: int
) -> None:
    made = choose(outline, BUCKETS, gib * GIB)
    assert made.placement in ("full", "model_cpu_offload", "group_offload")
    assert {item.precision for item in made.estimates} == {"bf16"}


def test_auto_with_fp8_is_resident_on_smaller_cards(outline: Outline) -> None:
    assert choose(outline, [SMALLEST], 26 * GIB, precision="fp8").placement == "full_and_qfloat8"
    assert choose(outline, [SMALLEST], 26 * GIB).placement == "model_cpu_offload"


def test_the_vae_is_tiled_only_where_nothing_else_helps(outline: Outline) -> None:
    def tiled(made: PlacementChoice) -> set[str]:
        return {item.bucket.name for item in made.estimates if item.tiled}

    assert tiled(choose(outline, BUCKETS, 12 * GIB)) == {"768x1344", "1344x768"}
    assert tiled(choose(outline, BUCKETS, 16 * GIB)) == set()
    assert tiled(choose(outline, BUCKETS, 12 * GIB, tiling=Tiling.ON)) == {item.name for item in BUCKETS} - {"512x512"}


def test_a_bucket_that_cannot_fit_is_refused_by_name_and_the_others_are_not(outline: Outline) -> None:
    with pytest.raises(ConfigurationError) as refused:
        choose(outline, [SMALLEST, LARGEST], 15 * GIB, placement=PlacementSetting.MODEL)
    assert str(refused.value) == (
        "15.0 GiB of device memory: bucket 768x1344x49 (16.3 GiB in model_cpu_offload) does not fit; "
        "placement=group_offload would make it fit"
    )


REFUSALS = {
    "another placement": ("model_cpu_offload", 12, "auto", "384x672", "placement=group_offload would make it fit"),
    "tiles": ("group_offload", 12, "off", "768x1344", "; vae_tiling=on would"),
    "nothing": ("auto", 2, "auto", "384x672", "leave it out of --buckets, or use a card with"),
}


@pytest.mark.parametrize(("placement", "gib", "tiling", "bucket", "remedy"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_say_what_would_make_it_fit(
    outline: Outline, placement: str, gib: int, tiling: str, bucket: str, remedy: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"bucket {bucket}x49") as refused:
        asked = PlacementSetting(placement)
        choose(outline, [Bucket.parse(f"{bucket}x49")], gib * GIB, placement=asked, tiling=Tiling(tiling))
    assert remedy in str(refused.value)
