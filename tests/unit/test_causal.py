"""The streaming VAE against the stock network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLMagvit
from torch import nn

from easyanim_server.engine.families.easyanimate_v51.vae import VideoAutoencoder
from easyanim_server.engine.families.easyanimate_v51.vae_fast import Features, StreamingVAE, fastest_on_cpu
from easyanim_server.engine.kernels import vae_ops as pointwise
from tests.models import Broken, breaking, make_pipeline, shared_pipeline
from tests.vae_chunks import assert_close, chunks, decoded, encoded, expected, has_triton, random

LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]
SIZES = [(32, 48), (8, 8), (40, 24)]


@pytest.fixture
def network() -> AutoencoderKLMagvit:
    return make_pipeline().vae


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("frames", [1, 5, 13])
def test_chunks_of_any_length_equal_the_stock_network(
    network: AutoencoderKLMagvit, layout: torch.memory_format, size: tuple[int, int], frames: int
) -> None:
    height, width = size
    video = random(1, 3, frames, height, width)
    latents = random(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
    moments, pixels = expected(video, latents)
    ours = StreamingVAE(network, layout=layout)

    for groups in (1, 2, 12):
        assert_close(encoded(ours, video, 4 * groups), moments)
        assert_close(decoded(ours, latents, groups), pixels)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_convolutions_of_frames_sum_to_those_of_videos(network: AutoencoderKLMagvit, size: tuple[int, int]) -> None:
    height, width = size
    video, latents = random(2, 3, 13, height, width), random(2, 16, 4, height // 8, width // 8)
    moments, pixels = expected(video, latents)
    ours = StreamingVAE(network, **fastest_on_cpu(torch.float32))

    for groups in (1, 3):
        assert_close(encoded(ours, video, 4 * groups), moments)
        assert_close(decoded(ours, latents, groups), pixels)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_videos_of_a_batch_do_not_mix(network: AutoencoderKLMagvit, layout: torch.memory_format) -> None:
    video, latents = random(2, 3, 9, 16, 24), random(2, 16, 3, 2, 3)
    moments, pixels = expected(video, latents)
    ours = StreamingVAE(network, layout=layout)

    assert_close(encoded(ours, video), moments)
    assert_close(decoded(ours, latents), pixels)


def test_on_a_cpu_every_bit_is_stock(network: AutoencoderKLMagvit) -> None:
    video, latents = random(1, 3, 13, 32, 48), random(1, 16, 4, 4, 6)
    ours = StreamingVAE(network)

    for groups in (1, 3):
        results = encoded(ours, video, 4 * groups), decoded(ours, latents, groups)
        assert all(map(torch.equal, results, expected(video, latents)))


def test_features_belong_to_their_video(network: AutoencoderKLMagvit) -> None:
    ours = StreamingVAE(network)
    videos = [random(1, 16, 4, 2, 3, seed=seed) for seed in range(2)]
    alone = [decoded(ours, video) for video in videos]

    features: list[Features] = [{}, {}]
    turns = [
        [ours.decode_chunk(chunk, left) for chunk, left in zip(both, features, strict=True)]
        for both in zip(*(chunks(video, 1) for video in videos), strict=True)
    ]

    together = [torch.cat(parts, dim=2) for parts in zip(*turns, strict=True)]
    assert all(map(torch.equal, together, alone))


def test_features_are_two_frames_at_most_and_hold_no_chunk(network: AutoencoderKLMagvit) -> None:
    features: Features = {}
    ours = StreamingVAE(network)
    for chunk in chunks(random(1, 3, 9, 16, 16), 8):
        ours.encode_chunk(chunk, features)

    strided = {conv for conv in features if isinstance(conv, nn.Conv3d) and conv.stride[0] == 2}

    assert len(strided) == 2
    for conv, feature in features.items():
        assert feature.shape[2] == (1 if conv in strided else 2)
        assert feature.untyped_storage().nbytes() == feature.numel() * feature.element_size()


def test_a_failure_in_one_video_leaves_the_others_alone(network: AutoencoderKLMagvit) -> None:
    ours = StreamingVAE(network)
    latents = random(1, 16, 3, 2, 3)
    alone = decoded(ours, latents)

    features: Features = {}
    first, *rest = chunks(latents, 1)
    frames = [ours.decode_chunk(first, features)]
    with breaking(network.decoder.up_blocks[1]), pytest.raises(Broken):
        decoded(ours, random(1, 16, 3, 4, 4))
    frames += [ours.decode_chunk(chunk, features) for chunk in rest]

    assert torch.equal(torch.cat(frames, dim=2), alone)


def test_hooks_on_every_stock_module_see_the_chunk(network: AutoencoderKLMagvit) -> None:
    watched = (nn.Conv3d, type(network.decoder.mid_block), type(network.decoder.up_blocks[0]), type(network.decoder))
    inside = [module for module in network.decoder.modules() if isinstance(module, watched)]
    seen: dict[nn.Module, tuple[int, ...]] = {}
    for module in inside:
        module.register_forward_pre_hook(lambda module, given: seen.update({module: tuple(given[0].shape)}))

    StreamingVAE(network).decode_chunk(random(1, 16, 1, 2, 3), {})

    assert seen.keys() == set(inside)
    assert seen[network.decoder] == (1, 16, 1, 2, 3)
    assert seen[network.decoder.up_blocks[3]] == (1, 32, 1, 16, 24)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_stock_network_is_not_changed(network: AutoencoderKLMagvit, layout: torch.memory_format) -> None:
    stock = shared_pipeline().vae
    ours = StreamingVAE(network, layout=layout)
    encoded(ours, random(1, 3, 5, 8, 8))
    decoded(ours, random(1, 16, 2, 1, 1))

    features = [module.prev_features for module in network.modules() if hasattr(module, "prev_features")]
    weights = network.state_dict()

    assert features == [None] * len(features)
    assert weights.keys() == stock.state_dict().keys()
    assert all(torch.equal(weights[name], weight) for name, weight in stock.state_dict().items())


@pytest.mark.parametrize("changed", [{"spatial_group_norm": False}, {"act_fn": "gelu"}], ids=str)
def test_a_network_that_cannot_run_in_chunks_is_refused(changed: dict[str, object]) -> None:
    other = AutoencoderKLMagvit(block_out_channels=(8, 8, 8, 8), norm_num_groups=4, **changed)

    with pytest.raises(ValueError, match=next(iter(changed))):
        StreamingVAE(other)


def test_paths_are_equal(network: AutoencoderKLMagvit) -> None:
    video, latents = random(1, 3, 13, 32, 48), random(1, 16, 4, 4, 6)
    stock, fast = (VideoAutoencoder(network, path=path) for path in ("stock", "fast"))

    assert_close(fast.encode(video, lambda *_: None), stock.encode(video, lambda *_: None))
    for ours, theirs in zip(fast.decode(latents), stock.decode(latents), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("path", ["stock", "fast"])
def test_larger_chunks_leave_in_the_same_groups(network: AutoencoderKLMagvit, path: str) -> None:
    video, latents = random(1, 3, 25, 16, 16), random(1, 16, 7, 2, 2)
    small = VideoAutoencoder(network)
    large = VideoAutoencoder(network, path=path, sample_frames=16, latent_frames=4)  # type: ignore[arg-type]
    seen: list[int] = []

    groups = list(large.decode(latents))

    assert [group.shape[2] for group in groups] == [1] + [4] * 6
    assert_close(torch.cat(groups, dim=2), torch.cat(list(small.decode(latents)), dim=2))
    assert_close(large.encode(video, lambda done, _: seen.append(done)), small.encode(video, lambda *_: None))
    assert seen == [0, 1, 17, 25]


@pytest.mark.parametrize("sizes", [{"sample_frames": 6}, {"sample_frames": 0}, {"latent_frames": 0}], ids=str)
def test_chunks_that_the_network_cannot_cut_are_refused(network: AutoencoderKLMagvit, sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(sizes))):
        VideoAutoencoder(network, **sizes)


@pytest.mark.gpu
@has_triton
@pytest.mark.parametrize("way", ["eager", "triton"])
def test_the_network_equals_stock_on_a_gpu(network: AutoencoderKLMagvit, way: pointwise.Way) -> None:
    video, latents = random(1, 3, 13, 64, 96), random(1, 16, 4, 8, 12)
    moments, pixels = expected(video, latents)
    ours = StreamingVAE(network.to("cuda"), way)

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for groups in (1, 3):
            torch.testing.assert_close(encoded(ours, video.cuda(), 4 * groups).cpu(), moments, rtol=0, atol=1e-4)
            torch.testing.assert_close(decoded(ours, latents.cuda(), groups).cpu(), pixels, rtol=0, atol=1e-4)
