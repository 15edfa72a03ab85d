"""Traces of a real server, received by a real OTLP collector; request ids; logs tied by both."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from easyanim.v1 import video_pb2 as pb
from easyanim_client import Client, InvalidRequest
from tests.conftest import Stub, request
from tests.e2e.processes import ServerCommand, client, eventually
from tests.engines import SIMULATED
from tests.servers import RunningServer, settings

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = ("traceparent", f"00-{TRACE}-{PARENT}-01")
CALL = "easyanim.v1.VideoService/Generate"
PHASES = ["text_encode", "image_encode", "denoise", "decode"]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def Export(self, request: Any, context: grpc.ServicerContext) -> trace_service_pb2.ExportTraceServiceResponse:
        self.spans += [span for of in request.resource_spans for scope in of.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def __enter__(self) -> Collector:
        self._server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.stop(None).wait()


class Traced:
    """A running server and what its collector got."""

    def __init__(self, server: RunningServer, stub: Stub, collector: Collector) -> None:
        self.address = server.address
        self.stub = stub
        assert server.app.telemetry.traces
        self._traces = server.app.telemetry.traces
        self._collector = collector

    def spans(self, trace_id: str, *expected: str) -> dict[str, Any]:
        """The spans of one trace by name, once the expected ones have come; call and job end on their own."""
        until = time.monotonic() + 10
        while True:
            self._traces._provider.force_flush()
            found = {span.name: span for span in self._collector.spans if span.trace_id.hex() == trace_id}
            if found.keys() >= set(expected):
                return found
            assert time.monotonic() < until, f"{sorted(found)} lacks some of {expected}"
            time.sleep(0.02)

    def parents(self) -> set[int]:
        """The spans that any span of the server has for parent."""
        self._traces._provider.force_flush()
        return {int(span.parent_span_id.hex() or "0", 16) for span in self._collector.spans}


@pytest.fixture(scope="module")
def traced() -> Iterator[Traced]:
    with (
        Collector() as collector,
        RunningServer(settings(otlp_endpoint=collector.endpoint), SIMULATED) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield Traced(server, Stub(channel), collector)


def attributes(span: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def test_a_call_is_one_trace_from_the_caller_through_queue_phases_and_encoding(traced: Traced, png: bytes) -> None:
    call = traced.stub.Generate(request("a slow zebra", step_count=5, start_image=png), metadata=[TRACEPARENT])
    accepted = next(call).accepted
    completed = list(call)[-1].completed

    spans = traced.spans(TRACE, CALL, "queue", *PHASES, "video_encode")
    server = spans[CALL]
    assert server.parent_span_id.hex() == PARENT
    assert attributes(server)["rpc.grpc.status_code"] == 0
    assert set(spans) == {server.name, "queue", *PHASES, "video_encode"}
    assert all(spans[name].parent_span_id == server.span_id for name in ["queue", *PHASES])
    assert spans["video_encode"].parent_span_id == spans["decode"].span_id
    measured = attributes(spans["denoise"])
    assert measured["easyanim.job_id"] == accepted.job_id
    assert (measured["easyanim.bucket"], measured["easyanim.steps"]) == ("64x96x9", 5)
    assert (measured["easyanim.backend"], measured["easyanim.precision"]) == ("simulated", "float32")
    denoise = (spans["denoise"].end_time_unix_nano - spans["denoise"].start_time_unix_nano) / 1e9
    assert denoise == pytest.approx(completed.timings.denoise_duration.ToNanoseconds() / 1e9, abs=0.4)
    order = [spans[name].start_time_unix_nano for name in ["queue", *PHASES, "video_encode"]]
    assert order == sorted(order)
    assert all(span.end_time_unix_nano >= span.start_time_unix_nano for span in spans.values())
    assert "zebra" not in "".join(map(str, spans.values())), "prompts stay out"


def test_a_failure_marks_the_call_and_the_phase_that_it_came_in(traced: Traced) -> None:
    trace_id = "a" * 32
    with pytest.raises(grpc.RpcError):
        list(
            traced.stub.Generate(
                request("instant fail in DECODE"), metadata=[("traceparent", f"00-{trace_id}-{PARENT}-01")]
            )
        )

    spans = traced.spans(trace_id, CALL, "decode")
    error = 2
    assert spans[CALL].status.code == error
    assert spans["decode"].status.code == error
    assert attributes(spans["decode"])["easyanim.reason"] == "GENERATION_FAILED"
    assert spans["denoise"].status.code != error


def test_a_job_that_is_begun_anew_has_the_spans_of_both_runs(traced: Traced) -> None:
    trace_id = "7" * 32
    with pytest.raises(grpc.RpcError):
        list(
            traced.stub.Generate(
                request("instant die in DENOISE"), metadata=[("traceparent", f"00-{trace_id}-{PARENT}-01")]
            )
        )

    traced.spans(trace_id, CALL, "denoise")
    runs = [span for span in traced._collector.spans if span.trace_id.hex() == trace_id]
    names = [span.name for span in runs if span.name != CALL]
    assert sorted(names) == sorted(["queue", "text_encode", "denoise"] * 2)
    lost = [attributes(span).get("easyanim.reason") for span in runs if span.name == "denoise"]
    assert lost == ["WORKER_LOST"] * 2


def test_a_cancelled_call_is_no_error_and_its_phases_are_there(traced: Traced) -> None:
    trace_id = "b" * 32
    call = traced.stub.Generate(
        request("slow", step_count=50), metadata=[("traceparent", f"00-{trace_id}-{PARENT}-01")]
    )
    assert any(event.progress.phase == pb.PHASE_DENOISE for event in call)
    call.cancel()

    spans = traced.spans(trace_id, "denoise")
    assert attributes(spans["denoise"])["easyanim.reason"] == "CANCELLED"
    assert spans["denoise"].status.code != 2
    assert "decode" not in spans


def test_the_clients_own_span_is_the_parent_where_the_program_traces(traced: Traced) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)  # once in a process: no other test may
    with Client(traced.address) as client, trace.get_tracer("a program").start_as_current_span("make a clip"):
        client.generate("instant", steps=2).result()
        with pytest.raises(InvalidRequest):
            client.generate("instant", steps=0).result()

    first, refused, program = exporter.get_finished_spans()
    assert first.name == refused.name == CALL
    assert first.kind is trace.SpanKind.CLIENT
    assert first.parent is not None
    assert first.parent.span_id == program.context.span_id
    assert refused.status.status_code is trace.StatusCode.ERROR
    eventually(lambda: first.context.span_id in traced.parents())


def test_the_client_needs_no_opentelemetry() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from easyanim_client import Client, tracing\n"
        "with tracing.call_span('Generate') as metadata: print(metadata)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "()", ran.stderr


def test_a_request_id_comes_back_and_one_that_is_unfit_for_logs_is_replaced(stub: Stub) -> None:
    def answered(*metadata: tuple[str, str]) -> str:
        call = stub.Generate(request(), metadata=metadata)
        list(call)
        return str(dict(call.initial_metadata())["x-request-id"])

    assert answered(("x-request-id", "order-17/3")) == "order-17/3"
    assert re.fullmatch("[0-9a-f]{32}", answered())
    assert re.fullmatch("[0-9a-f]{32}", answered(("x-request-id", "a b")))
    assert re.fullmatch("[0-9a-f]{32}", answered(("x-request-id", "a" * 129)))


def test_a_failed_call_has_its_request_id_too(stub: Stub) -> None:
    call = stub.Generate(request(step_count=0), metadata=[("x-request-id", "order-18")])
    with pytest.raises(grpc.RpcError):
        list(call)
    assert dict(call.initial_metadata())["x-request-id"] == "order-18"


def test_calls_at_the_same_time_keep_their_ids_apart(stub: Stub) -> None:
    found = {}

    def call(name: str) -> None:
        answer = stub.Generate(request(), metadata=[("x-request-id", name)])
        list(answer)
        found[name] = dict(answer.initial_metadata())["x-request-id"]

    threads = [threading.Thread(target=call, args=(f"order-{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all(name == answered for name, answered in found.items())


def test_log_lines_of_a_job_carry_request_and_trace_id() -> None:
    with ServerCommand("--model", "builtin:tiny", "--buckets", "32x48x5", "--log-format", "json") as command:
        assert client("health", "--address", command.address, "--wait", "60").returncode == 0
        with grpc.insecure_channel(command.address) as channel:
            given = [("x-request-id", "order-19"), TRACEPARENT]
            accepted = next(Stub(channel).Generate(request("a cat", step_count=1), metadata=given)).accepted
            list(Stub(channel).Generate(request("a cat", step_count=1), metadata=given))
    lines = [json.loads(line) for line in command.log.splitlines() if line.startswith("{")]
    of_the_job = [line for line in lines if line.get("request_id") == "order-19"]
    assert {line["event"] for line in of_the_job} >= {"job started", "job completed"}
    assert all(line["trace_id"] == TRACE for line in of_the_job)
    assert any(line.get("job_id") == accepted.job_id for line in of_the_job)
    assert all("request_id" not in line for line in lines if line["event"] in ("listening", "draining", "stopped"))


def test_a_fault_in_the_worker_is_logged_with_the_ids_of_its_call_and_without_the_prompt(
    capfd: pytest.CaptureFixture[str], connect: Callable[[str], Stub]
) -> None:
    with RunningServer(settings(), SIMULATED) as server, pytest.raises(grpc.RpcError):
        given = [("x-request-id", "order-20"), TRACEPARENT]
        list(connect(server.address).Generate(request("zebra instant fail in DENOISE"), metadata=given))
    log = capfd.readouterr().err
    line = next(line for line in log.splitlines() if "generation failed" in line)
    assert "order-20" in line
    assert TRACE in line
    assert "RuntimeError" in log
    assert "zebra" not in log
