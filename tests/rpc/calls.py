"""Calls that several tests make, and what they look for in the answers."""

from __future__ import annotations

import time
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from easyanim.v1 import video_pb2 as pb
from tests.conftest import Stub

D = TypeVar("D", bound=Message)


def detail(error: grpc.RpcError, kind: type[D]) -> D:
    """The google.rpc detail of one kind in a failed call's status."""
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    found = kind()
    assert any(item.Unpack(found) for item in status.details), f"no {kind.__name__} in {status}"
    return found


def wait_until_idle(stub: Stub, seconds: float = 10.0) -> float:
    """Wait until no job waits or runs; returns how long that took."""
    began = time.monotonic()
    while stub.GetServerInfo(pb.GetServerInfoRequest()).job_count:
        assert time.monotonic() - began < seconds, "a job was left behind"
        time.sleep(0.005)
    return time.monotonic() - began


SERVING = health_pb2.HealthCheckResponse.SERVING

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

SERVICE = "easyanim.v1.VideoService"


def health(address: str, service: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its methods are not typed
        return int(stub.Check(health_pb2.HealthCheckRequest(service=service)).status)


REAL = "easyanim_server.engine.engine:Engine.from_settings"


def accepted(stub: Stub, **fields: Any) -> pb.Parameters:
    """The parameters that a request is accepted with; its work is cancelled."""
    call = stub.Generate(pb.GenerateRequest(prompt="instant", **fields))
    parameters: pb.Parameters = next(call).accepted.parameters
    call.cancel()
    return parameters
