"""`easyanim-client health`, and servers that cannot be reached."""

from __future__ import annotations

import threading

import pytest
from typer.testing import CliRunner

from easyanim_client.commands import app
from tests.rpc.command import Command
from tests.rpc.scripted import (
    PATIENCE,
    ScriptedVideoService,
)


def test_health_exits_with_0_while_serving_and_with_3_otherwise(run: Command, scripted: ScriptedVideoService) -> None:
    assert (run("health").exit_code, run("health").stdout) == (0, "serving\n")

    scripted.report_health(False)
    assert (run("health").exit_code, run("health").stdout) == (3, "not serving\n")


def test_health_waits_until_the_server_serves(run: Command, scripted: ScriptedVideoService) -> None:
    scripted.report_health(False)
    threading.Timer(0.2, scripted.report_health, [True]).start()

    assert run("health", "--wait", str(PATIENCE)).exit_code == 0


def test_a_server_that_is_not_there_gives_exit_code_3() -> None:
    for words in (["health"], ["health", "--wait", "0.6"], ["info"], ["generate", "a cat"]):
        result = CliRunner().invoke(app, [*words, "--address", "127.0.0.1:1"])
        assert result.exit_code == 3
        assert result.stderr.startswith("Error: ")
        assert "easyanim-server serve starts one; --address or EASYANIM_CLIENT_ADDRESS says where" in result.stderr


@pytest.mark.parametrize("address", ["", "localhost", "http://localhost:50051"])
def test_an_address_that_is_none_is_refused_before_anybody_is_asked(address: str) -> None:
    result = CliRunner().invoke(app, ["info", "--address", address], env={"COLUMNS": "200"})

    assert result.exit_code == 2
    assert f"{address!r} must be HOST:PORT, such as localhost:50051" in result.stderr
