"""What both commands say of options that there are not."""

from __future__ import annotations

import pytest
import typer.main
from typer.testing import CliRunner

from easyanim_client import commands
from easyanim_server import __main__ as server

MISTYPED = [
    (server.app, "serve --port 50051", "--port; did you mean --listen?"),
    (server.app, "serve --width 512", "--width; did you mean --buckets?"),
    (server.app, "serve --prot 50051", "--prot"),
    (server.app, "doctor --lisen x", "--lisen; did you mean --listen?"),
    (server.app, "cache import --cachedir x", "--cachedir; did you mean --cache-dir?"),
    (server.app, "plan --vram 1GiB --bucket x", "--bucket; did you mean --buckets?"),
    (server.app, "--model x serve", "--model; it goes behind a command, as in easyanim-server serve --model"),
    (server.app, "--verison", "--verison; did you mean --version?"),
    (commands.app, "generate x --width 512", "--width; did you mean --bucket?"),
    (commands.app, "generate x --port 1", "--port; did you mean --address?"),
    (commands.app, "generate x --step 3", "--step; did you mean --steps?"),
    (commands.app, "generate x --num-inference-steps 3", "--num-inference-steps; did you mean --steps?"),
    (commands.app, "info --width 512", "--width"),
    (commands.app, "--image x generate", "--image; it goes behind a command, as in easyanim-client generate --image"),
]  # fmt: skip


@pytest.mark.parametrize(("app", "words", "said"), MISTYPED, ids=[words for _, words, _ in MISTYPED])
def test_a_mistyped_option_is_told_with_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, app: typer.Typer, words: str, said: str
) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 200)
    program = "easyanim-server" if app is server.app else "easyanim-client"

    result = CliRunner().invoke(app, words.split(), prog_name=program)

    (line,) = [line for line in result.stderr.splitlines() if "No such option" in line]
    assert result.exit_code == 2
    assert line.strip("│ ") == f"No such option: {said}"


def test_words_of_other_programs_lead_to_options_that_there_are() -> None:
    group = typer.main.get_group(commands.app)
    offered = {name for command in group.commands.values() for parameter in command.params for name in parameter.opts}

    assert set(commands.SYNONYMS.values()) <= offered
