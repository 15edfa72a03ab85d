"""Fixtures that every kind of test shares."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import hypothesis
import pytest
import structlog
from PIL import Image

from easyanim.v1 import video_pb2 as pb
from easyanim.v1 import video_pb2_grpc
from tests.engines import SIMULATED
from tests.servers import RunningServer, settings

# Tests and their servers compute at the same time: threads that spin while they wait would starve each other.
# Before anything brings torch, and inherited by every process that a test starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A machine that does something else for a moment makes no example wrong.
hypothesis.settings.register_profile("default", hypothesis.settings.get_profile("default"), deadline=None)

Stub = video_pb2_grpc.VideoServiceStub


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    """A command that a test runs in this process configures logging for the whole process; undone afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def simulated() -> Iterator[RunningServer]:
    """A server whose engine is simulated, for tests that leave it as they found it."""
    with RunningServer(settings(), SIMULATED) as server:
        yield server


@pytest.fixture
def connect() -> Iterator[Callable[[str], Stub]]:
    """Opens channels that are closed with the test."""
    channels = []

    def open_channel(address: str) -> Stub:
        channels.append(grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]))
        return Stub(channels[-1])

    yield open_channel
    for channel in channels:
        channel.close()


@pytest.fixture
def stub(simulated: RunningServer, connect: Callable[[str], Stub]) -> Stub:
    return connect(simulated.address)


@pytest.fixture(scope="session")
def png() -> bytes:
    """A picture of 96 x 64 pixels."""
    return encode_picture("PNG")


def encode_picture(form: str, size: tuple[int, int] = (96, 64), mode: str = "RGB") -> bytes:
    gradient = Image.linear_gradient("L").resize(size)
    picture = gradient.convert(mode) if mode != "P" else gradient.convert("RGB").quantize(16)
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()


def request(prompt: str = "instant", **fields: Any) -> pb.GenerateRequest:
    """A request that the simulated engine answers at once."""
    return pb.GenerateRequest(prompt=prompt, **{"step_count": 3, **fields})


def kinds(events: list[pb.GenerateResponse]) -> list[str]:
    return [event.WhichOneof("event") or "" for event in events]
