"""Telemetry where something of it is missing: no driver, no OpenTelemetry."""

from __future__ import annotations

import subprocess
import sys

import pytest

from easyanim_server.job import ModelInfo, PromptTokenizer, Served
from easyanim_server.telemetry.devices import Devices

MODEL = ModelInfo("builtin:tiny", "0", 0, "original", "float32", "a card")
NO_SUCH_DEVICE = "GPU-00000000-0000-0000-0000-000000000000"


def served(*uuids: str) -> Served:
    return Served(MODEL, PromptTokenizer("", "", "", 256), device_uuids=uuids)


def test_without_a_worker_or_a_device_nothing_is_read_and_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    devices = Devices()
    assert devices.read() == ()
    devices.worker_ready(served())
    assert devices.read() == ()
    assert capsys.readouterr().out == ""


def test_a_driver_or_device_that_is_not_there_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    devices = Devices()
    devices.worker_ready(served(NO_SUCH_DEVICE))
    assert [devices.read() for _ in range(3)] == [(), (), ()]
    assert capsys.readouterr().out.count("the devices cannot be read") == 1


def test_traces_without_their_libraries_end_the_start_with_what_to_install() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from easyanim_server.__main__ import main\n"
        "sys.argv = ['easyanim-server', 'serve', '--model', 'builtin:tiny', '--otlp-endpoint', 'http://localhost:4317']\n"
        "main()"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    assert "otlp_endpoint='http://localhost:4317' needs opentelemetry" in ran.stderr
    assert "pip install 'easyanim[telemetry]'" in ran.stderr


def test_a_server_without_traces_never_loads_opentelemetry() -> None:
    program = (
        "import sys\n"
        "from easyanim_server.rpc.app import App\n"
        "print(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "False", ran.stderr
