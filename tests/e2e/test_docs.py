"""Every `sh` block of docs/ does what it says, against the server that `make serve` starts.

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
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from dev.quality.__main__ import parser as quality_parser
from easyanim_client.commands import EPILOG, app
from easyanim_server.__main__ import app as server_app
from tests.e2e.processes import BIN, ROOT, ServerCommand, client

PAGES = sorted((ROOT / "docs").glob("*.md"))
_BLOCK = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
KINDS = {"", "sh", "sh no-test", "console", "python", "text", "json", "proto", "toml", "yaml", "mermaid", "promql"}


OTHER_PROGRAMS: frozenset[str] = frozenset()
"""Options in the text of pages that are not of our commands."""


def _commands(typed: typer.Typer) -> dict[str, Any]:
    """Every command by its name, those of groups by both words."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_group(typed).commands.items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {word}": one for word, one in inner.items()}
    return found


def blocks(page: Path, kind: str) -> list[str]:
    """The page's blocks of one kind, from top to bottom."""
    return [found["text"] for found in _BLOCK.finditer(page.read_text(encoding="utf-8")) if found["info"] == kind]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerCommand]:
    with ServerCommand("--model", "builtin:demo") as command:
        assert client("health", "--address", command.address, "--wait", "120").returncode == 0
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


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            file = page.parent / target if target else page
            assert file.exists(), target
            assert not heading or heading in headings(file), f"{target}#{heading}"


def headings(page: Path) -> set[str]:
    """What links to the page's headings end in."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in found}


def test_the_examples_of_the_help_use_options_that_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    shown = [CliRunner().invoke(app, [name, "--help"], terminal_width=200).stdout for name in commands]
    examples = [line.strip() for text in shown for line in text.splitlines() if line.strip().startswith("easyanim-")]

    assert {shlex.split(line)[1] for line in examples} >= set(commands)
    for line in examples:
        words = shlex.split(line.partition("|")[0].partition("&&")[0])
        known = {option for parameter in commands[words[1]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known | {"--help"}, line


OPTIONS = {
    program: {
        name: {"--help", *(option for one in command.params for option in one.opts)}
        for name, command in (_commands(typed) | {"(no command)": typer.main.get_command(typed)}).items()
    }
    for program, typed in (("easyanim-client", app), ("easyanim-server", server_app))
}
OPTIONS["make"] = {"quality": {*quality_parser()._option_string_actions}}
"""Options by program and command."""


def named_commands(page: Path) -> Iterator[list[str]]:
    """The words of every command of ours, or option, that a page names in a block or within its text."""
    text = page.read_text(encoding="utf-8")
    shell = "".join(found["text"] for found in _BLOCK.finditer(text) if found["info"].startswith("sh"))
    lines = shell.replace("\\\n", " ").splitlines() + re.findall(r"`([^`\n]+)`", _BLOCK.sub("", text))
    for line in lines:
        if re.match(r"\S*easyanim-(client|server) |--[a-z]|[a-z-]+ --", line):
            yield shlex.split(line, comments=True)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_command_and_option_that_a_page_names_is_there(page: Path) -> None:
    for words in named_commands(page):
        program = words[0].rpartition("/")[2]
        known = {name: options for found in OPTIONS.values() for name, options in found.items()}
        if program in OPTIONS:  # easyanim-server cache export FILE
            known, words = OPTIONS[program], words[1:]
        given = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
        name = next((name for name in known if words[: name.count(" ") + 1] == name.split()), None)
        assert name or program not in OPTIONS or words[0].startswith("--"), words
        if name or program.startswith("--"):
            allowed = known[name] if name else set().union(*known.values())
            assert given <= allowed, f"{words}: {given - allowed}"


def test_the_exit_codes_of_the_help_are_documented() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)

    assert [f"{code:4} {words}" for code, words in documented] == EPILOG.splitlines()[1:]


def test_the_changelog_has_the_version_that_is_built() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert "Unreleased" in headings
    assert version[1] in headings


def test_examples_for_the_demo_s_model_ask_for_slow_motions() -> None:
    """A fast motion uncovers much that the small model has to make up, and what it makes up is blotches."""
    texts = {page: "\n".join(blocks(page, "sh")) for page in PAGES}
    demo = (ROOT / "dev" / "ci" / "demo.py").read_text(encoding="utf-8")
    prompts = [
        found for text in texts.values() for found in re.findall(r'generate "([^"]+)"|"prompt": "([^"]+)"', text)
    ]
    asked = ["".join(pair) for pair in prompts] + re.findall(r'^PROMPT = "(.+)"', demo, re.MULTILINE)

    assert len(asked) > 5
    assert [prompt for prompt in asked if "slowly" not in prompt and "缓慢" not in prompt] == []
