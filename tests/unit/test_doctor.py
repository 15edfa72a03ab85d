"""`easyanim-server doctor` says what `serve` would meet on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from easyanim_server.catalog import DEFAULT_MODEL
from easyanim_server.cli import doctor, tools
from easyanim_server.cli.findings import Finding
from easyanim_server.config.settings import Settings

GIB = 2**30

Examine = Callable[..., tuple[int, dict[str, Finding], str]]


@pytest.fixture
def examine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Examine:
    """Looks at a machine without a card: the exit code, what was found, and what was printed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("COLUMNS", "250")

    def run(free: int = 20 * GIB, **flags: str) -> tuple[int, dict[str, Finding], str]:
        memory = SimpleNamespace(total=24 * GIB, available=free)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
        settings = Settings.load({"listen": "127.0.0.1:0", **flags})
        code = doctor.report(settings)
        return code, {finding.subject: finding for finding in tools.examine(settings)}, capsys.readouterr().out

    return run


def test_a_published_model_does_not_fit_into_a_small_machine_without_a_card(examine: Examine) -> None:
    code, found, printed = examine(model=DEFAULT_MODEL)

    assert code == 1
    assert found["host memory"].fatal
    assert "51.8 GiB of weights in float32 do not fit into the 20.0 GiB that are free" in found["host memory"].detail
    assert "--model builtin:demo runs on any machine" in found["host memory"].detail
    assert "serve will not work: host memory" in printed


def test_a_published_model_on_a_large_machine_without_a_card_is_warned_of(examine: Examine) -> None:
    code, found, printed = examine(100 * GIB, model=DEFAULT_MODEL)

    assert code == 0
    assert found["device"].doubtful
    assert "hours a video" in found["device"].detail
    assert "warn" in printed
    assert "serve can start with these settings; mind device" in printed


@pytest.mark.parametrize("model", ["builtin:foo", "synthetic:foo", "/nowhere"])
def test_a_model_that_serve_refuses_is_missing(examine: Examine, model: str) -> None:
    code, found, _ = examine(model=model)

    assert code == 1
    assert found["model"].fatal
    assert model in found["model"].detail


def test_what_comes_with_the_package_can_be_served_on_any_machine(examine: Examine) -> None:
    code, found, _ = examine(model="builtin:demo")

    assert code == 0
    assert found["model"].detail == "builtin:demo comes with this package"
    assert not any(finding.fatal or finding.doubtful for finding in found.values())


def test_a_cache_that_cannot_be_written_is_found(examine: Examine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    code, found, _ = examine(model="builtin:tiny", cache_dir=str(tmp_path / "file" / "cache"))

    assert code == 1
    assert "is no folder" in found["files"].detail
