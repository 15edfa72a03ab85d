"""What the soak calls a failure, and that its hostile requests are what they are called."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from dev.load import hostile, payloads, soak
from easyanim.v1 import video_pb2 as pb

MET = {"videos": 40, "refusals": 3, "retry_seconds": [1.0], "silences": [0.5, 5.0], "failed": 0, "failures": []}


def beyond(samples: soak.Samples, met: dict[str, Any], *, alive: bool = True, stopped: float = 3.0) -> list[str]:
    rows = soak.figures(samples, met, alive, stopped)
    return [row["figure"] for row in rows if not row["kept"]]


def seen(health: float = 0.01, memory: int = 300) -> soak.Samples:
    return soak.Samples(health_seconds=[health] * 100, front_bytes=[memory * 2**20])


def test_what_is_within_every_limit_is_no_failure() -> None:
    assert beyond(seen(), MET) == []


@pytest.mark.parametrize(
    ("samples", "met", "facts", "figure"),
    [
        (seen(memory=400), MET, {}, "front's memory, MiB"),
        (seen(health=0.05), MET, {}, "health p99, ms"),
        (soak.Samples(front_bytes=[1]), MET, {}, "health p99, ms"),
        (seen(), {**MET, "silences": [0.1, 5.5]}, {}, "longest silence of an honest stream, s"),
        (seen(), {**MET, "failed": 1}, {}, "honest jobs that failed"),
        (seen(), {**MET, "videos": 0}, {}, "no honest caller got a video"),
        (seen(), MET, {"alive": False}, "server ended under the load"),
        (seen(), MET, {"stopped": 27.0}, "seconds from SIGTERM to the end"),
    ],
)
def test_each_figure_has_its_limit(samples: soak.Samples, met: dict[str, Any], facts: Any, figure: str) -> None:
    assert beyond(samples, met, **facts) == [figure]


def test_where_no_caller_was_answered_the_silence_is_beyond_all_limits_and_the_table_says_so() -> None:
    nothing = {**MET, "videos": 0, "silences": []}
    rows = soak.figures(seen(), nothing, True, 1.0)

    assert "longest silence of an honest stream, s" in beyond(seen(), nothing)
    assert "none       5.5   beyond" in soak.table(rows)


def test_the_pictures_are_such_as_decoders_take() -> None:
    scans = pb.GenerateRequest.FromString(payloads.many_scans()).start_image
    chunks = pb.GenerateRequest.FromString(payloads.many_chunks()).start_image

    assert scans.count(b"\xff\xda") > payloads.SCANS
    with Image.open(io.BytesIO(scans)) as picture:
        assert (picture.format, picture.size, picture.info["progressive"]) == ("JPEG", (1448, 1448), 1)
    assert len(chunks) > 12 * payloads.CHUNKS
    assert chunks.endswith(b"IEND\xaeB`\x82")


def test_a_hundred_callers_are_there() -> None:
    kinds = hostile.kinds("127.0.0.1:1")
    assert sum(kind.callers for kind in kinds) == 100
    assert len({kind.name for kind in kinds}) == len(kinds)
