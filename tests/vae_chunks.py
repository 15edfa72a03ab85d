"""Videos in chunks: through our streaming network, and through the stock one."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from easyanim_server.engine.families.easyanimate_v51.vae_fast import Features, StreamingVAE
from tests.models import shared_pipeline

BY_CHANNEL = torch.channels_last_3d

has_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def chunks(x: Tensor, size: int) -> Iterator[Tensor]:
    yield x[:, :, :1]
    if x.shape[2] > 1:
        yield from x[:, :, 1:].split(size, dim=2)


def encoded(ours: StreamingVAE, video: Tensor, frames: int = 4) -> Tensor:
    features: Features = {}
    return torch.cat([ours.encode_chunk(chunk, features) for chunk in chunks(video, frames)], dim=2)


def decoded(ours: StreamingVAE, latents: Tensor, frames: int = 1) -> Tensor:
    features: Features = {}
    return torch.cat([ours.decode_chunk(chunk, features) for chunk in chunks(latents, frames)], dim=2)


def assert_close(ours: Tensor, stock: Tensor) -> None:
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-5)


def expected(video: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """What the stock encoder and decoder make of them, without the 1x1x1 convolutions between the two."""
    stock = shared_pipeline().vae
    with torch.no_grad():
        halves = []
        for half, x, frames in ((stock.encoder, video, 4), (stock.decoder, latents, 1)):
            halves.append(torch.cat([half(chunk) for chunk in chunks(x, frames)], dim=2))
            stock._clear_conv_cache()
    return halves[0], halves[1]
