"""What requests leave out is what the loaded model is best asked for, and the server says what that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner

import easyanim_client as ea
from easyanim.v1 import video_pb2 as pb
from easyanim_client.commands import app
from tests.conftest import Stub
from tests.rpc.calls import REAL, accepted
from tests.servers import RunningServer, settings


@pytest.fixture(scope="module")
def demo() -> Iterator[RunningServer]:
    """The built-in model, whose small bucket is enough to be asked what it would do."""
    with RunningServer(settings(model="builtin:demo", buckets="128x128x5"), REAL) as server:
        yield server


def test_a_request_gets_the_models_own_guidance_with_every_profile(
    demo: RunningServer, connect: Callable[[str], Stub]
) -> None:
    stub = connect(demo.address)
    resolved = {name: accepted(stub, profile=name) for name in ("exact", "draft")}

    assert {name: (given.guidance_scale, given.step_count) for name, given in resolved.items()} == {
        "exact": (2.0, 35), "draft": (2.0, 9),
    }  # fmt: skip
    assert accepted(stub, guidance_scale=6.0).guidance_scale == 6.0


def test_other_models_get_what_the_published_ones_are_asked_for(stub: Stub) -> None:
    given = accepted(stub)

    assert (given.guidance_scale, given.step_count, given.bucket) == (6.0, 35, "64x96")


def test_the_server_says_what_a_request_gets_that_has_a_prompt_alone(demo: RunningServer, stub: Stub) -> None:
    with ea.Client(demo.address) as client:
        assert client.info().defaults == ea.Defaults(guidance=2.0, steps=35, bucket="128x128", frames=5)
    told = CliRunner().invoke(app, ["info", "--address", demo.address]).stdout
    assert "default   guidance 2, 35 steps, bucket 128x128, 5 frames" in told

    given, said = accepted(stub), stub.GetServerInfo(pb.GetServerInfoRequest()).defaults
    assert (said.guidance_scale, said.step_count, said.bucket, said.frame_count) == (
        given.guidance_scale, given.step_count, given.bucket, given.frame_count,
    )  # fmt: skip
