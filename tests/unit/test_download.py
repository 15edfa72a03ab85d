"""Files over HTTP, from a host on this machine that cuts connections."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from easyanim_server.domain.errors import ConfigurationError, UnsupportedModel
from easyanim_server.engine.weights import download as downloads
from easyanim_server.engine.weights import modelscope
from easyanim_server.engine.weights.download import PART, RemoteFile, download, open_client
from tests.file_hosts import FileHost, serving

DATA = bytes(range(256)) * 4096
NAME = "transformer/big.safetensors"
MODEL = "modelscope:someone/model"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FileHost]]:
    folder = tmp_path / "served"
    (folder / "transformer").mkdir(parents=True)
    (folder / NAME).write_bytes(DATA)
    (folder / "model_index.json").write_text("{}")
    (folder / "README.md").write_text("not needed")
    monkeypatch.setattr(downloads, "PAUSE_S", 0.0)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    with serving(folder) as (handler, address):
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", address)
        yield handler


def remote(**changes: Any) -> RemoteFile:
    url = f"{modelscope.endpoint()}/api/v1/models/someone/model/repo?FilePath={NAME}"
    facts: dict[str, Any] = {"path": NAME, "url": url, "size": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest()}
    return RemoteFile(**(facts | changes))


def bring(file: RemoteFile, target: Path) -> int:
    """Download; returns the bytes that were observed."""
    counts: list[int] = []
    with open_client() as client:
        download(client, file, target, counts.append)
    return sum(counts)


def ranges(host: type[FileHost]) -> list[str | None]:
    return [asked for name, asked in host.asked if name == NAME]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_host_is_asked_again(host: type[FileHost], tmp_path: Path, status: int) -> None:
    host.busy.append(status)

    assert bring(remote(), tmp_path / "x/y") == len(DATA)
    assert (tmp_path / "x/y").read_bytes() == DATA


def test_a_host_that_refuses_is_not_asked_again(host: type[FileHost], tmp_path: Path) -> None:
    host.busy.append(403)

    with pytest.raises(httpx.HTTPStatusError):
        bring(remote(), tmp_path / "x/y")
    assert len(ranges(host)) == 1


def test_a_part_that_is_longer_than_the_file_is_begun_anew(host: type[FileHost], tmp_path: Path) -> None:
    (tmp_path / f"y{PART}").write_bytes(DATA + b"more")

    assert bring(remote(), tmp_path / "y") == len(DATA)
    assert (tmp_path / "y").read_bytes() == DATA


def test_a_cut_connection_is_made_again_from_where_it_was(host: type[FileHost], tmp_path: Path) -> None:
    host.cuts[NAME] = 300_000

    assert bring(remote(), tmp_path / "x/y") == len(DATA)

    first, second = ranges(host)
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= 300_000
    assert (tmp_path / "x/y").read_bytes() == DATA
    assert not (tmp_path / f"x/y{PART}").exists()


def test_what_one_process_has_got_the_next_one_does_not_ask_for(host: type[FileHost], tmp_path: Path) -> None:
    host.always_cut.add(NAME)
    with pytest.raises(httpx.TransportError):
        bring(remote(), tmp_path / "file")
    kept = (tmp_path / f"file{PART}").stat().st_size
    assert 0 < kept <= host.CUT
    assert not (tmp_path / "file").exists()
    host.always_cut.clear()
    host.asked.clear()

    assert bring(remote(), tmp_path / "file") == len(DATA)

    assert ranges(host) == [f"bytes={kept}-"]
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_host_that_cannot_go_on_sends_the_whole_file_again(host: type[FileHost], tmp_path: Path) -> None:
    host.knows_ranges = False
    (tmp_path / f"file{PART}").write_bytes(b"x" * 1000)

    assert bring(remote(), tmp_path / "file") == len(DATA)

    assert (tmp_path / "file").read_bytes() == DATA


@pytest.mark.parametrize(
    ("left", "facts", "message"),
    [
        (b"x" * 1000, {}, "is damaged: its SHA-256 is not"),
        (b"", {"size": 1000}, f"has {len(DATA)} bytes instead of 1000"),
    ],
)
def test_other_bytes_than_were_promised_are_not_kept(
    host: type[FileHost], tmp_path: Path, left: bytes, facts: dict[str, Any], message: str
) -> None:
    (tmp_path / f"file{PART}").write_bytes(left)

    with pytest.raises(ConfigurationError, match=message):
        bring(remote(**facts), tmp_path / "file")

    assert not list(tmp_path.glob("file*"))
    assert bring(remote(), tmp_path / "file") == len(DATA)


def test_files_of_modelscope_lie_where_its_own_package_looks_for_them(host: type[FileHost], tmp_path: Path) -> None:
    folder = modelscope.bring(MODEL, None, ["model_index.json", "transformer/*"], [])

    assert folder == tmp_path / "cache/models/someone/model"
    assert modelscope.folder_of("modelscope:PAI/EasyAnimateV5.1-7b-zh") == (
        tmp_path / "cache/models/PAI/EasyAnimateV5___1-7b-zh"
    )
    assert (folder / NAME).read_bytes() == DATA
    assert not (folder / "README.md").exists()
    host.asked.clear()
    modelscope.bring(MODEL, None, ["model_index.json", "transformer/*"], [])
    assert host.asked == []


def test_without_modelscope_the_files_that_are_there_are_taken(
    host: type[FileHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = modelscope.bring(MODEL, None, ["model_index.json"], [])
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")

    assert modelscope.bring(MODEL, None, ["*"], ["model_index.json"]) == folder
    with pytest.raises(ConfigurationError, match=r"cannot be asked at http://127.0.0.1:9 .*lacks transformer/big"):
        modelscope.bring(MODEL, None, ["*"], [NAME])


def test_models_and_revisions_that_modelscope_has_not_are_named(host: type[FileHost]) -> None:
    with pytest.raises(UnsupportedModel, match="no public model nobody/nothing with a revision 'master'"):
        modelscope.bring("modelscope:nobody/nothing", None, ["*"], [])
    with pytest.raises(UnsupportedModel, match="no public model someone/model with a revision 'v9'"):
        modelscope.bring(MODEL, "v9", ["*"], [])


def test_where_one_file_fails_the_others_end_and_keep_what_has_come(host: type[FileHost], tmp_path: Path) -> None:
    whole = {"path": "model_index.json", "size": 2, "sha256": None}
    url = f"{modelscope.endpoint()}/api/v1/models/someone/model/repo?FilePath=model_index.json"
    host.always_cut.add(NAME)

    with pytest.raises(httpx.TransportError):
        downloads.download_all([(remote(), tmp_path / "cut"), (remote(**whole, url=url), tmp_path / "whole")])
    host.always_cut.clear()
    counts: list[int] = []
    downloads.download_all(
        [(remote(), tmp_path / "cut"), (remote(**whole, url=url), tmp_path / "whole")], counts.append
    )

    assert sum(counts) == len(DATA) + 2
    assert (tmp_path / "cut").read_bytes() == DATA
    assert (tmp_path / "whole").read_text() == "{}"
