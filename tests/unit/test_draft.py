"""Which draft is made of which video."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from easyanim.v1 import video_pb2 as pb
from easyanim_client import Bucket, InvalidRequest, ServerInfo
from easyanim_client.draft import DRAFT_STEPS, draft_arguments
from easyanim_client.messages import server_info
from tests.conftest import encode_picture

NAMES = ["768x1344", "1344x768", "384x672", "672x384", "512x512", "576x1008"]


def served(*names: str, counts: tuple[int, ...] = (25, 49)) -> ServerInfo:
    sizes = [(name, int(name.split("x")[0]), int(name.split("x")[1])) for name in names]
    return server_info(
        pb.GetServerInfoResponse(
            buckets=[pb.Bucket(name=name, width_px=w, height_px=h, frame_counts=counts) for name, h, w in sizes],
            limits=pb.Limits(max_step_count=200),
        )
    )


@pytest.mark.parametrize(
    ("final", "draft"),
    [
        ({"bucket": "768x1344"}, "384x672"),
        ({"bucket": "672x384"}, "672x384"),
        ({"bucket": "1344x768"}, "672x384"),
        ({"aspect_ratio": "9:16"}, "672x384"),
        ({"aspect_ratio": 1.0}, "512x512"),
        ({"start_image": encode_picture("JPEG", (300, 500))}, "672x384"),
        ({"start_image": encode_picture("PNG", (500, 300))}, "384x672"),
        ({}, "384x672"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_draft_is_the_smallest_bucket_of_the_finals_aspect(final: dict[str, Any], draft: str) -> None:
    drafted = draft_arguments({"prompt": "a", "seed": 3, **final}, served(*NAMES))

    assert (drafted["bucket"], drafted["aspect_ratio"], drafted["steps"]) == (draft, None, DRAFT_STEPS)
    assert (drafted["prompt"], drafted["seed"]) == ("a", 3)


def test_a_server_with_one_bucket_drafts_in_it_with_fewer_steps() -> None:
    drafted = draft_arguments({"bucket": "768x1344", "steps": 50}, served("768x1344"), steps=4)

    assert (drafted["bucket"], drafted["steps"]) == ("768x1344", 4)


@pytest.mark.parametrize(("asked", "drafted"), [(None, None), (49, 49), (25, 25), (13, 25)])
def test_a_draft_is_as_long_as_the_video_or_the_nearest_to_it(asked: int | None, drafted: int | None) -> None:
    buckets = (Bucket("768x1344", 1344, 768, (13, 25, 49)), Bucket("384x672", 672, 384, (25, 49)))
    server = dataclasses.replace(served(*NAMES), buckets=buckets)

    assert draft_arguments({"bucket": "768x1344", "frames": asked}, server)["frames"] == drafted


def test_the_drafts_bucket_can_be_named() -> None:
    assert draft_arguments({"bucket": "512x512"}, served(*NAMES), bucket="576x1008")["bucket"] == "576x1008"
    with pytest.raises(InvalidRequest, match="draft_bucket: is '1x1'; must be one of 768x1344, 1344x768"):
        draft_arguments({}, served(*NAMES), bucket="1x1")


def test_everything_that_is_wrong_with_draft_and_final_is_said_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        draft_arguments({"bucket": "9x9", "frames": 7, "steps": 201}, served(*NAMES), steps=0, bucket="1x1")

    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["bucket", "frame_count", "step_count", "draft_steps", "draft_bucket"]


@pytest.mark.parametrize(
    ("final", "words"),
    [
        ({"bucket": "100x100"}, "bucket: is '100x100'; must be one of 768x1344, 1344x768"),
        ({"frames": 13}, "frame_count: is 13; must be one of 25, 49"),
        ({"steps": 0}, "step_count: is 0; must be from 1 to 200"),
        ({"aspect_ratio": "-1"}, "must be more than 0"),
        ({"start_image": b"GIF89a"}, "its size cannot be read"),
    ],
    ids=str,
)
def test_what_the_final_cannot_have_is_said_before_a_draft_is_made(final: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        draft_arguments(final, served(*NAMES))


def test_a_bucket_of_the_results_has_what_drafts_need() -> None:
    assert served("384x672").buckets == (Bucket("384x672", 672, 384, (25, 49)),)
