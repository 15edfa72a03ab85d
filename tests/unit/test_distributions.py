"""The project files of the two distributions and of the clone that installs them."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import easyanim_client
import easyanim_server
from easyanim.v1 import video_pb2

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def project(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    return found


def test_all_have_one_version_which_is_what_is_installed() -> None:
    distributions = {"easyanim": ".", "easyanim-client": "client", "easyanim-server": "server"}

    assert {name: project(folder)["name"] for name, folder in distributions.items()} == {
        name: name for name in distributions
    }
    declared = {project(folder)["version"] for folder in distributions.values()}
    assert declared == {version(name) for name in distributions} == {easyanim_server.__version__}


def test_the_server_takes_the_stubs_of_its_own_version() -> None:
    server = project("server")

    assert f"easyanim-client[cli]=={server['version']}" in server["dependencies"]


def test_the_client_needs_grpc_and_protobuf_alone() -> None:
    names = {re.split(r"[<>=\[ ]", line)[0] for line in project("client")["dependencies"]}

    assert names == {"grpcio", "grpcio-status", "grpcio-health-checking", "protobuf"}


def test_every_extra_of_the_server_is_one_of_the_clone() -> None:
    extras = project(".")["optional-dependencies"]

    for name in project("server")["optional-dependencies"]:
        assert extras[name] == [f"easyanim-server[{name}] @ {{root:uri}}/server"]


def test_where_a_clone_is_installed_editable_its_folders_are_what_is_imported() -> None:
    modules = {"client": easyanim_client, "server": easyanim_server, "proto": video_pb2}

    for folder, module in modules.items():
        assert Path(module.__file__ or "").is_relative_to(ROOT / folder)


@pytest.mark.parametrize("folder", ["client", "server"])
def test_every_distribution_has_the_license(folder: str) -> None:
    assert (ROOT / folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_pins_have_no_address_and_cover_what_is_needed() -> None:
    pins = [line for line in (ROOT / "constraints/constraints.txt").read_text().splitlines() if line[0] != "#"]

    assert [line for line in pins if not re.fullmatch(r"[a-z0-9-]+==[a-z0-9.+]+( ; .+)?", line)] == []
    pinned = {line.partition("==")[0] for line in pins}
    lines = [*project("client")["dependencies"], *project("server")["dependencies"]]
    assert {re.split(r"[<>=\[; ]", line)[0] for line in lines} - pinned == {"easyanim-client"}


def texts_that_say_what_to_install() -> list[Path]:
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    return [*files, *(ROOT / "server").rglob("*.py"), *(ROOT / "client").rglob("*.py")]


def test_all_that_users_are_told_to_install_works_in_a_clone() -> None:
    """The distributions are not published: a hint that names one of them, and not a folder, sends users nowhere."""
    extras = project(".")["optional-dependencies"].keys()
    told = {
        words
        for file in texts_that_say_what_to_install()
        for words in re.findall(r"pip install (?:-e )?'?([^\s'`]+)", file.read_text(encoding="utf-8"))
    }

    assert {".[server]", ".[cli]", ".[telemetry]"} <= told
    for words in told:
        named = re.fullmatch(r"\.(?:\[([\w,-]+)\])?", words)
        assert named, f"{words!r} is no clone's"
        assert set((named[1] or "").split(",")) - {""} <= extras, words


def test_a_server_without_its_libraries_names_what_to_install() -> None:
    program = "import sys; sys.modules['structlog'] = None; import easyanim_server.__main__"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert ran.returncode == 2
    assert ran.stderr == (
        "easyanim-server needs structlog: pip install '.[server]' in a clone of easyanim installs it\n"
    )


def test_every_extra_of_the_server_brings_libraries_that_its_code_imports() -> None:
    """An extra without code, as `ray` was, promises what there is not."""
    modules = {
        "fa4": "flash_attn",
        "telemetry": "opentelemetry",
        "tensorrt": "tensorrt",
        "heif": "pillow_heif",
    }
    sources = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "server").rglob("*.py"))

    assert modules.keys() == project("server")["optional-dependencies"].keys()
    for module in modules.values():
        assert re.search(rf"(?:import|from|import_module\(\"|find_spec\(\") ?{module}\b", sources), module
