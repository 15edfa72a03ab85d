"""Whole videos by profile against diffusers' own pipeline: how they are measured, and how they are reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dev.bench import placements, stock
from easyanim_server.domain.job import Bucket

pytestmark = pytest.mark.long

PICTURE = Path(__file__).resolve().parents[2] / "examples" / "coffee.jpg"


def test_the_stock_pipeline_makes_the_video_that_ours_are_compared_with() -> None:
    row = stock.generation("builtin:tiny", torch.device("cpu"), Bucket.parse("32x48x5"), 2, PICTURE)

    assert row["seconds"] > 0
    assert (row["backend"], row["bucket"], row["frames"], row["steps"], row["predictions"]) == (
        "diffusers", "32x48", 5, 2, 4,
    )  # fmt: skip


def test_profiles_are_compared_with_the_stock_pipeline_of_the_same_run(tmp_path: Path) -> None:
    header = {"gpu": "NVIDIA H200", "torch": "2.11.0", "commit": "0123456789ab", "date": "2026-01-02T03:04:05"}
    video = {"what": "generation", "model": "synthetic:7b", "bucket": "384x672", "frames": 49}
    rows = [
        video | {"backend": "diffusers", "steps": 50, "predictions": 100, "seconds": 60.0},
        {"what": "start", "model": "synthetic:7b", "backend": "inductor", "seconds": 40.0},
        video | {"backend": "inductor", "profile": None, "steps": 2, "predictions": 4, "seconds": 2.0},
        video
        | {
            "backend": "inductor",
            "profile": "fast",
            "precision": "fp8",
            "steps": 12,
            "predictions": 24,
            "seconds": 8.0,
        },
    ]
    assert "Not measured yet" in placements.profile_tables(tmp_path)

    (tmp_path / "h200-profiles.json").write_text(json.dumps({"header": header, "rows": rows[1:]}))
    assert "Not measured yet" in placements.profile_tables(tmp_path), "there is nothing to compare with"

    (tmp_path / "h200-profiles.json").write_text(json.dumps({"header": header, "rows": rows}))
    lines = placements.profile_tables(tmp_path).splitlines()

    assert lines[0] == "**NVIDIA H200, synthetic:7b, 384x672x49** (torch 2.11.0; commit 0123456789ab, 2026-01-02)"
    assert lines[4:6] == [
        "| diffusers, eager | bf16 | 50 | 100 | 60.0 | 1.0 |",
        "| `fast` | fp8 | 12 | 24 | 8.0 | 7.5 |",
    ]
