"""The VAE in tiles: stock's tiled decoding, sound encoding, less at once, and a way to leave."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from easyanim_server.engine.families.easyanimate_v51 import vae_tiling as tiles
from easyanim_server.engine.families.easyanimate_v51.vae import VideoAutoencoder
from easyanim_server.engine.families.easyanimate_v51.vae_tiling import STRIDE, TILE, cut, join
from tests.models import make_pipeline


@pytest.mark.parametrize("size", [(512, 512), (576, 1008), (448, 1344), (96, 960)])
@pytest.mark.parametrize("scale", [1, 8])
def test_what_is_cut_and_joined_is_what_it_was(size: tuple[int, int], scale: int) -> None:
    height, width = (pixels // scale for pixels in size)
    x = torch.rand(1, 2, 3, height, width)
    parts = [tile.clone() for tile in cut(x, scale)]

    assert all(max(part.shape[-2:]) <= TILE // scale for part in parts)
    torch.testing.assert_close(join(parts, height, width, scale), x)


def test_tiles_fade_into_one_another() -> None:
    left, right = torch.zeros(1, 1, TILE), torch.ones(1, 1, TILE)
    joined = join([left, right], 1, STRIDE + TILE - STRIDE, 1)[0, 0]

    assert joined[:STRIDE].eq(0).all()
    assert joined[STRIDE:].diff().ge(0).all()
    assert 0 < joined[STRIDE + 32] < 1


def test_a_video_of_one_tile_is_not_cut() -> None:
    assert not tiles.is_cut(512, 512)
    assert tiles.is_cut(384, 672)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 64 pixels, so that small pictures have some."""
    monkeypatch.setattr(tiles, "TILE", 64)
    monkeypatch.setattr(tiles, "STRIDE", 48)


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(1, 16, 3, 10, 16, generator=torch.Generator().manual_seed(0))


def decode(vae: VideoAutoencoder, latents: Tensor) -> list[Tensor]:
    return list(vae.decode(latents))


@pytest.mark.usefixtures("small_tiles")
def test_tiled_decoding_is_the_stock_networks(latents: Tensor) -> None:
    stock = make_pipeline().vae
    stock.enable_tiling(64, 64, tile_sample_stride_height=48, tile_sample_stride_width=48)
    with torch.no_grad():
        expected = stock.decode(latents / stock.config.scaling_factor).sample
    whole = torch.cat(decode(VideoAutoencoder(make_pipeline().vae), latents), dim=2)
    vae = VideoAutoencoder(make_pipeline().vae, tiled=lambda height, width: (height, width) == (80, 128))
    groups = decode(vae, latents)

    assert [group.shape[2] for group in groups if group.shape[2]] == [1, 4, 4]
    assert sum(not group.shape[2] for group in groups) == 3 * 6, "a chance to leave after each chunk of each tile"
    tiled = torch.cat(groups, dim=2)
    torch.testing.assert_close(tiled, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(tiled, whole, atol=1e-3), "tiles change pixels"


@pytest.mark.usefixtures("small_tiles")
def test_tiled_encoding_is_near_the_whole_and_says_how_far_it_is(latents: Tensor) -> None:
    video = torch.rand(1, 3, 5, 80, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen: list[tuple[int, int]] = []
    whole = VideoAutoencoder(make_pipeline().vae).encode(video, lambda *_: None)
    vae = VideoAutoencoder(make_pipeline().vae, tiled=lambda height, width: True)
    tiled = vae.encode(video, lambda done, total: seen.append((done, total)))

    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole), "tiles change latents"
    inside = (..., slice(1, 4), slice(1, 4))  # of the first tile, far from its edges
    assert (tiled - whole)[inside].norm() < 0.5 * whole[inside].norm()
    assert seen[0] == (0, 5)
    assert seen[-1] == (5, 5)
    assert seen == sorted(seen)


def test_slices_of_a_batch_are_what_each_video_gives_alone(latents: Tensor) -> None:
    vae = VideoAutoencoder(make_pipeline().vae)
    batch = torch.cat((latents, latents.flip(2)))
    video = torch.rand(2, 3, 5, 32, 32) * 2 - 1
    alone = [torch.cat(decode(vae, one), dim=2) for one in batch.split(1)]
    encoded = torch.cat([vae.encode(one, lambda *_: None) for one in video.split(1)])
    sliced = VideoAutoencoder(make_pipeline().vae, sliced=True)

    assert torch.equal(torch.cat(decode(sliced, batch), dim=2), torch.cat(alone))
    assert torch.equal(sliced.encode(video, lambda *_: None), encoded)
