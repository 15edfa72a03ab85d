"""What callers can take of the front's memory, connections and files, measured on a process of its own."""

from __future__ import annotations

import asyncio
import gc
import io
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

import easyanim_client as ea
from easyanim.v1 import video_pb2 as pb
from tests.conftest import Stub, kinds, request
from tests.e2e.processes import eventually
from tests.http2 import MAX_CONCURRENT_STREAMS, Http2Caller
from tests.server_process import ServerProcess

MIB = 2**20
LARGEST = 8 * MIB
GENERATE = "/easyanim.v1.VideoService/Generate"
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]

FILES = 256
"""Of which about half are left for connections."""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    values = {"max_request_bytes": str(LARGEST), "receive_seconds": "1", "queue_size": "2", "max_connection_calls": "9"}
    timed = {"connection_idle_seconds": "1", "connection_age_seconds": "1", "metrics_listen": "127.0.0.1:0"}
    with ServerProcess((64, FILES), **values, **timed) as process:
        yield process


@pytest.fixture
def stub(server: ServerProcess) -> Iterator[Stub]:
    with grpc.insecure_channel(server.address, OPTIONS) as channel:
        yield Stub(channel)


class Peak:
    """The most memory that the front had in this context."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.mebibytes = 0.0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.mebibytes = max(self.mebibytes, self._server.mebibytes)


def refused(server: ServerProcess, message: bytes) -> str:
    """The code that a call on a connection of its own ends with."""
    with grpc.insecure_channel(server.address, OPTIONS) as channel, pytest.raises(grpc.RpcError) as failure:
        generate: Any = channel.unary_stream(GENERATE)  # bytes, not a message
        list(generate(message))
    return failure.value.code().name


def test_many_callers_with_large_requests_take_little_memory_at_once(server: ServerProcess) -> None:
    message = pb.GenerateRequest(prompt="x", start_image=bytes(LARGEST - 100)).SerializeToString()
    before, callers = server.mebibytes, 40
    with Peak(server) as peak, ThreadPoolExecutor(callers) as threads:
        codes = Counter(threads.map(lambda _: refused(server, message), range(callers)))
    assert set(codes) <= {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
    assert codes["INVALID_ARGUMENT"] >= 2
    assert peak.mebibytes - before < 120, "40 times 8 MiB are 320, and were there up to four times"


def test_refused_requests_leave_no_garbage_that_a_collector_must_find(server: ServerProcess) -> None:
    message = pb.GenerateRequest(prompt="x", start_image=bytes(LARGEST - 100)).SerializeToString()
    before = server.mebibytes
    for _ in range(20):
        assert refused(server, message) == "INVALID_ARGUMENT"
    eventually(lambda: server.mebibytes - before < 40)


def test_a_job_that_waits_or_runs_keeps_nothing_of_its_request_but_the_fitted_picture(
    server: ServerProcess, stub: Stub
) -> None:
    file = io.BytesIO()
    Image.frombytes("RGB", (1600, 1500), random.Random(0).randbytes(1600 * 1500 * 3)).save(
        file, "PNG", compress_level=1
    )
    large = file.getvalue()
    assert 6 * MIB < len(large) < LARGEST
    before = server.mebibytes
    calls = [stub.Generate(request("slow", step_count=200, start_image=large)) for _ in range(3)]
    for call in calls:
        assert next(call).HasField("accepted")
    eventually(lambda: server.mebibytes - before < 18)  # less than what the three were sent
    for call in calls:
        call.cancel()


def test_a_message_that_does_not_go_on_makes_room_for_others(server: ServerProcess, stub: Stub) -> None:
    with ExitStack() as callers:
        slow = [callers.enter_context(Http2Caller(server.address)) for _ in range(2)]
        for caller in slow:
            caller.begin(GENERATE, LARGEST - 100, b"\x0a" + bytes(1000))
        time.sleep(0.2)
        assert kinds(list(stub.Generate(request(), timeout=10)))[-1] == "completed"
        assert b"did not arrive within 1 s" in b"".join(caller.answer() for caller in slow)


@pytest.mark.parametrize("path", [GENERATE, "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
def test_a_message_that_never_arrives_ends_its_call(server: ServerProcess, path: str) -> None:
    with Http2Caller(server.address) as caller:
        caller.begin(path, 1000, b"")
        assert b"did not arrive within 1 s" in caller.answer()


def test_a_full_queue_refuses_before_it_reads(server: ServerProcess, stub: Stub) -> None:
    running = [stub.Generate(request("slow", step_count=200)) for _ in range(3)]
    for call in running:
        assert next(call).HasField("accepted")
    with Http2Caller(server.address) as caller:
        caller.begin(GENERATE, LARGEST - 100, b"\x0a")
        assert b"no place is free in the queue" in caller.answer()
    for call in running:
        call.cancel()


def test_inquiries_are_small(server: ServerProcess, stub: Stub) -> None:
    with grpc.insecure_channel(server.address, OPTIONS) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        large = health_pb2.HealthCheckRequest(service="x" * MIB)
        asking: tuple[Callable[[], object], ...] = (
            lambda: stub.LintPrompt(pb.LintPromptRequest(prompt="x" * MIB)),
            lambda: health.Check(large),
            lambda: next(health.Watch(large)),
        )
        for ask in asking:
            with pytest.raises(grpc.RpcError) as failure:
                ask()
            assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "must have at most" in str(failure.value.details())


def test_a_request_of_very_many_fields_is_not_parsed(server: ServerProcess) -> None:
    empty = pb.GenerateRequest(acceleration=pb.Acceleration()).SerializeToString()
    assert refused(server, empty * 1001) == "INVALID_ARGUMENT"


def test_bare_connections_cost_neither_a_job_nor_the_next_worker(server: ServerProcess, stub: Stub) -> None:
    running = stub.Generate(request("slow", step_count=10))
    assert next(running).HasField("accepted")
    host, _, port = server.address.rpartition(":")
    with ExitStack() as bare:
        for _ in range(300):
            connection = bare.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex((host, int(port)))  # the system answers, whenever the server does
        old = server.worker.pid
        server.worker.kill()
        assert kinds(list(running))[-1] == "completed"
        assert server.worker.pid != old


def test_connections_are_limited_in_calls(server: ServerProcess) -> None:
    with Http2Caller(server.address) as caller:
        assert caller.settings()[MAX_CONCURRENT_STREAMS] == 9


def test_a_connection_without_calls_is_closed(server: ServerProcess) -> None:
    with Http2Caller(server.address) as caller:
        caller.wait_for_end()


def test_a_call_outlives_the_age_of_its_connection(server: ServerProcess, stub: Stub) -> None:
    began = time.monotonic()
    assert kinds(list(stub.Generate(request("slow", step_count=7))))[-1] == "completed"
    assert time.monotonic() - began > 1.3, "older than its connection may be"


def test_a_reader_who_stops_and_leaves_is_not_worth_a_traceback(
    server: ServerProcess, capfd: pytest.CaptureFixture[str]
) -> None:
    small_windows = [("grpc.http2.lookahead_bytes", 65_535), ("grpc.http2.bdp_probe", 0)]
    for _ in range(3):
        with grpc.insecure_channel(server.address, [*OPTIONS, *small_windows]) as channel:
            call = Stub(channel).Generate(request(bucket="64x96", output_mime_type="video/x-matroska"))
            assert any(event.HasField("chunk") for event in call)
            call.cancel()
    with grpc.insecure_channel(server.address, OPTIONS) as channel:
        assert kinds(list(Stub(channel).Generate(request())))[-1] == "completed"
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(("files", "fits"), [(96 + 8 + 8, True), (96 + 8 + 7, False)])
def test_a_limit_of_files_that_leaves_nothing_for_callers_is_named(files: int, fits: bool) -> None:
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))\n"
        "from easyanim_server.rpc.connections import connection_limit\n"
        "from easyanim_server.config.settings import Settings\n"
        "print(connection_limit(Settings()))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.stdout.strip() == "8") if fits else ("at least 112 (ulimit -n)" in ended.stderr)


async def ended(client: ea.Client | ea.AsyncClient, picture: bytes) -> None:
    with pytest.raises(ea.InvalidRequest):
        generation = client.generate("x", start_image=picture)
        if isinstance(generation, ea.AsyncGeneration):
            await generation.result()
        else:
            await asyncio.to_thread(generation.result)


@pytest.mark.parametrize("kind", [ea.Client, ea.AsyncClient])
async def test_a_refused_client_keeps_no_request_that_a_collector_must_find(
    server: ServerProcess, kind: type[ea.Client] | type[ea.AsyncClient]
) -> None:
    picture = b"\x89PNG\r\n\x1a\n" + bytes(MIB)
    client = kind(server.address)
    gc.collect()
    gc.disable()
    try:
        await ended(client, picture)
        requests = [item for item in gc.get_objects() if type(item) is pb.GenerateRequest]
        assert not [item for item in requests if item.start_image == picture]
    finally:
        gc.enable()
        await asyncio.to_thread(client.close) if isinstance(client, ea.Client) else await client.close()
