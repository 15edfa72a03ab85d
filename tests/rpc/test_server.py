"""The server around the service: health, reflection, start, drain, information."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from easyanim.v1 import video_pb2 as pb
from easyanim_server.domain.errors import ConfigurationError, UnsupportedModel, WorkerLost
from easyanim_server.rpc import connections, video_service
from easyanim_server.rpc import server as app
from easyanim_server.rpc.server import GOODBYE_SECONDS
from easyanim_server.rpc.to_proto import to_server_info
from easyanim_server.telemetry.devices import Devices
from easyanim_server.workers.process import LocalWorker
from tests.conftest import Stub, request
from tests.e2e.processes import eventually
from tests.engines import SIMULATED
from tests.proxy import Proxy
from tests.rpc.calls import NOT_SERVING, SERVICE, SERVING, health
from tests.servers import RunningServer, settings


def test_health_is_not_serving_until_the_worker_is_warm(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with RunningServer(settings(model="simulated:waits", cache_dir=str(folder)), SIMULATED, wait=False) as server:
        assert health(server.address) == health(server.address, SERVICE) == NOT_SERVING
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as refused:
            list(Stub(channel).Generate(request()))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        folder.mkdir()
        eventually(lambda: health(server.address) == health(server.address, SERVICE) == SERVING)


def test_callers_who_ask_together_share_one_answer(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = [], threading.Event()
    read, answer = Devices.read, to_server_info

    def slow_read(self: Devices) -> Any:
        assert asked.wait(10)
        return read(self)

    def counted(*arguments: Any) -> pb.GetServerInfoResponse:
        made.append(answer(*arguments))
        return made[-1]

    monkeypatch.setattr(Devices, "read", slow_read)
    monkeypatch.setattr(video_service, "to_server_info", counted)
    calls = [stub.GetServerInfo.future(pb.GetServerInfoRequest()) for _ in range(20)]
    calls[1].cancel()
    threading.Timer(0.2, asked.set).start()

    answers = [call.result() for index, call in enumerate(calls) if index != 1]

    assert all(item.buckets == answers[0].buckets for item in answers)
    assert 1 <= len(made) < 10


def test_server_info_says_what_is_served_and_what_may_be_asked_for(stub: Stub) -> None:
    info = stub.GetServerInfo(pb.GetServerInfoRequest())

    assert info.version
    assert info.model.name == "simulated:fine"
    assert info.model.dtype == "float32"
    assert info.state == pb.STATE_SERVING
    assert [(bucket.name, list(bucket.frame_counts)) for bucket in info.buckets] == [
        ("64x96", [9]),
        ("96x64", [9]),
        ("64x64", [5]),
    ]
    assert (info.limits.max_step_count, info.limits.max_queued_count) == (200, 8)


def test_reflection_lists_the_service(simulated: RunningServer) -> None:
    with grpc.insecure_channel(simulated.address) as channel:
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        answer = next(reflection.ServerReflectionInfo(iter([ask])))
    assert SERVICE in {item.name for item in answer.list_services_response.service}


def test_reflection_can_be_switched_off() -> None:
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    with (
        RunningServer(settings(reflection="false"), SIMULATED) as server,
        grpc.insecure_channel(server.address) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        next(reflection.ServerReflectionInfo(iter([ask])))
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_stop_in_mid_stream_lets_running_and_waiting_jobs_finish_and_refuses_new_ones() -> None:
    with RunningServer(settings(), SIMULATED) as server, grpc.insecure_channel(server.address) as channel:
        stub = Stub(channel)
        running = stub.Generate(request("slow", step_count=15))
        next(running)
        waiting = stub.Generate(request())
        next(waiting)
        server.stop()
        server.wait_for("DRAINING")

        assert health(server.address) == NOT_SERVING
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.Generate(request()))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert list(running)[-1].HasField("completed")
        assert list(waiting)[-1].HasField("completed")


@pytest.mark.parametrize("second_stop", [True, False], ids=["a second stop", "the drain's limit"])
def test_a_drain_can_be_cut_short(second_stop: bool) -> None:
    limit = "900" if second_stop else "0.2"
    with (
        RunningServer(settings(drain_seconds=limit), SIMULATED) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        endless = Stub(channel).Generate(request("slow", step_count=200))
        next(endless)
        server.stop()
        if second_stop:
            server.wait_for("DRAINING")
            server.stop()
        with pytest.raises(grpc.RpcError) as cut:
            list(endless)
        assert cut.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_drain_waits_for_a_caller_that_has_not_read_its_video_yet() -> None:
    with (
        RunningServer(settings(buckets="256x256"), SIMULATED) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        # Noise in a lossless format: more bytes than the transport's windows hold.
        call = Stub(channel).Generate(request(output_mime_type="video/x-matroska"))
        next(call)
        eventually(lambda: server.app.jobs.workload.jobs == 0)
        server.stop()
        time.sleep(GOODBYE_SECONDS + 1)
        assert list(call)[-1].HasField("completed")


def test_a_worker_that_dies_in_idle_time_is_replaced_before_a_job_finds_out(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with (
        RunningServer(settings(cache_dir=str(folder)), SIMULATED) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        before = server.worker.pid
        folder.touch()  # no other worker comes up meanwhile
        os.kill(before or 0, signal.SIGKILL)
        eventually(lambda: "cannot be written" in server.app.jobs.detail)
        assert health(server.address) == NOT_SERVING
        folder.unlink()
        server.wait_for("SERVING")
        assert server.worker.pid not in (None, before)
        assert list(Stub(channel).Generate(request()))[-1].HasField("completed")


def test_a_worker_that_is_refused_after_it_was_served_once_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with (
        RunningServer(settings(cache_dir=str(folder), job_attempts="1"), SIMULATED) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        folder.touch()  # what the first worker could use is not there for the second one
        doomed = Stub(channel).Generate(request("slow die in DENOISE"))
        next(doomed)
        waiting = Stub(channel).Generate(request())
        next(waiting)
        with pytest.raises(grpc.RpcError):
            list(doomed)
        eventually(lambda: "cannot be written" in server.app.jobs.detail)
        folder.unlink()
        assert list(waiting)[-1].HasField("completed")


def test_a_model_that_is_refused_ends_the_server_with_the_reason() -> None:
    server = RunningServer(settings(model="simulated:unsupported"), SIMULATED, wait=False)
    with server:
        server._thread.join(30)
    assert isinstance(server.error, UnsupportedModel)
    assert "use simulated:fine" in str(server.error)


def test_a_worker_that_never_comes_up_ends_the_server_after_three_tries(caplog: pytest.LogCaptureFixture) -> None:
    server = RunningServer(settings(model="simulated:dies"), SIMULATED, wait=False)
    with server:
        server._thread.join(60)
    assert isinstance(server.error, WorkerLost)
    assert "exit code 9" in str(server.error)


def test_a_port_that_is_taken_is_named(simulated: RunningServer) -> None:
    server = RunningServer(settings(listen=simulated.address), SIMULATED, wait=False)
    with server:
        server._thread.join(30)
    assert isinstance(server.error, ConfigurationError)
    assert simulated.address in str(server.error)


def test_a_caller_that_vanishes_without_a_word_has_no_job_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(dict(connections.KEEPALIVE)[f"grpc.keepalive_{part}_ms"] for part in ("time", "timeout")) <= 60_000
    monkeypatch.setattr(connections, "KEEPALIVE", [(name, value // 15) for name, value in connections.KEEPALIVE])
    with (
        RunningServer(settings(), SIMULATED) as server,
        Proxy(server.address) as proxy,
        grpc.insecure_channel(proxy.address) as channel,
    ):
        call = Stub(channel).Generate(request("very slow in DENOISE", step_count=200))
        assert any(event.progress.phase == pb.PHASE_DENOISE for event in call)
        proxy.fall_silent()

        eventually(lambda: server.app.jobs.workload.jobs == 0)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix:{folder}/socket"], ids=["tcp", "unix"])
async def test_the_address_that_is_told_is_one_that_answers(tmp_path: Path, listen: str) -> None:
    configured, told = settings(listen=listen.format(folder=tmp_path)), list[str]()
    serving = asyncio.create_task(app.serve(configured, LocalWorker(configured, SIMULATED), told.append))
    while not told and not serving.done():
        await asyncio.sleep(0.01)

    assert await asyncio.to_thread(health, told[0]) in (NOT_SERVING, SERVING)
    os.kill(os.getpid(), signal.SIGTERM)
    await serving


def test_health_answers_while_the_worker_computes(stub: Stub, simulated: RunningServer) -> None:
    busy = threading.Thread(target=lambda: list(stub.Generate(request("slow", step_count=3))))
    busy.start()
    answers = [health(simulated.address) for _ in range(20)]
    busy.join()
    assert answers == [SERVING] * 20
