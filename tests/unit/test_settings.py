"""What settings refuse before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from easyanim_server.errors import ConfigurationError
from easyanim_server.settings import Settings


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
