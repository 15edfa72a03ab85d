"""The cache's folder: measured choices, notes, and what is packed into one file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.engine.cache import store as cache

CPU = torch.device("cpu")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "_place", tmp_path / "version")
    return tmp_path / "version"


def forbidden() -> float:
    raise AssertionError("it was measured again")


def test_what_was_measured_at_one_start_is_the_next_ones_answer(place: Path) -> None:
    times = {"torch": 2.0, "other": math.inf}

    assert cache.once("attention", lambda: times) == times
    assert cache.once("attention", forbidden) == times
    assert cache.once("attention of other tokens", lambda: False) is False
    assert cache.once("attention of other tokens", forbidden) is False


def test_an_answer_that_cannot_be_read_is_measured_again(place: Path) -> None:
    cache.once("guidance", lambda: True)
    (file,) = (place / cache.CHOICES).iterdir()
    file.write_text('{"answer"')

    assert cache.once("guidance", lambda: False) is False
    assert cache.once("guidance", forbidden) is False


def test_without_a_cache_every_start_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_place", None)

    assert [cache.once("guidance", lambda: 1), cache.once("guidance", lambda: 2)] == [1, 2]


def test_a_folder_that_takes_no_more_costs_a_start_nothing(
    place: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write_text("a file stands where the folder should be")

    assert cache.once("guidance", lambda: True) is True
    cache.remember("builtin:tiny", [])
    assert cache.remembered("builtin:tiny") == {}
    assert [record.getMessage().partition(" cannot be written")[1] for record in caplog.records] == [
        " cannot be written"
    ] * 2


def test_libraries_that_compute_have_caches_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache.version_folder(tmp_path, CPU)
    assert cache.version_folder(tmp_path, CPU) == before

    monkeypatch.setattr(cache, "version", lambda library: "99" if library == "diffusers" else "1")
    newer = cache.version_folder(tmp_path, CPU)
    monkeypatch.setattr(cache, "processor", lambda: "another one")

    assert len({before, newer, cache.version_folder(tmp_path, CPU)}) == 3


def packed(tmp_path: Path) -> Path:
    place = cache.version_folder(tmp_path / "full", CPU)
    place.mkdir(parents=True)
    (place / "graph").write_bytes(bytes(range(256)) * 400)
    file = tmp_path / "cache.tar.gz"
    assert cache.pack(tmp_path / "full", CPU, file) == 1
    return file


@pytest.mark.parametrize("damage", ["cut off", "a byte in the middle", "nothing of it"])
def test_a_damaged_file_is_refused_before_anything_is_written(tmp_path: Path, damage: str) -> None:
    file = packed(tmp_path)
    data = bytearray(file.read_bytes())
    match damage:
        case "cut off":
            data = data[:-20]
        case "a byte in the middle":
            data[len(data) // 2] ^= 255
        case _:
            data = bytearray(b"no archive")
    file.write_bytes(data)

    with pytest.raises(ConfigurationError, match="is not a packed cache"):
        cache.unpack(tmp_path / "other", CPU, file)
    assert not (tmp_path / "other").exists()


def test_a_packed_cache_is_unpacked(tmp_path: Path) -> None:
    assert cache.unpack(tmp_path / "other", CPU, packed(tmp_path)) == 1

    graph = cache.version_folder(tmp_path / "other", CPU) / "graph"
    assert graph.read_bytes() == bytes(range(256)) * 400
