"""What shapes follow from a model's compression."""

from __future__ import annotations

import pytest

from easyanim_server.domain.job import Bucket
from easyanim_server.domain.shape import Geometry

OTHER = Geometry(temporal=8, spatial=4, patch=3, latent_channels=6, max_frames=33)
"""None of its numbers is EasyAnimate V5.1's."""


def test_latents_and_tokens_follow_from_the_geometry_alone() -> None:
    shape = Bucket(24, 48, 17)

    assert OTHER.latent_shape(shape) == (6, 3, 6, 12)
    assert OTHER.video_tokens(shape) == 3 * 2 * 4
    assert (OTHER.size_multiple, OTHER.frame_form, OTHER.frames_of(3)) == (12, "8k+1", 17)


def test_a_bucket_is_read_by_the_geometry_that_it_is_for() -> None:
    assert Bucket.parse("24x48", OTHER) == Bucket(24, 48, 33)
    assert Bucket.parse("24x48x9", OTHER) == Bucket(24, 48, 9)
    for text, wrong in {
        "16x48x9": "height 16 must be a positive multiple of 12",
        "24x50x9": "width 50 must be a positive multiple of 12",
        "24x48x5": "5 frames; must be 8k\\+1, from 1 to 33",
        "24x48x41": "41 frames; must be 8k\\+1, from 1 to 33",
    }.items():
        with pytest.raises(ValueError, match=f"bucket '{text}': {wrong}"):
            Bucket.parse(text, OTHER)


def test_without_a_geometry_a_bucket_names_its_frames() -> None:
    assert Bucket.parse("25x50x7") == Bucket(25, 50, 7)
    assert Bucket.parse("25x50", frames=7) == Bucket(25, 50, 7)
    with pytest.raises(ValueError, match="'25x50' must name its frames"):
        Bucket.parse("25x50")
    with pytest.raises(ValueError, match="width 0 must be positive"):
        Bucket.parse("25x0x7")
