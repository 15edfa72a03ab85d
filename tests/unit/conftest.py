"""Fixtures of the engine's tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from easyanim_server.engine.cache import store as cache
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.weights import checkpoint
from tests.models import engine_of, make_modules


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors are faster on one thread, and much faster where other processes want the cores too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that uses a cache's folder does so alone."""
    monkeypatch.setattr(cache, "_place", None)


@pytest.fixture
def engine() -> Engine:
    """A fresh engine in the default mode."""
    return engine_of(make_modules())


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a folder; to be read, not changed."""
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    checkpoint.export("builtin:tiny", folder)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of it, to spoil."""
    return shutil.copytree(exported, tmp_path / "model")
