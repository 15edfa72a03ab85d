"""`easyanim-server` where its words or files are wrong: one sentence and an exit code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from easyanim_server import __main__, __version__
from easyanim_server.engine import cache


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command; its exit code, stdout and stderr."""

    def run(*words: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["easyanim-server", *map(str, words)])
        with pytest.raises(SystemExit) as exited:
            __main__.main()
        return exited.value.code, *capsys.readouterr()

    return run


def test_a_file_that_cannot_be_written_is_named_in_one_sentence(ended, tmp_path: Path) -> None:
    place = cache.version_folder(tmp_path, torch.device("cpu"))
    place.mkdir(parents=True)
    (place / "graph").write_text("compiled")
    file = tmp_path / "missing" / "cache.tar.gz"

    said = ended("cache", "export", file, "--cache-dir", tmp_path, "--device", "cpu")

    assert said == (1, "", f"easyanim-server: {file}: No such file or directory\n")


def test_a_packed_cache_that_is_not_there_is_told_from_one_that_is_none(ended, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no cache")

    code, _, said = ended("cache", "import", tmp_path / "missing", "--device", "cpu")
    assert (code, said) == (
        2,
        f"easyanim-server: '{tmp_path}/missing' is not a file; `easyanim-server cache export` writes one\n",
    )
    code, _, said = ended("cache", "import", tmp_path / "text", "--device", "cpu")
    assert (code, said) == (2, f"easyanim-server: {tmp_path}/text is not a packed cache: not a gzip file\n")


def test_the_version_is_an_option_and_a_command(ended) -> None:
    assert ended("--version") == ended("version") == (0, f"{__version__}\n", "")
