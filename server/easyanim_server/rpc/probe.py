"""The health check of a container: exits with 0 where a server on this machine is SERVING. Imports as little as it can.

    python -m easyanim_server.rpc.probe [SERVICE]

`EASYANIM_LISTEN` says where the server listens; SERVICE is a name that health knows, such as ``liveness``.
"""

from __future__ import annotations

import os
import sys

TIMEOUT_SECONDS = 5.0


def target(listen: str) -> str:
    """Where a server that listens there is reached from its own machine."""
    host, _, port = listen.rpartition(":")
    if listen.startswith("unix"):
        return listen
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"{host}:{port}"


def serving(address: str, service: str) -> bool:
    """Whether the server says SERVING for that name."""
    import grpc
    from grpc_health.v1 import health_pb2

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_SECONDS)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    listen = os.environ.get("EASYANIM_LISTEN") or "127.0.0.1:50051"
    sys.exit(not serving(target(listen), sys.argv[1] if len(sys.argv) > 1 else ""))
