"""The variable that names the server, in a shell that starts servers too."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from easyanim_client import AsyncClient, Client, InvalidRequest
from easyanim_client.commands import app
from easyanim_client.commands.shared import ADDRESS_VARIABLE
from easyanim_server.config.settings import Settings
from easyanim_server.config.sources import CLIENT_ADDRESS
from easyanim_server.domain.errors import ConfigurationError


def test_the_client_takes_its_address_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, "127.0.0.1:1")

    result = CliRunner().invoke(app, ["info"])

    assert result.exit_code == 3
    assert "127.0.0.1:1" in result.stderr


def test_a_server_does_not_take_the_clients_variable_for_a_misspelt_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, "127.0.0.1:1")

    assert CLIENT_ADDRESS == ADDRESS_VARIABLE
    Settings.load()
    monkeypatch.setenv("EASYANIM_CLIENT_ADRESS", "127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="EASYANIM_CLIENT_ADRESS"):
        Settings.load()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "address",
    ["", "localhost", ":50051", "localhost:", "localhost:http", "localhost:0", "localhost:99999", "http://x", "https://x:1",
     "x/y:1", "a b:1", "::1:50051"],
)  # fmt: skip
async def test_an_address_that_is_none_is_refused_by_both_clients(
    kind: type[Client] | type[AsyncClient], address: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        kind(address)

    assert str(caught.value) == f"address: {address!r} must be HOST:PORT, such as localhost:50051"
    assert [violation.field for violation in caught.value.violations] == ["address"]


@pytest.mark.parametrize(
    "address",
    ["localhost:50051", "gpu_1.lan:1", "10.0.0.1:65535", "[::1]:50051", "dns:///gpu:50051", "unix:/run/easyanim.sock"],
)
def test_addresses_of_hosts_and_of_grpcs_own_schemes_are_taken(address: str) -> None:
    Client(address).close()
