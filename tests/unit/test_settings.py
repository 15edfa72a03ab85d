"""What settings refuse before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from easyanim_server.config.settings import Settings
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
