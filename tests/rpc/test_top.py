"""`easyanim-client top` against a real server with a simulated engine, and against scripted answers."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from easyanim_client import Client, ServerInfo, Unavailable
from easyanim_client.commands import app
from easyanim_client.results import Phase
from easyanim_client.served import DeviceStatus
from easyanim_client.top import clock, watch
from tests.conftest import Stub, request
from tests.e2e.processes import eventually
from tests.rpc.scripted import scripted_server
from tests.servers import RunningServer

CARD = DeviceStatus("a simulated card", 20 * 10**9, 80 * 10**9, 0.97, 61.0, 312.0)


def info_of(server: RunningServer) -> ServerInfo:
    with Client(server.address) as client:
        return client.info()


@pytest.fixture
def busy(simulated: RunningServer, stub: Stub) -> Iterator[RunningServer]:
    """A server with a job in its steps and another one that waits."""
    list(stub.Generate(request("a cat")))  # from then on there are ETAs
    running = stub.Generate(request("slow", step_count=100))
    assert any(event.progress.completed_count and event.progress.total_count == 100 for event in running)
    waiting = stub.Generate(request("a secret"))
    next(waiting)
    yield simulated
    waiting.cancel()
    running.cancel()
    eventually(lambda: info_of(simulated).jobs == 0)


def test_server_info_says_where_every_job_stands_and_no_prompt(busy: RunningServer) -> None:
    info = info_of(busy)

    running, waiting = info.activity
    assert (running.phase, running.jobs_ahead, running.total) == (Phase.DENOISE, 0, 100)
    assert (running.bucket, running.frames, running.steps) == ("64x96", 9, 100)
    assert running.completed >= 1
    assert running.unit_seconds is not None
    assert running.unit_seconds >= 0.2
    assert running.eta_seconds is not None
    assert running.eta_seconds > 10
    assert (waiting.phase, waiting.jobs_ahead, waiting.total, waiting.unit_seconds) == (None, 1, 0, None)
    assert waiting.elapsed_seconds > 0
    assert waiting.eta_seconds is not None
    assert running.job_id != waiting.job_id
    assert "secret" not in repr(info)
    assert info.devices == (), "the simulated worker holds no device"


def test_top_shows_the_running_step_its_eta_and_the_queue(busy: RunningServer) -> None:
    shown = CliRunner().invoke(app, ["top", "--once", "--address", busy.address], env={"COLUMNS": "110"})

    assert shown.exit_code == 0, shown.output
    running, waiting = info_of(busy).activity
    lines = shown.stdout.splitlines()
    assert "simulated:fine" in lines[0]
    assert f"● serving  {busy.address}" in lines[0]
    assert any(running.job_id in line and re.search(r"ETA \d+:\d\d", line) for line in lines)
    assert any("denoising, step" in line and "of 100" in line and "s/step" in line for line in lines)
    assert any("queue  1 of 8 places taken" in line for line in lines)
    assert any(waiting.job_id in line and "64x96" in line for line in lines)


def test_top_says_when_nothing_happens(simulated: RunningServer) -> None:
    shown = CliRunner().invoke(app, ["top", "--once", "--address", simulated.address])
    assert "nothing" in shown.stdout
    assert "nobody waits" in shown.stdout


def test_top_shows_a_devices_memory_load_temperature_and_power(simulated: RunningServer) -> None:
    shown = drawn(lambda: replace(info_of(simulated), devices=(CARD,)))
    assert "a simulated card" in shown
    assert "20.0 GB of 80.0 GB   25%" in shown
    assert "61 °C  312 W   97%" in shown


def test_a_device_that_does_not_tell_everything_is_shown_with_what_it_tells(simulated: RunningServer) -> None:
    shown = drawn(lambda: replace(info_of(simulated), devices=(replace(CARD, temperature=None, power=None),)))
    assert "97%" in shown
    assert "°C" not in shown


def test_top_on_a_terminal_redraws_in_place_until_ctrl_c_and_outlives_a_restart(simulated: RunningServer) -> None:
    answers: Iterator[Callable[[], ServerInfo]] = iter(
        [lambda: info_of(simulated), lambda: raising(Unavailable("no route")), lambda: raising(KeyboardInterrupt())]
    )
    screen = io.StringIO()
    watch(lambda: next(answers)(), "here:1", Console(file=screen, force_terminal=True, width=90), interval=0.01)

    assert "no answer, still trying: no route" in screen.getvalue()
    assert "\x1b[?1049h" in screen.getvalue(), "the alternate screen is entered"
    assert "\x1b[?1049l" in screen.getvalue(), "and left again"


def test_top_exits_with_3_where_nobody_answers() -> None:
    shown = CliRunner().invoke(app, ["top", "--address", "127.0.0.1:1"])
    assert shown.exit_code == 3


def test_an_older_server_that_tells_neither_jobs_nor_devices_can_be_watched() -> None:
    with scripted_server() as service:
        service.info.version = "0.0.9"
        shown = CliRunner().invoke(app, ["top", "--once", "--address", service.address])
    assert shown.exit_code == 0, shown.output
    assert "0.0.9" in shown.stdout


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "—"), (0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3600, "1:00:00"), (3725, "1:02:05")]
)
def test_times_are_read_like_a_clock(seconds: float | None, shown: str) -> None:
    assert clock(seconds) == shown


def test_looking_does_not_disturb_the_work(busy: RunningServer) -> None:
    threads = [threading.Thread(target=info_of, args=(busy,)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert info_of(busy).activity[0].phase is Phase.DENOISE


def drawn(look: Callable[[], ServerInfo]) -> str:
    screen = io.StringIO()
    watch(look, "here:1", Console(file=screen, width=100), once=True)
    return screen.getvalue()


def raising(error: BaseException) -> ServerInfo:
    raise error
