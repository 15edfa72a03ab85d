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
