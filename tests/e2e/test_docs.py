"""Every `sh` block of docs/ does what it says, against a server on builtin:tiny.

A block is fenced as `sh`, and then it is run here, or as `sh no-test` where it needs a GPU, a cluster or minutes.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from easyanim_client.commands import app
from tests.e2e.processes import BIN, ROOT, ServerCommand, client

PAGES = sorted((ROOT / "docs").glob("*.md"))
_BLOCK = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
KINDS = {"", "sh", "sh no-test", "console", "python", "text", "json", "proto", "toml", "yaml", "mermaid", "promql"}


def blocks(page: Path, kind: str) -> list[str]:
    """The page's blocks of one kind, from top to bottom."""
    return [found["text"] for found in _BLOCK.finditer(page.read_text(encoding="utf-8")) if found["info"] == kind]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerCommand]:
    with ServerCommand("--model", "builtin:tiny", "--buckets", "128x128x5") as command:
        assert client("health", "--address", command.address, "--wait", "60").returncode == 0
        yield command


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=lambda page: page.name)
def test_the_commands_of_a_page_run_from_top_to_bottom(page: Path, server: ServerCommand, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    script = "set -euo pipefail\n" + "\n".join(blocks(page, "sh"))

    ended = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "EASYANIM_CLIENT_ADDRESS": server.address},
        capture_output=True,
        text=True,
        timeout=280,
    )

    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_known_kind(page: Path) -> None:
    kinds = {found["info"] for found in _BLOCK.finditer(page.read_text(encoding="utf-8"))}

    assert kinds <= KINDS, "a shell block is `sh` (run by a test) or `sh no-test`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def test_the_examples_of_the_help_use_options_that_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    shown = [CliRunner().invoke(app, [name, "--help"], terminal_width=200).stdout for name in commands]
    examples = [line.strip() for text in shown for line in text.splitlines() if line.strip().startswith("easyanim-")]

    assert {shlex.split(line)[1] for line in examples} >= set(commands)
    for line in examples:
        words = shlex.split(line.partition("|")[0].partition("&&")[0])
        known = {option for parameter in commands[words[1]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known | {"--help"}, line


def test_the_changelog_has_the_version_that_is_built() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert "Unreleased" in headings
    assert version[1] in headings
