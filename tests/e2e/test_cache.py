"""Compiled code outlives the process, and moves in one file."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.processes import BIN

pytestmark = pytest.mark.long

WARM = ["warm", "--model", "builtin:tiny", "--buckets", "32x48x5", "--backend", "inductor"]


def server(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "easyanim-server", *map(str, arguments)], capture_output=True, text=True, timeout=240)


def lookups(output: str) -> tuple[int, int]:
    found = re.search(r"(\d+) found, (\d+) made", output)
    assert found, output
    return int(found[1]), int(found[2])


def test_a_warmed_cache_spares_the_next_start_all_compilation_and_moves_in_one_file(tmp_path: Path) -> None:
    here, there, file = tmp_path / "here", tmp_path / "there", tmp_path / "cache.tar.gz"
    cold = server(*WARM, "--cache-dir", here)
    assert "32x48x5: inductor, float32" in cold.stdout, cold.stdout + cold.stderr
    assert lookups(cold.stdout) == (0, 3), "two kinds of block, and the last one, which drops the text"
    gate = server("doctor", "--model", "builtin:tiny", "--listen", "127.0.0.1:0", "--cache-dir", here).stdout
    assert re.search(r"32x48x5\s+inductor, float32, attention \w+: relative L2 \S+ from\s+eager, cosine 1\.0", gate)

    assert server("cache", "export", file, "--cache-dir", here).returncode == 0
    assert server("cache", "import", file, "--cache-dir", there).returncode == 0
    warm = server(*WARM, "--cache-dir", there)
    assert lookups(warm.stdout) == (3, 0)
    compares = "computing what faster paths are compared with"
    assert (compares in cold.stderr, compares in warm.stderr) == (True, False), "references move too"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export"], "there is no cache in"),
        (["import"], "is not a file"),
    ],
    ids=["nothing to export", "not a cache"],
)
def test_a_cache_that_is_not_there_is_named(tmp_path: Path, arguments: list[str], words: str) -> None:
    ended = server("cache", *arguments, tmp_path / "cache.tar.gz", "--cache-dir", tmp_path / "empty")
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
