"""What importing a package brings with it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("heavy", ["easyanim_server", "numpy", "PIL", "pydantic", "rich", "torch", "typer"])
def test_importing_the_client_does_not_bring(heavy: str, loaded_by_the_client: set[str]) -> None:
    assert heavy not in loaded_by_the_client


@pytest.fixture(scope="module")
def loaded_by_the_client() -> set[str]:
    """Top-level packages in a fresh process that has imported the client."""
    code = "import sys, easyanim_client; print(*{name.partition('.')[0] for name in sys.modules})"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stderr == ""
    return set(process.stdout.split())
