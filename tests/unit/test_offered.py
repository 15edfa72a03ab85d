"""What a client refuses by the server's info, before anything is sent."""

from __future__ import annotations

import pytest

from easyanim.v1 import video_pb2 as pb
from easyanim_client.messages import server_info
from easyanim_client.offered import refused

BOTH = {"start_image": b"one", "end_image": b"two"}


@pytest.mark.parametrize(
    ("tasks", "arguments", "fields"),
    [
        (["text"], {"prompt": "a cat"}, []),
        (["text"], {"start_image": b"one"}, ["start_image"]),
        (["text"], BOTH, ["start_image", "end_image"]),
        (["start", "text"], BOTH, ["end_image"]),
        (["start", "start_end", "text"], BOTH, []),
        (["camera", "start"], {"start_image": None}, []),
        ([], BOTH, []),
    ],
)
def test_pictures_that_the_model_makes_nothing_of_are_named(
    tasks: list[str], arguments: dict[str, object], fields: list[str]
) -> None:
    wrong = refused(arguments, server_info(pb.GetServerInfoResponse(tasks=tasks)))

    assert [item.field for item in wrong] == fields
    assert all(", ".join(tasks) in item.description for item in wrong)


@pytest.mark.parametrize(
    ("offered", "solver", "refusals"),
    [
        (["ddim", "unipc"], "euler", ["is 'euler'; must be one of ddim, unipc"]),
        (["ddim", "unipc"], "unipc", []),
        (["ddim"], None, []),
        ([], "euler", []),
    ],
)
def test_a_solver_that_the_model_has_none_of_is_refused(
    offered: list[str], solver: str | None, refusals: list[str]
) -> None:
    wrong = refused({"solver": solver}, server_info(pb.GetServerInfoResponse(solvers=offered)))

    assert [(item.field, item.description) for item in wrong] == [("acceleration.solver", text) for text in refusals]
