"""The variable that names the server, in a shell that starts servers too."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from easyanim_client.commands import app
from easyanim_client.commands.shared import ADDRESS_VARIABLE
from easyanim_server.errors import ConfigurationError
from easyanim_server.settings import CLIENT_ADDRESS, Settings


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
