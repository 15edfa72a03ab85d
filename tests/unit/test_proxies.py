"""The proxy that stands between the client and its server, by gRPC's own rules."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from easyanim_client.commands import app
from easyanim_client.proxies import EXCEPTIONS, VARIABLES, proxy_of

PROXY = "http://127.0.0.1:9"
"""Nobody listens there, so whoever goes through it is told of its port."""

CASES: list[tuple[str, dict[str, str]]] = [
    ("localhost:7", {"http_proxy": PROXY}),
    ("localhost:7", {"https_proxy": PROXY}),
    ("localhost:7", {"grpc_proxy": PROXY, "http_proxy": "http://127.0.0.1:1"}),
    ("localhost:7", {"https_proxy": "socks5://127.0.0.1:9", "http_proxy": PROXY}),
    ("localhost:7", {"HTTP_PROXY": PROXY}),
    ("localhost:7", {"http_proxy": PROXY, "no_proxy": "localhost"}),
    ("localhost:7", {"http_proxy": PROXY, "no_proxy": "example.com, .LOCALHOST"}),
    ("localhost:7", {"http_proxy": PROXY, "no_proxy": "host"}),
    ("localhost:7", {"http_proxy": PROXY, "no_proxy": "*"}),
    ("localhost:7", {"http_proxy": PROXY, "no_proxy": "localhost", "no_grpc_proxy": "example.com"}),
    ("127.0.0.1:7", {"http_proxy": PROXY, "no_proxy": "127.0.0.0/8"}),
    ("127.0.0.1:7", {"http_proxy": PROXY, "no_proxy": "127.0.0.2"}),
    ("ipv4:127.0.0.1:7", {"http_proxy": PROXY}),
    ("dns:///localhost:7", {"http_proxy": PROXY, "no_proxy": "localhost"}),
    ("[::1]:7", {"http_proxy": PROXY, "no_proxy": "::1"}),
    ("unix:/nowhere/socket", {"http_proxy": PROXY}),
]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("address", "environment"), CASES)
def test_a_proxy_is_named_where_grpc_goes_through_it(
    monkeypatch: pytest.MonkeyPatch, address: str, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as failed:
        call: Any = channel.unary_unary("/a/b")  # bytes, not a message
        call(b"", timeout=5)

    assert (proxy_of(address) is not None) is (":9:" in str(failed.value.details()))


def test_the_command_names_the_proxy_and_not_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")

    said = CliRunner().invoke(app, ["info", "--address", "localhost:7"]).stderr

    assert "localhost:7 is reached through the proxy http://127.0.0.1:9 (http_proxy); no_proxy lists exceptions" in said
    assert "secret" not in said
    assert "proxy" not in CliRunner().invoke(app, ["info", "--address", "unix:/nowhere/socket"]).stderr


def test_an_empty_address_in_the_environment_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASYANIM_CLIENT_ADDRESS", "")

    assert "must be HOST:PORT" not in CliRunner().invoke(app, ["info"]).stderr
