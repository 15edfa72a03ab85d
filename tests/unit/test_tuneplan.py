"""What the tuner measures, in which order, and what it takes for the best."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from easyanim_server.config.settings import Settings
from easyanim_server.config.tuned import Tuning
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.placement import WeightPlacement
from easyanim_server.engine.memory.choose import Forecast
from easyanim_server.engine.memory.estimate import GIB, estimate
from easyanim_server.engine.weights import checkpoint
from easyanim_server.tune.journal import Journal
from easyanim_server.tune.measure import projected, start_picture
from easyanim_server.tune.plan import BEFORE, Candidate, Machine, TunePlan, decide, for_candidates, parse_duration
from easyanim_server.tune.tables import Tables, psnr
from easyanim_server.tune.tuner import Tuned

DEFAULTS = Candidate("auto", "auto", "bf16")
FULL = Candidate("full", "inductor", "bf16")
GROUP = Candidate("group_offload", "inductor", "bf16")


def plan(buckets: str = "32x48x5", **options: Any) -> TunePlan:
    usual: dict[str, Any] = {"budget": "20m", "steps": "25,50", "placements": "full,sequential_cpu_offload",
                             "backends": None, "precisions": "bf16", "prompt": "a cat"}  # fmt: skip
    return TunePlan.parse(Settings.load({"model": "builtin:tiny", "buckets": buckets}), **{**usual, **options})


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"budget": "soon"}, "budget 'soon' must be a time such as 90s, 20m or 1h30m"),
        ({"budget": "0s"}, "budget '0s' must be more than nothing"),
        ({"steps": "25,0"}, "steps '25,0' must be numbers from 1 to 200"),
        ({"placements": "auto"}, "placements 'auto' must be one or more of full, model_cpu_offload"),
        ({"precisions": "int4"}, "precisions 'int4' must be one or more of bf16, fp8"),
        ({"image": Path("absent.jpg")}, "image 'absent.jpg' is not a file"),
    ],
)
def test_wrong_options_are_refused_by_name(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        plan(**option)


def test_a_time_is_hours_minutes_and_seconds() -> None:
    assert parse_duration("1h30m5s") == 5405.0


def test_buckets_are_measured_from_the_smallest_and_turned_ones_once() -> None:
    assert [*map(str, plan("96x64x5,48x32x5,64x96x5,32x48x5,32x48x9").buckets)] == ["48x32x5", "32x48x9", "96x64x5"]


def test_the_most_promising_come_first_and_the_slowest_placement_is_never_compiled() -> None:
    on_a_card = plan().candidates("cuda")

    assert on_a_card == [FULL, Candidate("full", "eager", "bf16"), BEFORE]
    assert plan().candidates("cpu") == [Candidate("full", "eager", "bf16"), BEFORE]


def test_what_changes_videos_is_tried_only_when_asked_for() -> None:
    assert {one.precision for one in plan().candidates("cuda")} == {"bf16"}
    assert {one.precision for one in plan(precisions="bf16,fp8").candidates("cuda")} == {"bf16", "fp8"}


def test_the_defaults_win_ties() -> None:
    assert decide(DEFAULTS, {DEFAULTS: 100.0, FULL: 99.0, GROUP: 130.0}).candidate == DEFAULTS
    assert decide(DEFAULTS, {DEFAULTS: 100.0, FULL: 101.0}).candidate == DEFAULTS
    assert decide(DEFAULTS, {DEFAULTS: 100.0}).candidate == DEFAULTS


def test_the_fastest_wins_otherwise_also_where_the_defaults_fail() -> None:
    won = decide(DEFAULTS, {DEFAULTS: 100.0, FULL: 80.0, GROUP: 70.0})

    assert won.candidate == GROUP
    assert won.reason == "30% less time than the defaults: 70 s for 100 s"
    assert decide(DEFAULTS, {GROUP: 70.0}).candidate == GROUP


def row(candidate: str, **facts: Any) -> dict[str, Any]:
    return {"what": "probe", "candidate": candidate, "bucket": "32x48x5", "steps": 35, **facts}


def test_a_journal_forgets_other_headers_and_half_lines(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    Journal(file, {"driver": "1"}).add(row("a", seconds=1.23456))
    file.write_text(file.read_text() + '{"what": "probe", "cand')

    assert Journal(file, {"driver": "2"}).rows == []
    again = Journal(file, {"driver": "1"})
    assert again.find("probe", "a", "32x48x5", 35) == row("a", seconds=1.235)
    again.add(row("b", seconds=2.0))
    assert [kept["candidate"] for kept in Journal(file, {"driver": "1"}).rows] == ["a", "b"]


def test_a_failure_is_kept_until_it_is_retried(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    Journal(file, {}).add(row("a", error="OutOfDeviceMemory: no room"))

    assert len(Journal(file, {}).rows) == 1
    assert Journal(file, {}, retry=True).rows == []


def test_a_probe_tells_of_other_numbers_of_steps() -> None:
    phases = {"IMAGE_ENCODE": 1.0, "DENOISE": 99.0, "DECODE": 2.0}

    assert projected(row("a", phases=phases, once_seconds=4.0, step_seconds=0.5), 50) == pytest.approx(32.0)


def test_a_start_picture_is_drawn_or_cropped_to_the_bucket(tmp_path: Path) -> None:
    drawn = start_picture(None, Bucket.parse("32x48x5"))

    assert (drawn.width, drawn.height, len(drawn.rgb)) == (48, 32, 32 * 48 * 3)
    assert np.frombuffer(drawn.rgb, np.uint8).std() > 20, "there is something to see"
    (tmp_path / "no.jpg").write_text("no picture")
    with pytest.raises(ConfigurationError, match=r"no\.jpg' is no picture"):
        start_picture(tmp_path / "no.jpg", Bucket.parse("32x48x5"))


def test_a_placement_that_was_predicted_not_to_fit_is_shown_as_predicted(tmp_path: Path) -> None:
    asked = plan()
    outline = checkpoint.outline("builtin:tiny", torch.float32)
    need = estimate(outline, asked.compared, WeightPlacement.FULL, "inductor", "bf16", tiled=False)
    machine = Machine("a small card", "cuda", {}, [Forecast(("full", "inductor", "bf16"), need, fits=False)])
    served = {"placement": "group_offload", "backend": "inductor", "precision": "bf16"}
    phases = {"IMAGE_ENCODE": 1.0, "DENOISE": 35.0, "DECODE": 2.0}
    measured = row(DEFAULTS.label, served=served, phases=phases, seconds=38.0, once_seconds=0.0, step_seconds=1.0,
                   peak_gib=3.0)  # fmt: skip
    tuned = Tuned(Tuning({}, {}), decide(DEFAULTS, {DEFAULTS: 38.0}), [measured], [], 1)

    group, full = Tables(asked, machine, tuned, tmp_path).memory().lines

    assert (group.cells[0], group.cells[3:5]) == ("group_offload", ("3.0", "≈ 38.0"))
    assert full.cells[0] == "full"
    assert full.cells[3] == f"{need.least_card / GIB:.1f} predicted for 32x48x5, does not fit"
    assert not full.phases


def test_psnr_of_equal_videos_is_infinite_and_of_a_step_of_one_level_48_decibels() -> None:
    video = np.full((5, 8, 8, 3), 100, np.uint8)

    assert psnr(video, video) == math.inf
    assert psnr(video, video + 1) == pytest.approx(48.13, abs=0.01)


@pytest.mark.parametrize(("check", "seconds"), [(0, 60), (40, 60), (55, 45), (70, 30), (500, 30)], ids="{}".format)
def test_candidates_leave_time_to_check_the_best_of_them_but_always_get_some(check: float, seconds: float) -> None:
    assert for_candidates(100, check) == pytest.approx(seconds)
