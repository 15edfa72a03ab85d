"""The benchmark of placements on the tiny model: rows, failures, going on, the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dev.bench import placements
from dev.bench.memory import COMPARED_STEPS, MemoryBenchmark, main
from dev.bench.memory_cases import on_a_gpu, on_the_cpu
from easyanim_server.domain.errors import OutOfDeviceMemory
from easyanim_server.domain.job import DEFAULT_STEPS
from easyanim_server.engine.devices import resolve_device
from easyanim_server.engine.engine import Engine

pytestmark = pytest.mark.long

Row = dict[str, Any]

ASKED = ("model", "cap_gib", "bucket", "frames", "placement", "precision", "peak_gib", "host_peak_gib", "seconds",
         "ratio_to_full", "equal_to_full")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("results")
    assert main(["--device", "cpu", "--backend", "eager", "--out", str(place)]) == 0
    return place


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[Row]:
    return list(json.loads((folder / "cpu-memory.json").read_text())["rows"])


def test_every_placement_has_a_row_with_what_was_asked_for(rows: list[Row]) -> None:
    assert [row["placement"] for row in rows] == [case.placement for case in on_the_cpu()]
    for row in rows:
        assert set(ASKED) <= set(row)
        assert (row["model"], row["peak_gib"], row["cap_gib"]) == ("builtin:tiny", None, None)
        assert row["seconds"] == pytest.approx(sum(row["phases"].values()), rel=0.01)
        assert row["steps"] == DEFAULT_STEPS
        assert row["host_peak_gib"] > 0.1


def test_rows_say_whether_the_video_is_that_of_full(rows: list[Row]) -> None:
    *exact, in_8_bits = rows
    assert all(row["equal_to_full"] is True and row["relative_l2"] == 0 for row in exact)
    assert in_8_bits["equal_to_full"] is False
    assert in_8_bits["precision"] == "fp8-weights"
    assert 0 < in_8_bits["relative_l2"] < 0.1


def test_a_second_run_keeps_what_is_there(folder: Path, rows: list[Row], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--backend", "eager", "--out", str(folder)]) == 0
    assert capsys.readouterr().out == f"wrote {folder / 'cpu-memory.json'}\n"
    assert json.loads((folder / "cpu-memory.json").read_text())["rows"] == rows


def test_a_row_that_fails_says_why_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Engine.decode

    def short(engine: Engine, sampling: Any) -> Any:
        if engine.placement.name == "model_cpu_offload":
            raise OutOfDeviceMemory("too little")
        return decode(engine, sampling)

    monkeypatch.setattr(Engine, "decode", short)
    cases = on_the_cpu()[:3]
    bench = MemoryBenchmark("builtin:tiny", resolve_device("cpu"), cases, tmp_path / "x.json", 1e9, "eager")
    bench.run()

    assert [row.get("error") for row in bench.rows] == [None, "OutOfDeviceMemory: too little", None]
    assert bench.rows[2]["equal_to_full"] is True
    bench = MemoryBenchmark("builtin:tiny", resolve_device("cpu"), cases, tmp_path / "x.json", 0.0, "eager")
    bench.run()
    assert len(bench.rows) == 2, "failed rows are tried again, as soon as there is time"


def test_the_rows_on_a_gpu_reach_what_is_to_be_shown_first_and_compare_after_enough_steps() -> None:
    cases = on_a_gpu()
    assert [case.placement for case in cases[:4]] == ["full"] * 4
    assert len({case.key for case in cases}) == len(cases)
    assert all(case.steps >= COMPARED_STEPS for case in cases)
    in_8_bits = [case.placement.endswith("qfloat8") for case in cases]
    assert in_8_bits == sorted(in_8_bits), "8 bits give the others' weights up, so they come last"


def test_the_report_has_a_table_of_cards_and_every_row(tmp_path: Path, folder: Path) -> None:
    document = json.loads((folder / "cpu-memory.json").read_text())
    assert placements.memory_tables(folder) == placements.NOT_MEASURED, (
        "the tiny model's rows say nothing of the published"
    )
    for number, row in enumerate(document["rows"]):
        row |= {"model": "synthetic:7b", "peak_gib": 10.0 + number, "cap_gib": 12 if number else None, "seconds": 9.0}
    document["rows"].append(document["rows"][0] | {"error": "OutOfDeviceMemory: too little", "cap_gib": 8})
    (tmp_path / "x-memory.json").write_text(json.dumps(document))
    tables = placements.memory_tables(tmp_path)

    assert "| 12 GiB | model_cpu_offload: 9 s, 11.0 GiB |" in tables
    assert "| no cap | 32x48x5 | full | float32 | 10.0 |" in tables
    assert "Failed: 8 GiB, 32x48x5 full: OutOfDeviceMemory: too little" in tables
