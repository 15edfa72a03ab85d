"""The cache's folder: measured choices, notes, and what is packed into one file."""

from __future__ import annotations

import io
import math
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.engine.cache import store as cache

CPU = torch.device("cpu")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "_place", tmp_path / "version")
    return tmp_path / "version"


def forbidden() -> Any:
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


def archive(tmp_path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    """A packed cache of members by name; those that are given as they are have no content."""
    file = tmp_path / "cache.tar.gz"
    with tarfile.open(file, "w:gz") as packed:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                packed.addfile(member)
            else:
                entry = tarfile.TarInfo(member[0])
                entry.size = len(member[1])
                packed.addfile(entry, io.BytesIO(member[1]))
    return file


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def version(folder: Path) -> str:
    return cache.version_folder(folder, CPU).name


def test_a_small_file_that_unpacks_to_a_large_one_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    file = archive(tmp_path, (f"{version(tmp_path)}/graph", bytes(2 * cache.UNPACKED_BYTES)))
    assert file.stat().st_size < 100_000

    with pytest.raises(ConfigurationError, match="bytes unpack to more than"):
        cache.unpack(tmp_path / "other", CPU, file)

    assert os.listdir(tmp_path) == ["cache.tar.gz"]


def test_what_the_disk_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = packed(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=10_000))

    with pytest.raises(ConfigurationError, match="needs more than the 0 MiB that"):
        cache.unpack(tmp_path / "other", CPU, file)

    assert not (tmp_path / "other").exists()


def test_only_this_versions_files_are_written(tmp_path: Path) -> None:
    mine = version(tmp_path)
    file = archive(tmp_path, ("another-torch9/graph", b"x"), (f"{mine}/graph", b"y"), (f"{mine}-b/graph", b"z"))

    assert cache.unpack(tmp_path / "other", CPU, file) == 1

    assert [path.relative_to(tmp_path / "other").as_posix() for path in (tmp_path / "other").rglob("*")] == [
        mine,
        f"{mine}/graph",
    ]


@pytest.mark.parametrize(
    "member",
    [
        lambda mine: (f"{mine}/../../evil", b"x"),
        lambda mine: ("/evil", b"x"),
        lambda mine: special(f"{mine}/link", tarfile.SYMTYPE, "/etc/passwd"),
        lambda mine: special(f"{mine}/link", tarfile.LNKTYPE, f"{mine}/graph"),
        lambda mine: special(f"{mine}/pipe", tarfile.FIFOTYPE),
        lambda mine: special(f"{mine}/device", tarfile.CHRTYPE),
    ],
    ids=["out of the folder", "absolute", "symbolic link", "hard link", "pipe", "device"],
)
def test_a_member_that_no_export_writes_leaves_none_of_those_before_it(
    tmp_path: Path, member: Callable[[str], tuple[str, bytes] | tarfile.TarInfo]
) -> None:
    mine = version(tmp_path)
    file = archive(tmp_path, (f"{mine}/graph", b"first"), member(mine))

    with pytest.raises(ConfigurationError, match="is no file within it"):
        cache.unpack(tmp_path / "other", CPU, file)

    assert os.listdir(tmp_path) == ["cache.tar.gz"]


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "UNPACKED_FILES", 3)
    mine = version(tmp_path)

    with pytest.raises(ConfigurationError, match="more than 3 files"):
        cache.unpack(tmp_path / "other", CPU, archive(tmp_path, *((f"{mine}/{n}", b"x") for n in range(4))))

    assert cache.unpack(tmp_path / "other", CPU, archive(tmp_path, *((f"{mine}/{n}", b"x") for n in range(3)))) == 3


def test_files_are_added_to_a_cache_that_is_there_all_or_none(tmp_path: Path) -> None:
    place = cache.version_folder(tmp_path / "other", CPU)
    (place / "taken").mkdir(parents=True)
    (place / "own").write_text("stays")
    (place / "graph").write_text("older")
    files = [(f"{place.name}/{name}", name.encode()) for name in ("graph", "deep/er", "taken")]

    with pytest.raises(ConfigurationError, match="taken is a folder"):
        cache.unpack(tmp_path / "other", CPU, archive(tmp_path, *files))
    assert sorted(os.listdir(tmp_path / "other")) == [place.name]
    assert (place / "graph").read_text() == "older"

    assert cache.unpack(tmp_path / "other", CPU, archive(tmp_path, *files[:2])) == 2
    assert {name: (place / name).read_text() for name in ("own", "graph", "deep/er")} == {
        "own": "stays", "graph": "graph", "deep/er": "deep/er",
    }  # fmt: skip
    assert sorted(os.listdir(tmp_path / "other")) == [place.name]


def test_an_export_appears_only_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = packed(tmp_path)
    before = file.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "cache")

    monkeypatch.setattr(tarfile.TarFile, "add", full)
    with pytest.raises(OSError, match="No space left"):
        cache.pack(tmp_path / "full", CPU, file)

    assert file.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["cache.tar.gz", "full"]
