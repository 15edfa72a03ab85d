"""Limits on processors that containers set, from trees of files as kernels write them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from easyanim_server.config.environment import set_threads
from easyanim_server.config.processor import processor_quota


def _tree(folder: Path, groups: str, **files: str) -> float | None:
    """What is found where `groups` is /proc/self/cgroup and the files are there; ``__`` in a name is a slash."""
    (folder / "cgroup").write_text(groups)
    for name, text in files.items():
        file = folder / "fs" / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs_", "cpu.cfs_")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return processor_quota(folder / "cgroup", folder / "fs")


def test_the_smallest_limit_of_a_group_and_its_parents_counts(tmp_path: Path) -> None:
    groups = "0::/kubepods/pod1/one\n"
    limits = {"kubepods__pod1__one__cpu_max": "max 100000\n", "kubepods__pod1__cpu_max": "150000 100000\n"}

    assert _tree(tmp_path, groups, **limits, kubepods__cpu_max="800000 100000\n") == 1.5


def test_in_a_container_the_limit_is_at_the_top(tmp_path: Path) -> None:
    assert _tree(tmp_path, "0::/\n", cpu_max="200000 100000\n") == 2.0


def test_version_1_in_a_container_that_sees_its_host_s_path(tmp_path: Path) -> None:
    groups = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:cpuset:/docker/abc\n0::/\n"

    assert _tree(tmp_path, groups, cpu__cfs_quota_us="50000\n", cpu__cfs_period_us="100000\n") == 0.5


@pytest.mark.parametrize("text", ["max 100000\n", "nonsense\n", ""])
def test_no_limit_is_none(tmp_path: Path, text: str) -> None:
    assert _tree(tmp_path, "0::/\n", cpu_max=text) is None


def test_minus_one_and_no_files_are_no_limit(tmp_path: Path) -> None:
    assert _tree(tmp_path, "1:cpu:/\n", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n") is None
    assert processor_quota(tmp_path / "none", tmp_path) is None


def _threads(**own: str) -> list[str]:
    """How torch's threads wait, and how many there are, in a process whose environment was prepared."""
    unset = {"OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    code = (
        "import os; from easyanim_server.config import environment as e; e.prepare(); "
        "print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('OMP_NUM_THREADS'))"
    )
    words = [sys.executable, "-c", code]
    found = subprocess.run(words, env=environment | own, capture_output=True, text=True, check=True)
    return found.stdout.split()


def test_threads_sleep_while_they_wait_unless_the_operator_chose() -> None:
    assert _threads()[0] == "PASSIVE"
    assert _threads(OMP_WAIT_POLICY="")[0] == "PASSIVE"
    assert _threads(OMP_WAIT_POLICY="ACTIVE")[0] == "ACTIVE"
    assert _threads(GOMP_SPINCOUNT="1000")[0] == "None"
    assert _threads(OMP_NUM_THREADS="7")[1] == "7"


@pytest.mark.parametrize(("quota", "threads"), [(0.4, "1"), (1.0, "1"), (100_000.0, None), (None, None)])
def test_there_are_no_more_threads_than_the_quota_has_processors(quota: float | None, threads: str | None) -> None:
    environment: dict[str, str] = {}
    set_threads(environment, quota)

    one = len(os.sched_getaffinity(0)) == 1  # nothing to set
    assert environment.get("OMP_NUM_THREADS") == (None if one else threads)
    chosen = {"OMP_NUM_THREADS": "3"}
    set_threads(chosen, quota)
    assert chosen["OMP_NUM_THREADS"] == "3"
