"""Scales of 8-bit rows begin where cuBLAS takes them, however many text tokens come before the video's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from easyanim_server.engine.families.easyanimate_v51.block import SCALE_ALIGNMENT, scales_from


@torch.library.custom_op("easyanim_tests::misplaced", mutates_args=())
def misplaced(scale: Tensor) -> Tensor:
    """By how many bytes the scales that a product gets are beside such a place."""
    return torch.tensor(scale.data_ptr() % SCALE_ALIGNMENT)


@misplaced.register_fake
def _(scale: Tensor) -> Tensor:
    return torch.empty((), dtype=torch.int64)


def products_input(scale: Tensor, first: int) -> tuple[Tensor, Tensor]:
    rows = scales_from(scale * 2, first)
    return misplaced(rows), rows + 0.5


@pytest.mark.parametrize("texts", [256, 333, 334, 77])
@pytest.mark.parametrize("compiled", [False, True])
def test_scales_of_video_rows_begin_at_16_bytes(texts: int, compiled: bool) -> None:
    torch._dynamo.reset()
    scale = torch.rand(1, texts + 24, 1)
    run = torch.compile(products_input, fullgraph=True, dynamic=False) if compiled else products_input

    beside, rows = run(scale, texts)

    assert beside == 0
    assert torch.equal(rows, scale[:, texts:] * 2 + 0.5)
