"""The command line where one side speaks TLS and the other does not, or trusts the other's certificate not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from easyanim.v1 import video_pb2_grpc
from tests.rpc.scripted import PATIENCE, ScriptedVideoService

pytest_plugins = ("tests.rpc.callers",)

COMMAND = Path(sys.executable).parent / "easyanim-client"

# For localhost until 2126, signed by itself; it protects nothing.
KEY = b"""-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgreHom17I31rRuL0u
Ldi058ZYibLydAlULozze1j/7r2hRANCAATQ43gCFStVdvSgga68jzg4W+Yi9vjl
Pe+ErB78FRqiYZhrGBOV5IWW8gXT9c7xRGUo7hMHqLcWm17hZ4USF3Mt
-----END PRIVATE KEY-----
"""
CERTIFICATE = b"""-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUTsDdlehfYsrFAza61DVFtuRj95YwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzIzMDQxMloYDzIxMjYxMDMw
MjMwNDEyWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATQ43gCFStVdvSgga68jzg4W+Yi9vjlPe+ErB78FRqiYZhrGBOV5IWW
8gXT9c7xRGUo7hMHqLcWm17hZ4USF3Mto28wbTAdBgNVHQ4EFgQUp8rNLOdRGjih
sKF/2tG9B9mSrdswHwYDVR0jBBgwFoAUp8rNLOdRGjihsKF/2tG9B9mSrdswDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIgZQkIjsTnOK/aRKPyVgJK/Cq0/UmHOUzI2kGtGt1UIlMCIQC5
jM/mGC8sSYZReydiAMe8vS0aXQI7YEWsf5hoSFI6RQ==
-----END CERTIFICATE-----
"""


@pytest.fixture
def encrypted() -> Iterator[ScriptedVideoService]:
    """The scripted service behind TLS."""
    service = ScriptedVideoService()
    server = grpc.server(ThreadPoolExecutor(2))
    video_pb2_grpc.add_VideoServiceServicer_to_server(service, server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(KEY, CERTIFICATE)]))
    service.address = f"127.0.0.1:{port}"
    server.start()
    yield service
    server.stop(None).wait()


def command(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own, whose stderr gRPC's core writes to as well."""
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    return subprocess.run(
        [COMMAND, *words],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_tls_to_a_server_in_plain_text_is_told_to_be_left_out(scripted: ScriptedVideoService) -> None:
    result = command("info", "--tls", "--address", scripted.address)

    assert result.returncode == 3
    assert result.stderr.splitlines() == [
        "Error: the server answered without TLS",
        "  leave out --tls, unless something else than an easyanim server listens there",
    ]


@pytest.mark.parametrize("words", [["info"], ["generate", "a cat"], ["bench"]], ids=["info", "generate", "async"])
def test_plain_text_to_a_server_with_tls_is_told_of_the_option(
    encrypted: ScriptedVideoService, words: list[str]
) -> None:
    result = command(*words, "--address", encrypted.address)

    assert result.returncode == 3
    assert result.stderr.splitlines() == [
        "Error: the connection was closed before the server said anything",
        "  give --tls if the server wants TLS; through a tunnel, see whether a server runs at its other end",
    ]


def test_a_certificate_that_nobody_trusts_is_told_with_what_names_other_roots(
    encrypted: ScriptedVideoService, tmp_path: Path
) -> None:
    result = command("info", "--tls", "--address", encrypted.address)

    assert result.returncode == 3
    assert result.stderr.splitlines() == [
        "Error: the server's certificate is not trusted",
        "  --tls trusts gRPC's own roots; GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names a file with others",
    ]
    roots = tmp_path / "roots.pem"
    roots.write_bytes(CERTIFICATE)
    trusted = command("info", "--tls", "--address", encrypted.address, GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=str(roots))
    assert trusted.returncode == 0, trusted.stderr


def test_grpcs_own_lines_are_shown_to_those_who_ask_for_them(scripted: ScriptedVideoService) -> None:
    result = command("info", "--tls", "--address", scripted.address, GRPC_VERBOSITY="INFO")

    assert "ssl_transport_security" in result.stderr
