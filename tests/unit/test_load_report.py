"""The load tests' scenarios fit the contract, and their report says what was measured."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dev.load import report
from dev.load.run import SCENARIOS, Scenario
from dev.load.throughput import throughput_rows
from easyanim.v1 import video_pb2 as pb

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]

SPREAD = {"count": 30, "p50": 0.002, "p90": 0.03, "p99": 0.05, "max": 0.06}
DOCUMENT: dict[str, Any] = {
    "header": {"cpu": "a processor", "model": "builtin:tiny", "bucket": "32x32x5", "ghz": "v1", "date": "2026-01-01"},
    "rows": [
        {
            "what": "ghz",
            "scenario": "steady",
            "says": "200 streams",
            "calls": 400,
            "seconds": 60.0,
            "ends": {"OK": 390, "ResourceExhausted": 10},
            "served_p50_s": 0.5,
            "served_p90_s": 27.0,
            "served_p99_s": None,
            "front_share": 0.087,
        },
        {"what": "probe", "probe": "alone", "says": "one caller", "metric": "first_event_seconds", **SPREAD},
        {"what": "probe", "probe": "alone", "says": "one caller", "metric": "first_chunk_seconds", **SPREAD},
        {
            "what": "goodput",
            "probe": "alone",
            "says": "one caller",
            "outcomes": {"completed": 30},
            "goodput_per_minute": 128.4,
        },
        {
            "what": "throughput",
            "reader": "verified in memory",
            "median_bytes_per_second": 4e8,
            "best_bytes_per_second": 6e8,
            "cpu_seconds_per_gigabyte": 2.9,
        },
    ],
}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_scenario_calls_the_contract_as_it_is(scenario: Scenario) -> None:
    config = tomllib.loads((ROOT / "dev" / "load" / f"{scenario.name}.toml").read_text())

    assert config["name"] == scenario.name
    assert (ROOT / config["proto"]).is_file()
    service, _, method = config["call"].partition("/")
    assert pb.DESCRIPTOR.services_by_name["VideoService"].full_name == service
    assert method in pb.DESCRIPTOR.services_by_name["VideoService"].methods_by_name
    pb.GenerateRequest(**config.get("data", {}))  # raises on fields that the contract does not have


def test_no_configuration_is_without_a_scenario() -> None:
    assert {file.stem for file in (ROOT / "dev" / "load").glob("*.toml")} == {scenario.name for scenario in SCENARIOS}


def test_the_table_has_every_number() -> None:
    text = report.table(DOCUMENT)

    assert (
        "| steady: 200 streams | 400 | 390 served, 10 refused, queue full | 60.0 | 500.0 ms | 27.0 s |  | 8.7% |"
        in text
    )
    assert "| alone: one caller | time to first event | 30 | 2.0 ms | 30.0 ms | 50.0 ms |" in text
    assert "| alone: one caller | 30 served | 128 |" in text
    assert "| verified in memory | 400 | 600 | 2.90 |" in text


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    report.plot(DOCUMENT, tmp_path / "folder" / "load.png")

    with Image.open(tmp_path / "folder" / "load.png") as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGBA").getcolors(maxcolors=2**20) or []) > 50  # not an empty frame


def test_targets_that_are_missed_are_named() -> None:
    assert report.missed(DOCUMENT["rows"]) == []

    rows = copy.deepcopy(DOCUMENT["rows"])
    rows[0]["front_share"] = 0.31
    rows[2]["p90"] = 0.25
    assert [problem.split(",")[0] for problem in report.missed(rows)] == [
        "the front took 31.0% of CPU time",
        "alone: 0.250 s from the first frames to the first chunk",
    ]


def test_the_server_of_large_results_sends_them() -> None:
    rows = throughput_rows(megabytes=1, rounds=1)

    assert [row["reader"] for row in rows] == ["received and dropped", "verified in memory", "verified in a file"]
    assert min(row["median_bytes_per_second"] for row in rows) > 0
