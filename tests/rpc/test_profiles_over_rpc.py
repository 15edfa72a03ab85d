"""What callers ask of profiles and accelerators reaches the engine, and what it did comes back."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import easyanim_client as ea
from easyanim.v1 import video_pb2 as pb
from easyanim_client.commands import app
from easyanim_client.metadata import find_comment
from tests.conftest import Stub, request
from tests.rpc.calls import REAL, accepted
from tests.servers import RunningServer, settings

CACHED: dict[str, Any] = {"cache_threshold": 10.0, "solver": "unipc"}
"""A threshold that all but the first and the last step stay under."""


@pytest.fixture(scope="module")
def tiny() -> Iterator[RunningServer]:
    """A server with the built-in model, whose default is `fast`."""
    with RunningServer(settings(model="builtin:tiny", buckets="32x48x5", default_profile="fast"), REAL) as server:
        yield server


def resolved(given: pb.Parameters) -> tuple[object, ...]:
    return (
        given.profile,
        given.step_count,
        given.solver,
        given.cache_threshold,
        given.guidance_start,
        given.guidance_end,
    )


def test_a_request_without_any_is_exact_as_it_always_was(stub: Stub) -> None:
    assert resolved(accepted(stub)) == ("exact", 35, "euler", 0.0, 0.0, 1.0)


def test_a_profile_sets_what_the_server_says_that_it_sets(stub: Stub) -> None:
    info = stub.GetServerInfo(pb.GetServerInfoRequest())
    profiles = info.profiles

    assert list(info.tasks) == ["start", "start_end", "text"]

    assert [profile.name for profile in profiles] == ["exact", "balanced", "fast", "draft"]
    assert [profile.is_default for profile in profiles] == [True, False, False, False]
    for profile in profiles:
        sets = profile.acceleration
        values = sets.solver, sets.cache_threshold, sets.guidance_start, sets.guidance_end
        assert resolved(accepted(stub, profile=profile.name)) == (profile.name, profile.step_count, *values)


def test_what_a_request_says_goes_before_its_profile(stub: Stub) -> None:
    own = pb.Acceleration(cache_threshold=0.2, guidance_start=0.1)

    assert resolved(accepted(stub, profile="fast", step_count=12, acceleration=own)) == (
        "fast", 12, "unipc", 0.2, 0.1, 1.0,
    )  # fmt: skip


def test_a_servers_default_profile_is_for_requests_that_name_none(
    tiny: RunningServer, connect: Callable[[str], Stub]
) -> None:
    stub = connect(tiny.address)

    assert resolved(accepted(stub))[:3] == ("fast", 20, "unipc")
    assert resolved(accepted(stub, profile="exact")) == ("exact", 35, "euler", 0.0, 0.0, 1.0)


def test_reused_steps_are_in_progress_receipt_and_file(tiny: RunningServer, connect: Callable[[str], Stub]) -> None:
    given = request(step_count=6, acceleration=pb.Acceleration(**CACHED, guidance_end=0.5), profile="exact")
    events = list(connect(tiny.address).Generate(given))

    denoised = [event.progress for event in events if event.progress.phase == pb.PHASE_DENOISE]
    assert denoised[-1].reused_step_count == 4
    assert [item.reused_step_count for item in denoised] == sorted(item.reused_step_count for item in denoised)
    receipt = events[-1].completed.receipt
    assert (receipt.profile, receipt.reused_step_count, receipt.prediction_count) == ("exact", 4, 3)
    assert list(receipt.cache_coefficients) == [0, 0, 0, 1, 0]

    recorded = json.loads(find_comment(io.BytesIO(b"".join(event.chunk.data for event in events))) or "")["receipt"]
    assert (recorded["reused_step_count"], recorded["prediction_count"]) == (4, 3)
    assert recorded["parameters"]["cache_threshold"] == 10.0


def test_exact_makes_two_predictions_a_step_and_says_so(tiny: RunningServer, connect: Callable[[str], Stub]) -> None:
    receipt = list(connect(tiny.address).Generate(request(step_count=3, profile="exact")))[-1].completed.receipt

    assert (receipt.prediction_count, receipt.reused_step_count) == (6, 0)
    assert not receipt.cache_coefficients


def test_the_client_asks_for_all_of_it_and_reads_it_back(tiny: RunningServer) -> None:
    with ea.Client(tiny.address) as client:
        video = client.generate(
            "a cat", steps=4, profile="draft", guidance_interval=(0.25, 0.75), format="mkv", seed=1, **CACHED
        ).result()
        named = client.info().profiles

    made = video.receipt.parameters
    assert (made.profile, made.steps, made.solver, made.cache_threshold) == ("draft", 4, "unipc", 10.0)
    assert made.guidance_interval == (0.25, 0.75)
    assert (video.receipt.reused_steps, video.receipt.predictions) == (1, 4)
    assert [profile.name for profile in named if profile.is_default] == ["fast"]


def test_the_command_line_makes_and_replays_an_accelerated_video(
    tiny: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, [*words, "--address", tiny.address])
        assert result.exit_code == 0, result.output
        return result.output

    said = run("generate", "a cat", "--profile", "draft", "--solver", "dpmpp_2m", "--cache-threshold", "10",
               "--guidance-interval", "0:0.5", "--steps", "4", "--embed-prompt", "--out", "cat.mp4")  # fmt: skip

    assert "4 steps" in said
    assert "profile draft" in said
    again = run("replay", "cat.mp4", "--quiet")
    assert "latents  the same" in again
    assert "bytes    the same" in again
    assert "fast: 20 steps, unipc (default)" in run("info")


@pytest.mark.parametrize("interval", ["0.5", "a:b", "0:1:2", (0.1,)])
def test_an_interval_of_another_form_is_refused_before_it_is_sent(interval: object) -> None:
    with (
        ea.Client("localhost:1") as client,
        pytest.raises(ea.InvalidRequest, match=r"must be two numbers or look like"),
    ):
        client.generate("a cat", guidance_interval=interval)  # type: ignore[arg-type]
