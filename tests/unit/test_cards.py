"""Seconds of other cards: estimated from public rates, and said to be."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from easyanim_server.__main__ import app
from easyanim_server.domain.cards import CARDS, REFERENCE, find
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.placement import WeightPlacement
from easyanim_server.engine.memory.estimate import estimate
from easyanim_server.engine.weights import checkpoint
from tests.plan_command import cells, plan

BUCKET = "384x672"


def seconds(card: str | None, precision: str = "bf16", placement: str = "full") -> float:
    outline = checkpoint.outline("synthetic:7b", torch.bfloat16)
    known = find(card) if card else None
    bucket = Bucket.parse(BUCKET, outline.geometry)
    placed = WeightPlacement(placement)
    return estimate(outline, bucket, placed, "inductor", precision, tiled=False, card=known).seconds


def test_the_reference_itself_is_as_it_was_measured() -> None:
    assert seconds("h200") == pytest.approx(seconds(None))
    assert seconds("h200", "fp8") == pytest.approx(seconds(None, "fp8"))


def test_slower_cards_take_longer_by_between_the_ratios_of_their_rates() -> None:
    for name in ("4090", "l40s", "a100", "h100"):
        card = CARDS[name]
        compute, memory = REFERENCE.bf16 / card.bf16, REFERENCE.bandwidth / card.bandwidth
        slower = seconds(name) / seconds(None)
        assert min(compute, memory) * 0.999 <= slower <= max(compute, memory) * 1.001, name


def test_a_card_without_8_bits_gains_nothing_by_them() -> None:
    assert seconds("a100", "fp8") == pytest.approx(seconds("a100"))
    assert seconds("4090", "fp8") < seconds("4090")


@pytest.mark.parametrize("name", ["4090", "RTX 4090", "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090 24GB"])
def test_a_card_is_found_as_people_write_it(name: str) -> None:
    assert find(name) is CARDS["4090"]


def test_an_unknown_card_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigurationError, match=r"card '4080' has no known rates; known are 3090, 4090, 5090"):
        find("4080")


def test_the_column_names_the_card_and_marks_an_estimate() -> None:
    usual, scaled = (
        plan("--vram", "24GiB", "--buckets", BUCKET),
        plan("--vram", "24", "--card", "4090", "--buckets", BUCKET),
    )

    assert "s, H200" in usual
    assert "slower cards take longer" in usual
    assert "≈ s, RTX 4090" in scaled
    assert "an estimate for 35 steps with guidance on an NVIDIA GeForce RTX 4090 by its public rates" in scaled
    times = [int(cells(output, f"{BUCKET}x49", "model_cpu_offload")[-1]) for output in (usual, scaled)]
    assert times[1] > 3 * times[0]


def test_json_says_whose_seconds_they_are_and_whether_they_are_estimated() -> None:
    found = [
        json.loads(CliRunner().invoke(app, ["plan", "--vram", "24GiB", "--json", "--buckets", BUCKET, *words]).stdout)
        for words in ([], ["--card", "4090"])
    ]

    assert [(item["seconds_of"], item["seconds_estimated"]) for item in found] == [
        ("NVIDIA H200", False), ("NVIDIA GeForce RTX 4090", True),
    ]  # fmt: skip
    row = next(row for row in found[0]["rows"] if row["placement"] == "model_cpu_offload")
    assert (row["bucket"], row["fits"]) == ("384x672x49", True)
    assert row["least_card_bytes"] < found[0]["card_bytes"] == 24 * 2**30
