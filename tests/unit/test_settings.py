"""What settings refuse before anything is started."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from easyanim_server.config import checks as preflight
from easyanim_server.config.settings import Settings
from easyanim_server.config.sources import SYNONYMS
from easyanim_server.domain.errors import ConfigurationError


@pytest.mark.parametrize("name", ["listen", "metrics_listen"])
@pytest.mark.parametrize("address", ["50051", "localhost", "localhost:http", "127.0.0.1:70000", "127.0.0.1:-1"])
def test_an_address_needs_a_port_that_there_is(name: str, address: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}='{address}': must be HOST:PORT with a port from 0 to 65535"):
        Settings.load({name: address})


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:50051", "gpu-1:65535", ":9464"])
def test_an_address_may_be_a_name_or_a_number_of_either_kind(address: str) -> None:
    assert Settings.load({"listen": address, "metrics_listen": address}).metrics_listen == address


def test_the_server_may_listen_on_a_socket_in_the_file_system() -> None:
    assert Settings.load({"listen": "unix:/run/easyanim.sock"}).listen == "unix:/run/easyanim.sock"


def test_a_folder_is_no_settings_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a file"):
        Settings.load({}, tmp_path)


@pytest.mark.parametrize(
    "endpoint", ["foo", "localhost:4317", "http://", "ftp://collector:4317", "http://collector:99999"]
)
def test_a_collector_needs_a_scheme_and_a_host(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match=f"otlp_endpoint='{endpoint}': must be http://HOST:PORT"):
        Settings.load({"otlp_endpoint": endpoint})


@pytest.mark.parametrize("endpoint", ["", "http://localhost:4317", "https://collector", "http://[::1]:4317"])
def test_a_collector_may_have_a_port(endpoint: str) -> None:
    assert Settings.load({"otlp_endpoint": endpoint}).otlp_endpoint == endpoint


def refused(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, str], file: Path | None = None, **environment: str
) -> str:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(flags, file)
    return str(caught.value)


def test_every_wrong_value_has_a_line_with_the_source_that_it_comes_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "easyanim.toml"
    file.write_text("cpu_threads = -1\nqueue_size = 0\n")

    said = refused(monkeypatch, {"vram_limit_gib": "much"}, file, EASYANIM_QUEUE_SIZE="abc")

    assert [(line.partition(":")[0], line.partition(" (from ")[2]) for line in said.splitlines()] == [
        ("vram_limit_gib='much'", "--vram-limit-gib)"),
        ("queue_size='abc'", "EASYANIM_QUEUE_SIZE)"),
        ("cpu_threads=-1", f"{file})"),
    ]


def test_an_unknown_name_is_told_with_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "easyanim.toml"
    file.write_text("qeue_size = 3\nlistn = 'x'\n")

    assert refused(monkeypatch, {}, file).splitlines() == [
        f"unknown setting 'qeue_size' (from {file}); did you mean queue_size?",
        f"unknown setting 'listn' (from {file}); did you mean listen?",
    ]
    assert refused(monkeypatch, {}, EASYANIM_QEUE_SIZE="3") == (
        "unknown environment variable EASYANIM_QEUE_SIZE; did you mean EASYANIM_QUEUE_SIZE?"
    )


def test_the_names_that_there_are_are_listed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "easyanim.toml"
    file.write_text("foo = 3\nbar = 4\n")

    said = refused(monkeypatch, {}, file)

    assert len(said.splitlines()) == 2
    assert said.count("known are attention, ") == 1


KUBERNETES = {
    "EASYANIM_SERVICE_HOST": "10.96.0.12",
    "EASYANIM_SERVICE_PORT": "50051",
    "EASYANIM_SERVICE_PORT_GRPC": "50051",
    "EASYANIM_PORT": "tcp://10.96.0.12:50051",
    "EASYANIM_PORT_50051_TCP": "tcp://10.96.0.12:50051",
    "EASYANIM_PORT_50051_TCP_PROTO": "tcp",
    "EASYANIM_PORT_50051_TCP_PORT": "50051",
    "EASYANIM_PORT_50051_TCP_ADDR": "10.96.0.12",
    "EASYANIM_CLIENT_PORT": "udp://[fd00::12]:9464",
    "EASYANIM_CLIENT_PORT_9464_UDP_ADDR": "fd00::12",
    "EASYANIM_GPU_2_SERVICE_HOST": "fd00::12",
}


def test_what_kubernetes_says_of_services_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)

    assert Settings.load() == Settings()


def test_no_setting_has_a_name_that_kubernetes_gives() -> None:
    taken = ("_service_host", "_service_port", "_port")

    assert [name for name in Settings.model_fields if f"_{name}".endswith(taken)] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "50051"), ("SERVICE_HOST", "my host"), ("METRICS_PORT", "9464"), ("PORT_TCP", "tcp://1.2.3.4:5"),
     ("port", "tcp://10.96.0.12:50051"), ("QEUE_SIZE", "")],
)  # fmt: skip
def test_what_only_looks_like_it_is_refused_as_before(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert f"unknown environment variable EASYANIM_{name}" in refused(
        monkeypatch, {}, None, **{f"EASYANIM_{name}": value}
    )


def test_a_word_that_other_programs_use_is_told_with_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(monkeypatch, {}, EASYANIM_PORT="50051")

    assert said == "unknown environment variable EASYANIM_PORT; did you mean EASYANIM_LISTEN?"


def test_words_that_are_told_lead_to_settings_that_there_are() -> None:
    assert set(SYNONYMS.values()) <= Settings.model_fields.keys()
    assert not SYNONYMS.keys() & Settings.model_fields.keys()


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"EASYANIM_{name.upper()}", "")

    assert Settings.load() == Settings()


def test_an_empty_path_is_not_the_working_directory(tmp_path: Path) -> None:
    file = tmp_path / "easyanim.toml"
    file.write_text('cache_dir = ""\nrevision = ""\n')

    loaded = Settings.load({"cache_coefficients": "", "tuned": ""}, file)

    assert (loaded.cache_dir, loaded.revision, loaded.cache_coefficients, loaded.tuned) == (None, None, None, None)


@pytest.mark.parametrize("listen", ["unix:", "unix:///", "unix-abstract:"])
def test_a_socket_needs_a_name(listen: str) -> None:
    with pytest.raises(ConfigurationError, match=f"listen='{listen}': must name a socket, such as unix"):
        Settings.load({"listen": listen})


def test_a_socket_that_somebody_listens_on_is_refused_and_a_dead_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    (tmp_path / "file").write_text("")
    refusals = {
        f"unix:{path}": "another server listens there",
        "unix-abstract:easyanim-taken": "another server listens there",
        f"unix:{tmp_path}/file": "there is a file of that name, and it is no socket",
        f"unix:{tmp_path}/absent/x": f"there is no folder {tmp_path}/absent",
        f"unix:{tmp_path}/{'x' * 107}": "the path has more than 107 bytes",
    }
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        one.bind(str(path))
        one.listen()
        other.bind("\0easyanim-taken")
        other.listen()
        for listen, reason in refusals.items():
            with pytest.raises(ConfigurationError) as caught:
                preflight.check_address(listen)
            assert str(caught.value).startswith(f"cannot listen on '{listen}' (listen): {reason}")

    preflight.check_address(f"unix:{path}")
    preflight.check_address("unix-abstract:easyanim-taken")
    assert path.is_socket()
