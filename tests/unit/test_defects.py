"""Defects of diffusers' EasyAnimate port, each shown in the stock code and absent from ours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from easyanim_server.engine.engine import Engine
from easyanim_server.job import Bucket
from tests.models import (
    make_job,
    make_pipeline,
    reference,
)

TEN = Bucket(height=32, width=48, frames=10)
"""A count of frames that the VAE cannot make."""


def failing_encode() -> Iterator[None]:
    """Leave a stock VAE in the middle of an encode."""


class TestFrameCounts:
    """A count of frames that is not 4k+1 breaks deep inside the VAE, or gives another video than was asked for."""

    def test_stock_fails_without_naming_the_cause_or_makes_fewer_frames(self) -> None:
        stock, job = make_pipeline(), make_job(bucket="32x48x9", steps=1)
        object.__setattr__(job, "bucket", TEN)
        with pytest.raises(ValueError, match="non-empty list"):
            reference(stock, job)
        stock.vae._clear_conv_cache()
        object.__setattr__(job, "start", None)
        assert len(reference(stock, job)[1]) == 9

    @pytest.mark.parametrize("pictures", [0, 1])
    def test_ours_refuses_it_by_name(self, engine: Engine, pictures: int) -> None:
        job = make_job(pictures=0)
        object.__setattr__(job, "bucket", TEN)
        with pytest.raises(ValueError, match="10 frames; must be 4k"):
            engine.begin(job)
