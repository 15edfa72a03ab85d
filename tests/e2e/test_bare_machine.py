"""`easyanim-server` where a container gives it nothing: no user's entry, no home, no folder that can be written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from easyanim_client import Client
from easyanim_server.config import checks as preflight
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.engine.weights import checkpoint
from tests.e2e.processes import BIN, client

UID = 12345
SERVE = [str(BIN / "easyanim-server"), "serve", "--model", "builtin:tiny", "--buckets", "128x128x5"]


def _stranger() -> list[str]:
    """The words before a command that run it as a user without an entry, who may read everything."""
    if os.getuid() == 0:
        reads = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
        return ["setpriv", "--reuid", str(UID), "--clear-groups", *reads]
    words = ["unshare", "--user", f"--map-user={UID}"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True).returncode != 0:
        pytest.skip("nobody else can be run here: this is not root, and user namespaces are switched off")
    return words


def as_stranger(command: list[str], **environment: str) -> list[str]:
    bare = [f"{name}={value}" for name, value in {"PATH": "/usr/bin:/bin", **environment}.items()]
    return [*_stranger(), "env", "-i", *bare, *command]


def ended(command: list[str], **options: object) -> tuple[int, str, str]:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", **options)  # type: ignore[call-overload]
    return ran.returncode, ran.stdout, ran.stderr


def asked(code: str, **environment: str) -> str:
    """What a program prints that a stranger runs."""
    status, out, said = ended(as_stranger([sys.executable, "-c", code], **environment))
    assert status == 0, said
    return out.strip()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may write, with none above it that is closed to others."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_a_user_without_entry_or_home_serves_and_keeps_the_socket(place: Path) -> None:
    listen = f"unix:{place}/server.sock"
    of_kubernetes = {
        "EASYANIM_SERVICE_HOST": "10.0.0.7",
        "EASYANIM_PORT": "tcp://10.0.0.7:50051",
        "EASYANIM_CLIENT_PORT_50051_TCP_ADDR": "10.0.0.8",
    }
    command = as_stranger([*SERVE, "--listen", listen], TMPDIR=str(place), EASYANIM_CACHE_DIR="", **of_kubernetes)
    with (place / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=place)
    try:
        waited = client("health", "--address", listen, "--wait", "90")
        assert waited.returncode == 0, (place / "log").read_text()
        second = ended([*SERVE, "--listen", listen])
        with Client(listen) as still:
            serving = still.health()
    finally:
        server.kill()
        server.wait()

    assert second[0] == 2
    assert second[2] == (
        f"easyanim-server: cannot listen on '{listen}' (listen): another server listens there; stop it, or take "
        "another name\n"
    )
    assert serving
    assert "the home folder cannot be written; compiled code goes with temporary files" in (place / "log").read_text()
    kept = {item.name for item in place.iterdir()}
    assert kept - {f"torchinductor_uid-{UID}"} == {"log", "server.sock", f"easyanim-{UID}"}
    preflight.check_address(listen)  # what the dead server left is replaced


def test_without_a_temporary_folder_it_is_said_in_one_line() -> None:
    def nothing_can_be_written() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    code, out, said = ended([*SERVE, "--listen", "127.0.0.1:0"], preexec_fn=nothing_can_be_written)
    doctor = ended([SERVE[0], "doctor", "--json", *SERVE[2:]], preexec_fn=nothing_can_be_written)

    assert (code, out) == (2, "")
    assert said.startswith("easyanim-server: no temporary folder can be written: neither ")
    assert said.endswith("set TMPDIR to one that can\n")
    assert len(said.splitlines()) == 1
    report = json.loads(doctor[1])
    assert (doctor[0], report["can_serve"]) == (1, False)
    assert [row["subject"] for row in report["findings"]] == ["temporary files"]


def test_a_cache_that_cannot_be_written_is_named_by_its_path(place: Path) -> None:
    (place / "cache").mkdir()
    (place / "cache").chmod(0o555)
    cache = place / "cache" / "compiled"

    code, out, said = ended(as_stranger([*SERVE, "--listen", "127.0.0.1:0"], EASYANIM_CACHE_DIR=str(cache)))

    reason = f"no permission to write in {cache.parent}"
    assert (code, out) == (2, "")
    assert said == f"easyanim-server: cache_dir '{cache}' cannot be written: {reason}\n"


ASK: Callable[[str], str] = (
    "import os; from easyanim_server.config import environment as e; e.prepare(); "
    "print(e.cache_folder(), e.will_not_last(e.cache_folder()), os.environ['{}'])"
).format


def test_a_home_that_cannot_be_written_leaves_libraries_their_own_caches(place: Path) -> None:
    home = place / "home"
    home.mkdir()
    home.chmod(0o555)

    found = asked(ASK("TRITON_CACHE_DIR"), HOME=str(home), TMPDIR=str(place))
    kept = asked(ASK("HOME"), HOME=str(home), TMPDIR=str(place))

    stead = place / f"easyanim-{UID}"
    assert found == f"{stead}/.cache/easyanim True {stead}/triton_cache_dir"
    assert kept.endswith(f" {home}")  # weights may lie there, and are read


def test_empty_variables_mean_what_is_not_set(place: Path) -> None:
    found = asked(
        ASK("HOME") + "; from huggingface_hub import constants as c; print(c.HF_HUB_CACHE)",
        HOME="", XDG_CACHE_HOME="", HF_HOME="", HF_ENDPOINT="", TRITON_CACHE_DIR="", TMPDIR=str(place),
    )  # fmt: skip

    stead = place / f"easyanim-{UID}"
    assert found == f"{stead}/.cache/easyanim True {stead}\n{stead}/.cache/huggingface/hub"


def test_a_folder_that_others_can_write_is_no_place_for_a_cache(place: Path) -> None:
    (place / f"easyanim-{os.getuid()}").mkdir()
    (place / f"easyanim-{os.getuid()}").chmod(0o777)
    code = "from easyanim_server.config.environment import _makeshift; _makeshift()"

    status, _, said = ended([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(place)})

    assert status == 1
    assert "would hold caches, and others can write it" in said


def test_a_damaged_model_ends_the_server_at_once_with_the_file_and_the_place(tmp_path: Path) -> None:
    checkpoint.export("builtin:tiny", tmp_path / "model")
    (tmp_path / "model/vae/config.json").write_bytes('{\n "name": "caf\xe9"}'.encode("latin-1"))

    code, out, said = ended([SERVE[0], "serve", "--model", str(tmp_path / "model"), "--listen", "127.0.0.1:0"])

    assert code == 2
    assert out.startswith("listening on ")
    assert said.splitlines()[-1] == (
        f"easyanim-server: {tmp_path}/model/vae/config.json is not UTF-8: byte 0xe9 in line 2"
    )
    assert "Traceback" not in said
    assert "worker did not start" not in said  # no second try


def test_two_servers_that_start_at_once_do_not_both_get_a_socket(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/server.sock"
    inside, servers, refused = threading.Event(), [], []

    def second() -> None:
        inside.set()
        try:
            with preflight.alone_at(listen):
                servers.append("second")
        except ConfigurationError as error:
            refused.append(str(error))

    with preflight.alone_at(listen):
        other = threading.Thread(target=second)
        other.start()
        inside.wait()
        one = grpc.server(ThreadPoolExecutor(1))
        one.add_insecure_port(listen)
    other.join()
    one.stop(0)

    assert servers == []
    assert len(refused) == 1
    assert "another server listens there" in refused[0]
