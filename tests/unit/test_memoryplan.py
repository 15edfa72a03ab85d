"""`easyanim-server plan`, and what the settings around memory mean."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from easyanim_server.catalog import DEFAULT_MODEL
from easyanim_server.cli import memory_plan as memoryplan
from easyanim_server.cli.memory_plan import parse_size
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError, JobCancelled
from easyanim_server.domain.events import Completed, Phase, Progress
from easyanim_server.engine.devices import limit_memory, locked_limit, resolve_device
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51 import vae_tiling as tiles
from easyanim_server.engine.memory.choose import capacity
from easyanim_server.engine.memory.estimate import CONTEXT_BYTES, GIB
from easyanim_server.workers.runner import JobRunner
from tests.models import engine_of, make_job, make_modules, make_pipeline
from tests.plan_command import cells, plan


def test_plan_fits_a_narrow_terminal_and_cuts_nothing_off(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    drawn = Console(width=80, file=file)
    monkeypatch.setattr(memoryplan, "Console", lambda **options: drawn)

    plan("--vram", "24GB", "--model", "synthetic:7b", "--buckets", "768x1344")

    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in file.getvalue()
    (row,) = [line.split() for line in lines if line.split()[:2] == ["768x1344x49", "model_cpu_offload"]]
    assert row[2:4] == ["bf16", "yes"]
    assert [len(row), float(row[-2]) < float(row[-3]) < 24, int(row[-1]) > 0] == [7, True, True]


def test_plan_prints_every_bucket_in_every_placement_without_a_gpu() -> None:
    output = plan("--vram", "24GiB")

    assert "EasyAnimateV5.1-7b-zh-InP-diffusers on a card with 24.0 GiB" in output
    assert cells(output, "384x672x49", "full")[3] == "no"
    assert cells(output, "768x1344x49", "model_cpu_offload")[3] == "yes"
    assert cells(output, "768x1344x49", "model_cpu_offload_and_qfloat8")[2] == "fp8-weights"
    assert "auto means model_cpu_offload" in output


def test_readme_has_what_is_predicted_for_v5() -> None:
    asked = "--vram", "24GiB", "--model", "EasyAnimateV5-7b-zh-InP", "--buckets", "384x672", "--json"
    rows = {row["placement"]: row for row in json.loads(plan(*asked))["rows"]}
    full, whole, groups = (
        rows[name]["least_card_bytes"] / GIB for name in ("full", "model_cpu_offload", "group_offload")
    )
    host = {round(rows[name]["host_bytes"] / GIB, 1) for name in ("model_cpu_offload", "group_offload")}

    readme = " ".join((Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").split())
    assert f"384x672x49 `plan` predicts {full:.1f} GiB of card memory with all weights on the card" in readme
    assert f"{whole:.1f} GiB with `model_cpu_offload` and {groups:.1f} GiB with `group_offload`" in readme
    assert f"the latter two with {host.pop()} GiB of host memory" in readme
    assert not host


def test_plan_says_once_which_placement_was_asked_for() -> None:
    output = plan("--vram", "24GiB", "--placement", "model_cpu_offload", "--buckets", "384x672")

    assert "\nmodel_cpu_offload as configured: 384x672x49 is predicted" in output
    assert "NVIDIA H200" in output


def test_plan_says_where_tiles_are_needed_and_why_nothing_fits() -> None:
    output = plan("--vram", "12", "--buckets", "768x1344")
    assert cells(output, "768x1344x49", "group_offload")[3] == "tiled"
    output = plan("--vram", "1GiB", "--buckets", "384x672")
    assert "bucket 384x672x49" in output
    assert "use a card with" in output


def test_plan_knows_the_12b_model_by_its_published_name() -> None:
    seven, twelve = (
        plan("--vram", "80GiB", "--buckets", "384x672", "--model", DEFAULT_MODEL.replace("7b", size))
        for size in ("7b", "12b")
    )
    peaks = [float(cells(output, "384x672x49", "full")[5]) for output in (seven, twelve)]
    assert peaks[1] == pytest.approx(peaks[0] + 2 * (11.8 - 6.8) * 1e9 / GIB, abs=0.5)


@pytest.mark.parametrize(
    ("text", "size"), [("24GiB", 24 * GIB), ("24", 24 * GIB), ("24 GB", 24 * 10**9), ("24564MiB", 24564 * 2**20)]
)
def test_sizes_are_read_as_they_are_written(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "24TB", "-1GiB", "0"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="must be a size such as 24GiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("placement", "offload", "'group_offload'"),
        ("vae_tiling", "maybe", "'auto', 'on' or 'off'"),
        ("pinned_memory_gib", "-1", "greater than or equal to 0"),
        ("vram_limit_gib", "0", "greater than 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as refused:
        Settings.load({name: value})
    assert words in str(refused.value)


def test_a_limit_counts_with_what_is_free_and_locked_memory_is_half_of_the_hosts() -> None:
    assert capacity(24 * GIB, 24 * GIB - CONTEXT_BYTES, None) == 24 * GIB
    assert capacity(80 * GIB, 10 * GIB, None) == 10 * GIB + CONTEXT_BYTES
    assert capacity(80 * GIB, 79 * GIB, 12.0) == 12 * GIB
    assert locked_limit(2.0) == 2 * GIB
    assert locked_limit(None) > GIB // 4
    limit_memory(resolve_device("cpu"), 4.0)  # of no effect, and no error


@pytest.fixture
def tiled(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose VAE works on tiles of 64 pixels."""
    monkeypatch.setattr(tiles, "TILE", 64)
    monkeypatch.setattr(tiles, "STRIDE", 48)
    return engine_of(make_modules(make_pipeline(2, 1)), tiled=tiles.is_cut)


def test_a_video_in_tiles_is_complete_and_its_progress_goes_forward(tiled: Engine) -> None:
    job = make_job(bucket="32x80x5")
    (readiness,) = tiled.prepare([job.bucket])
    said: list[Any] = []
    JobRunner(tiled, job, said.append, check=lambda: None).run()

    assert readiness.vae_tiled
    assert isinstance(said[-1], Completed)
    decode = [event.completed for event in said if isinstance(event, Progress) and event.phase is Phase.DECODE]
    assert decode == sorted(decode)
    assert list(dict.fromkeys(decode)) == [0, 1, 5]
    assert decode.count(0) > 2, "a sign of life from every chunk of every tile"
    data = b"".join(event.data for event in said if hasattr(event, "data"))
    assert hashlib.sha256(data).digest() == said[-1].sha256


def test_a_cancel_between_tiles_is_heard(tiled: Engine) -> None:
    heard = 0
    decoding = False

    def say(event: Any) -> None:
        nonlocal decoding
        decoding = isinstance(event, Progress) and event.phase is Phase.DECODE

    def check() -> None:
        nonlocal heard
        heard += decoding
        if heard == 2:
            raise JobCancelled

    generation = JobRunner(tiled, make_job(bucket="32x80x5"), say, check)
    with pytest.raises(JobCancelled):
        generation.run()
