"""Completion in a real shell, by what `--show-completion` prints."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.e2e.processes import BIN


@pytest.mark.parametrize(
    ("program", "words", "offered"),
    [
        ("easyanim-client", "generate a --draft-", {"--draft-first", "--draft-steps", "--draft-bucket"}),
        ("easyanim-server", "cache ex", {"export"}),
    ],
)
def test_bash_completes_commands_and_options(program: str, words: str, offered: set[str]) -> None:
    function = f"_{program.replace('-', '_')}_completion"
    script = f"""
eval "$({program} --show-completion)"
complete -p {program} >/dev/null
COMP_WORDS=({program} {words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
{function} {program}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}

    ended = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)

    assert ended.returncode == 0, ended.stderr
    assert set(ended.stdout.split()) == offered
