"""Telemetry where something of it is missing: no driver, no OpenTelemetry."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pynvml
import pytest

from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.domain.model import ModelInfo, PromptTokenizer, WorkerInfo
from easyanim_server.telemetry import traces
from easyanim_server.telemetry.devices import Devices
from easyanim_server.telemetry.traces import Traces

MODEL = ModelInfo("builtin:tiny", "0", 0, "original", "float32", "a card")
NO_SUCH_DEVICE = "GPU-00000000-0000-0000-0000-000000000000"


def served(*uuids: str) -> WorkerInfo:
    return WorkerInfo(MODEL, PromptTokenizer("", "", "", 256), device_uuids=uuids, capabilities=EASYANIMATE_V51)


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


class SimulatedDriver:
    """Stands for NVIDIA's library, which this machine lacks; it answers unless it is made to hang."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.asked = 0
        self.used = 10
        patch.setattr(pynvml, "nvmlInit", lambda: None)
        patch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
        patch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", self._memory)
        patch.setattr(pynvml, "nvmlDeviceGetTemperature", lambda handle, sensor: 40)
        patch.setattr(pynvml, "nvmlDeviceGetPowerUsage", lambda handle: 70_000)
        patch.setattr(pynvml, "nvmlDeviceGetIndex", lambda handle: 0)
        patch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: "a card")
        patch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", lambda handle: SimpleNamespace(gpu=50))

    def _memory(self, handle: str) -> SimpleNamespace:
        self.asked += 1
        self.answers.wait(20)  # so that a test which waits for it fails, and does not stand still
        return SimpleNamespace(used=self.used, total=100)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedDriver]:
    simulated = SimulatedDriver(monkeypatch)
    yield simulated
    simulated.answers.set()
    for thread in threading.enumerate():
        if thread.name == "devices":
            thread.join(30)


def test_a_driver_that_hangs_holds_one_thread_and_callers_get_the_last_values(
    driver: SimulatedDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    devices = Devices()
    devices.worker_ready(served("GPU-1"))
    before = devices.read()
    driver.answers.clear()
    asked = driver.asked

    with ThreadPoolExecutor(2) as pool:
        during = list(pool.map(lambda _: devices.read(), range(6)))
    assert (driver.asked, [thread.name for thread in threading.enumerate()].count("devices")) == (asked + 1, 1)
    driver.used = 20
    driver.answers.set()

    assert [device.memory_used for device in before] == [10]
    assert during == [before] * 6
    assert capsys.readouterr().out.count("the driver does not answer") == 1
    until = time.monotonic() + 30
    while devices.read()[0].memory_used != 20:
        assert time.monotonic() < until, "the driver is asked no more"


def test_a_new_worker_does_not_wait_for_a_driver_that_hangs(driver: SimulatedDriver) -> None:
    devices = Devices()
    devices.worker_ready(served("GPU-1"))
    driver.answers.clear()
    devices.read()

    devices.worker_ready(served("GPU-2"))

    assert devices.read() == (), "another worker's values are not its own"


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
    assert "pip install '.[telemetry]' in a clone of easyanim" in ran.stderr


def test_a_server_without_traces_never_loads_opentelemetry() -> None:
    program = (
        "import sys\n"
        "from easyanim_server.rpc.server import App\n"
        "print(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "False", ran.stderr


def test_a_collector_that_is_away_holds_up_the_end_for_no_longer_than_it_may(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sent = Traces.to(f"http://127.0.0.1:{silent.getsockname()[1]}")
        span, _ = sent.begin_call("Generate", {})
        sent.end_call(span, "OK", 0)
        began = time.monotonic()
        sent.close()

    assert time.monotonic() - began < 2 * traces.GOODBYE_SECONDS + 5
    assert "the collector does not take the last traces" in capsys.readouterr().out
