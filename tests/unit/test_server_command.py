"""`easyanim-server` where its words or files are wrong: one sentence and an exit code."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import typer.main

from easyanim_server import __main__, __version__
from easyanim_server.config.settings import Settings
from easyanim_server.engine.attention import select as attention
from easyanim_server.engine.cache import store as cache

Ended = Callable[..., tuple[object, str, str]]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ended:
    """Runs the command; its exit code, stdout and stderr."""

    def run(*words: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["easyanim-server", *map(str, words)])
        with pytest.raises(SystemExit) as exited:
            __main__.main()
        return exited.value.code, *capsys.readouterr()

    return run


def test_a_file_that_cannot_be_written_is_named_in_one_sentence(ended: Ended, tmp_path: Path) -> None:
    place = cache.version_folder(tmp_path, torch.device("cpu"))
    place.mkdir(parents=True)
    (place / "graph").write_text("compiled")
    file = tmp_path / "missing" / "cache.tar.gz"

    missing = ended("cache", "export", file, "--cache-dir", tmp_path, "--device", "cpu")
    folder = ended("cache", "export", tmp_path, "--cache-dir", tmp_path, "--device", "cpu")

    assert missing == (2, "", f"easyanim-server: '{file}' cannot be written: there is no folder {file.parent}\n")
    assert folder == (2, "", f"easyanim-server: '{tmp_path}' cannot be written: it is a folder; name a file in it\n")


@pytest.mark.parametrize(
    "words",
    [
        "cache export {file} --device cpu --cache-dir {folder}",
        "fit-cache --model builtin:tiny --out {file}",
        "bench --model builtin:tiny --device cpu --buckets 32x48x5 --out {folder} --what taken",
    ],
    ids=["cache export", "fit-cache", "bench"],
)
def test_a_file_that_is_there_is_replaced_by_force_alone(ended: Ended, tmp_path: Path, words: str) -> None:
    file = tmp_path / "cpu-taken.json"
    file.write_text("older")

    code, _, said = ended(*words.format(file=file, folder=tmp_path).split())

    assert (code, file.read_text()) == (2, "older")
    assert said == f"easyanim-server: '{file}' exists already; --force replaces it\n"


def test_with_force_an_export_replaces_the_older_one(ended: Ended, tmp_path: Path) -> None:
    place = cache.version_folder(tmp_path, torch.device("cpu"))
    place.mkdir(parents=True)
    (place / "graph").write_text("compiled")
    file = tmp_path / "cache.tar.gz"
    file.write_text("older")

    assert ended("cache", "export", file, "--cache-dir", tmp_path, "--device", "cpu", "--force")[0] == 0

    assert file.read_bytes().startswith(b"\x1f\x8b")


def test_a_packed_cache_that_is_not_there_is_told_from_one_that_is_none(ended: Ended, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no cache")

    code, _, said = ended("cache", "import", tmp_path / "missing", "--device", "cpu")
    assert (code, said) == (
        2,
        f"easyanim-server: '{tmp_path}/missing' is not a file; `easyanim-server cache export` writes one\n",
    )
    code, _, said = ended("cache", "import", tmp_path / "text", "--device", "cpu")
    assert code == 2
    assert said.startswith(f"easyanim-server: {tmp_path}/text is not a packed cache: ")


def test_the_version_is_an_option_and_a_command(ended: Ended) -> None:
    assert ended("--version") == ended("version") == (0, f"{__version__}\n", "")


def test_errors_are_printed_one_a_line(ended: Ended) -> None:
    code, _, said = ended("serve", "--queue-size", "0", "--cpu-threads", "-1")

    assert code == 2
    assert [line.partition(": Input")[0] for line in said.splitlines()] == [
        "easyanim-server: queue_size='0'",
        "easyanim-server: cpu_threads='-1'",
    ]


@pytest.mark.parametrize("words", ["bench --repeats", "fit-cache --steps", "fit-cache --generations"])
def test_an_option_that_takes_a_number_says_what_it_was_given(ended: Ended, words: str) -> None:
    code, _, said = ended(*words.split(), "abc")

    assert code == 2
    assert f"{words.split()[1]}': 'abc' must be a whole number" in said


@pytest.mark.parametrize("command", ["serve", "warm", "plan --vram 24GiB", "fit-cache", "bench", "tune"])
def test_a_model_that_there_is_not_ends_every_command_before_torch_is_loaded(command: str) -> None:
    program = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from easyanim_server.__main__ import main\n"
        f"sys.argv = ['easyanim-server', *{command.split()}, '--model', 'builtin:foo']\n"
        "main()"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert (ran.returncode, ran.stdout) == (2, "")
    known = "builtin:demo, builtin:tiny, synthetic:7b, synthetic:12b, synthetic:v5-7b, synthetic:v5-12b"
    assert ran.stderr == f"easyanim-server: there is no model builtin:foo; known are {known}\n"


def test_a_folder_that_is_no_model_is_refused_before_anything_listens(ended: Ended, tmp_path: Path) -> None:
    absent = ended("serve", "--model", tmp_path / "absent", "--listen", "127.0.0.1:0")
    empty = ended("serve", "--model", tmp_path, "--listen", "127.0.0.1:0")

    assert absent[:2] == empty[:2] == (2, "")
    assert f"model {tmp_path}/absent is no folder" in absent[2]
    assert f"model {tmp_path} has no model_index.json" in empty[2]


def test_files_and_folders_that_cannot_be_used_are_refused_before_anything_listens(
    ended: Ended, tmp_path: Path
) -> None:
    serve = ("serve", "--model", "builtin:tiny", "--listen", "127.0.0.1:0")
    file = tmp_path / "fit.json"
    file.write_text("{}")

    code, out, said = ended(*serve, "--cache-coefficients", file)
    assert (code, out) == (2, "")
    assert f"cache_coefficients '{file}' was not written by fit-cache" in said
    file.write_text('{"coefficients": [1, 2], "model_fingerprint": "ab"}')
    code, out, said = ended(*serve, "--cache-coefficients", file)
    assert (code, out) == (2, "")
    assert f"cache_coefficients '{file}' must have 5 finite numbers" in said
    code, out, said = ended(*serve, "--cache-coefficients", tmp_path / "absent")
    assert (code, out) == (2, "")
    assert f"cache_coefficients '{tmp_path}/absent' cannot be read: No such file or directory" in said
    code, out, said = ended(*serve, "--cache-dir", file / "cache")
    assert (code, out) == (2, "")
    assert said == f"easyanim-server: cache_dir '{file}/cache' cannot be written: {file} is no folder\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::]", ""])
def test_a_port_that_is_taken_is_said_in_one_line(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"{host}:{other.getsockname()[1]}"
        command = [sys.executable, "-m", "easyanim_server", "serve", "--model", "builtin:tiny", "--listen", address]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert (ran.returncode, ran.stdout) == (2, "")
    expected = f"cannot listen on '{address}' (listen): Address already in use; take another port, or 0 for a free one"
    assert ran.stderr == f"easyanim-server: {expected}\n"


def _commands() -> dict[str, Any]:
    return dict(typer.main.get_group(__main__.app).commands)


def test_the_examples_of_the_help_can_be_copied() -> None:
    epilogs = [command.epilog or "" for command in _commands().values()]
    examples = [line for text in epilogs for line in text.splitlines() if line.startswith("easyanim-server ")]

    assert len(examples) > 10
    for line in examples:
        _, name, *words = shlex.split(line, comments=True)
        left = _commands()[name].make_context(name, words, resilient_parsing=True).args
        assert left == [], line


@pytest.mark.parametrize("flag", ["dtype", "backend", "precision", "attention_mode", "placement", "log_level"])
def test_the_help_lists_the_values_of_a_setting_that_has_few(flag: str) -> None:
    (option,) = [option for option in _commands()["serve"].params if option.name == flag]

    annotation: Any = Settings.model_fields[flag].annotation
    values = get_args(annotation) or tuple(map(str, annotation))  # a literal type, or an enum
    assert len(values) > 1
    assert f"One of {', '.join(values)}." in option.help
    assert option.metavar == "<choice>"


def test_the_help_names_every_attention_kernel() -> None:
    named = re.split(r"\W+(?!bounded)", Settings.model_fields["attention"].description or "")

    assert set(attention._KERNELS) <= set(named)
