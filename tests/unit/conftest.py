"""Fixtures of the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from easyanim_server.engine.cache import store as cache
from easyanim_server.engine.engine import Engine
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
