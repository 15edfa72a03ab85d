"""The benchmark of loading a folder, on the tiny model: rows, the page cache, the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dev.bench import loading, placements
from easyanim_server.engine.devices import resolve_device

pytestmark = pytest.mark.long

Row = dict[str, Any]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("results")
    assert loading.main(["--device", "cpu", "--commit", "0123456789ab", "--out", str(out)]) == 0
    found: dict[str, Any] = json.loads((out / "cpu-loading.json").read_text())
    return found


def test_each_case_is_loaded_in_a_process_of_its_own(document: dict[str, Any]) -> None:
    assert document["header"]["commit"] == "0123456789ab"
    assert [(row["placement"], row["page_cache"]) for row in document["rows"]] == list(loading.CASES)
    for row in document["rows"]:
        assert row["folder_gib"] > row["largest_gib"] > 0
        assert min(row["plain_read_seconds"], row["load_seconds"], row["place_seconds"]) > 0
        assert row["host_peak_gib"] > 0
        assert row["locked_gib"] == 0, "there is no card to copy to"


def test_files_that_left_the_page_cache_are_read_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(bytes(range(256)) * 100_000)

    loading.evict([file])

    assert loading.read([file]) > 0
    assert file.read_bytes() == bytes(range(256)) * 100_000


def test_a_folder_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"has no model_index\.json"):
        list(loading.measured("no model", tmp_path, resolve_device("cpu")))


def test_the_report_leaves_the_tiny_model_out(document: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "x-loading.json"
    file.write_text(json.dumps(document))
    assert placements.loading_tables(tmp_path) == ""
    for row in document["rows"]:
        row |= {"model": "synthetic:7b", "plain_read_seconds": 3.0, "load_seconds": 4.0, "place_seconds": 0.5}
    file.write_text(json.dumps(document))

    tables = placements.loading_tables(tmp_path)

    assert "| full | disk | 3.0 s | 4.0 s | 0.5 s | 0.0 |" in tables
    assert "| model_cpu_offload | page cache | 3.0 s | 4.0 s | 0.5 s | 0.0 |" in tables
