"""A server command among hostile surroundings: outputs that nobody reads, signals, a worker that stands still."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from easyanim_server.rpc.probe import serving, target
from easyanim_server.telemetry.output import HELD_BYTES
from tests.conftest import Stub, request
from tests.e2e.processes import ROOT, eventually

PROGRAM = """
import sys
from easyanim_server.cli.app import main
from easyanim_server.cli.commands import serve
from easyanim_server.workers.process import LocalWorker
serve.LocalWorker = lambda settings: LocalWorker(settings, "tests.engines:SimulatedEngine.load")
sys.argv = ["easyanim-server", "serve", "--model", "builtin:tiny", "--buckets", "64x64x5", "--listen", sys.argv[1],
            "--idle-stall-seconds", "2", "--log-level", "debug"]
main()
"""


class Operated:
    """A server with the simulated engine, whose stdout and stderr are one pipe that is full and that nobody reads."""

    def __init__(self, folder: Path) -> None:
        self.address = f"unix:{folder}/socket"
        self.output, sink = os.pipe()
        fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(sink, False)
        with suppress(BlockingIOError):
            while os.write(sink, b"x" * 512):
                pass
        os.set_blocking(sink, True)
        words = [sys.executable, "-c", PROGRAM, self.address]
        self.process = subprocess.Popen(words, stdout=sink, stderr=sink, cwd=ROOT)
        os.close(sink)
        self.channel = grpc.insecure_channel(self.address)
        self.stub = Stub(self.channel)

    def health(self, service: str = "") -> str:
        ask = health_pb2.HealthCheckRequest(service=service)
        try:
            health: Any = health_pb2_grpc.HealthStub(self.channel)  # its methods are not typed
            answer = health.Check(ask, timeout=10, wait_for_ready=True)
        except grpc.RpcError as error:
            return error.code().name
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    @property
    def worker(self) -> int:
        children = psutil.Process(self.process.pid).children()
        return int(max(children, key=lambda child: child.memory_info().rss).pid)


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    server = Operated(tmp_path_factory.mktemp("server"))
    try:
        eventually(lambda: server.health() == "SERVING", 60)
        yield server
    finally:
        server.channel.close()
        server.process.kill()
        server.process.wait()
        os.close(server.output)


def test_outputs_that_nobody_reads_stop_neither_the_front_nor_the_worker(operated: Operated) -> None:
    for _ in range(30):  # each writes some lines in both processes
        assert list(operated.stub.Generate(request("instant", bucket="64x64"), timeout=30))[-1].HasField("completed")
    assert operated.health() == "SERVING"


def test_a_light_probe_answers_for_readiness_and_liveness(operated: Operated) -> None:
    assert serving(target(operated.address), "")
    assert serving(target(operated.address), "liveness")
    assert not serving(target(operated.address), "absent")
    assert [target(name) for name in ("0.0.0.0:1", "[::]:2", "10.0.0.7:3")] == ["127.0.0.1:1", "[::1]:2", "10.0.0.7:3"]


def test_a_burst_is_answered_by_the_server_and_not_by_grpc(operated: Operated) -> None:
    with ExitStack() as open_channels:
        apart = [("grpc.use_local_subchannel_pool", 1)]
        channels = [open_channels.enter_context(grpc.insecure_channel(operated.address, apart)) for _ in range(8)]
        for channel in channels:
            grpc.channel_ready_future(channel).result(60)
        os.kill(operated.process.pid, signal.SIGSTOP)  # so that all calls are there at once
        try:
            calls = [Stub(channel).Generate(request(""), timeout=60) for channel in channels for _ in range(50)]
            time.sleep(0.5)
        finally:
            os.kill(operated.process.pid, signal.SIGCONT)
        assert Counter(call.code() for call in calls) == {grpc.StatusCode.INVALID_ARGUMENT: len(calls)}


def test_an_idle_worker_that_stands_still_does_not_show_serving_and_is_replaced(operated: Operated) -> None:
    before = operated.worker
    os.kill(before, signal.SIGSTOP)
    eventually(lambda: operated.health() == "NOT_SERVING", 60)
    assert operated.health("liveness") == "SERVING"
    eventually(lambda: operated.health() == "SERVING", 60)
    assert operated.worker != before


def test_a_hangup_drains_however_often_it_comes_and_the_process_ends_though_nobody_reads(operated: Operated) -> None:
    running = operated.stub.Generate(request("slow", bucket="64x64", step_count=8), timeout=60)
    next(running)
    for _ in range(2):
        operated.process.send_signal(signal.SIGHUP)
    eventually(lambda: operated.health() == "NOT_SERVING")
    assert operated.health("liveness") == "SERVING"
    assert list(running)[-1].HasField("completed")
    assert operated.process.wait(30) == 0


def test_lines_that_were_dropped_are_counted_and_told_once_somebody_reads() -> None:
    program = (
        "import os, sys, time\n"
        "from easyanim_server.telemetry import output\n"
        "from easyanim_server.telemetry.log import configure_logging\n"
        "configure_logging('json', 'info')\n"
        "output.keep_writable()\n"
        f"for _ in range({2 * HELD_BYTES} // 1024): os.write(2, b'y' * 1023 + b'\\n')\n"
        "while not (dropped := output.dropped_lines()): time.sleep(0.01)\n"
        "os.write(1, b'written\\n')\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"written\n"  # stderr is full, and nothing stands still
        while b"lines were dropped" not in (line := process.stderr.readline()):
            assert line
        process.communicate()
    assert b'"lines": ' in line
    assert process.returncode == 0


def test_the_worker_s_lines_have_colours_on_a_terminal_as_the_front_s_have(tmp_path: Path) -> None:
    here, terminal = pty.openpty()
    words = [sys.executable, "-c", PROGRAM, f"unix:{tmp_path}/socket"]
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=terminal, cwd=ROOT, env=environment) as process:
        os.close(terminal)
        with os.fdopen(here, "r", errors="replace") as lines:
            worker = next(line for line in lines if "worker ready" in line)
        process.kill()

    assert "\x1b[1mworker ready" in worker


@pytest.mark.parametrize(("chosen", "colours"), [({}, "True"), ({"NO_COLOR": "1"}, "False")])
def test_who_wants_no_colours_gets_none(chosen: dict[str, str], colours: str) -> None:
    here, terminal = pty.openpty()
    code = "from easyanim_server.telemetry.log import coloured; print(coloured())"
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | chosen
    said = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=terminal, env=environment)
    os.close(terminal)
    os.close(here)

    assert said.stdout.decode().strip() == colours


def test_a_cuda_device_that_is_not_there_ends_the_command_before_it_listens() -> None:
    command = [sys.executable, "-m", "easyanim_server", "serve", "--model", "builtin:tiny", "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    for device, words in (("cuda", "this machine has 0 CUDA devices"), ("gpu", "must be auto, cpu, cuda or cuda:N")):
        run = [*command, "--device", device]
        ran = subprocess.run(run, capture_output=True, text=True, timeout=60, env=environment)
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
        assert words in ran.stderr
