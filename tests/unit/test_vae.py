from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import AutoencoderKLMagvit
from diffusers.video_processor import VideoProcessor
from torch import Tensor

from easyanim_server.engine.families.easyanimate_v51.vae import VideoAutoencoder
from easyanim_server.engine.pixels import to_uint8
from tests.models import Broken, breaking, make_pipeline, shared_pipeline

FRAME_COUNTS = [1, 5, 9, 13]


def a_video(frames: int = 9, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, frames, 32, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def some_latents(frames: int = 9, seed: int = 0) -> Tensor:
    return torch.randn(1, 16, (frames - 1) // 4 + 1, 4, 6, generator=torch.Generator().manual_seed(seed))


def unobserved(done: int, total: int) -> None:
    pass


def encoded(vae: VideoAutoencoder, seed: int = 0) -> Tensor:
    return vae.encode(a_video(seed=seed), unobserved)


def decoded(vae: VideoAutoencoder, frames: int = 9, seed: int = 0) -> Tensor:
    return torch.cat(list(vae.decode(some_latents(frames, seed))), dim=2)


@pytest.fixture(scope="module")
def stock() -> AutoencoderKLMagvit:
    return shared_pipeline().vae


@pytest.fixture
def network() -> AutoencoderKLMagvit:
    return make_pipeline().vae


@pytest.fixture
def vae(network: AutoencoderKLMagvit) -> VideoAutoencoder:
    return VideoAutoencoder(network)


@pytest.fixture(scope="module")
def fresh() -> tuple[Tensor, Tensor]:
    """What a network that nothing has happened to encodes and decodes."""
    return encoded(VideoAutoencoder(make_pipeline().vae)), decoded(VideoAutoencoder(make_pipeline().vae))


def as_good_as_new(vae: VideoAutoencoder, fresh: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(encoded(vae), fresh[0]) and torch.equal(decoded(vae), fresh[1])


@pytest.mark.parametrize("frames", FRAME_COUNTS)
def test_streamed_frames_equal_the_stock_decode(vae: VideoAutoencoder, stock: AutoencoderKLMagvit, frames: int) -> None:
    with torch.no_grad():
        expected = stock.decode(1 / stock.config.scaling_factor * some_latents(frames)).sample

    groups = list(vae.decode(some_latents(frames)))

    assert [group.shape[2] for group in groups] == [1] + [4] * (frames // 4)
    torch.testing.assert_close(torch.cat(groups, dim=2), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", FRAME_COUNTS)
def test_latents_are_the_scaled_mode_of_the_stock_posterior(
    vae: VideoAutoencoder, stock: AutoencoderKLMagvit, frames: int
) -> None:
    with torch.no_grad():
        expected = stock.encode(a_video(frames)).latent_dist.mode() * stock.config.scaling_factor

    torch.testing.assert_close(vae.encode(a_video(frames), unobserved), expected, rtol=0, atol=1e-5)


def test_the_observer_counts_frames_before_and_after_every_chunk(vae: VideoAutoencoder) -> None:
    seen: list[tuple[int, int]] = []

    vae.encode(a_video(9), lambda done, total: seen.append((done, total)))

    assert seen == [(0, 9), (1, 9), (5, 9), (9, 9)]


@pytest.mark.parametrize("frames", [0, 2, 4, 10])
def test_a_frame_count_that_would_break_the_network_is_refused(
    vae: VideoAutoencoder, fresh: tuple[Tensor, Tensor], frames: int
) -> None:
    with pytest.raises(ValueError, match=f"{frames} frames"):
        vae.encode(a_video(frames), unobserved)

    assert as_good_as_new(vae, fresh)


@pytest.mark.parametrize("last", [0, 1, 5, 9])
def test_after_the_observer_has_left_it_is_as_good_as_new(
    vae: VideoAutoencoder, fresh: tuple[Tensor, Tensor], last: int
) -> None:
    def leave(done: int, total: int) -> None:
        if done == last:
            raise Broken

    with pytest.raises(Broken):
        vae.encode(a_video(seed=1), leave)

    assert as_good_as_new(vae, fresh)


@pytest.mark.parametrize("chunk", [0, 1])
@pytest.mark.parametrize("use", [encoded, decoded])
@pytest.mark.parametrize("part", ["conv_in", "mid_block", "conv_out"])
def test_after_a_failure_anywhere_it_is_as_good_as_new(
    vae: VideoAutoencoder,
    network: AutoencoderKLMagvit,
    fresh: tuple[Tensor, Tensor],
    use: Callable[..., Tensor],
    part: str,
    chunk: int,
) -> None:
    half = network.encoder if use is encoded else network.decoder
    with breaking(getattr(half, part), after=chunk), pytest.raises(Broken):
        use(vae, seed=1)

    assert as_good_as_new(vae, fresh)


def test_a_decode_may_be_abandoned_without_being_closed(vae: VideoAutoencoder, fresh: tuple[Tensor, Tensor]) -> None:
    abandoned = vae.decode(some_latents(seed=1))
    next(abandoned)
    next(abandoned)

    assert as_good_as_new(vae, fresh)
    assert next(abandoned).shape[2] == 4


def test_two_decodes_may_take_turns(vae: VideoAutoencoder) -> None:
    expected = decoded(vae, seed=0), decoded(vae, seed=1)

    turns = list(zip(vae.decode(some_latents(seed=0)), vae.decode(some_latents(seed=1)), strict=True))

    for number in range(2):
        assert torch.equal(torch.cat([groups[number] for groups in turns], dim=2), expected[number])


def test_a_picture_may_be_encoded_in_the_middle_of_a_decode(
    vae: VideoAutoencoder, fresh: tuple[Tensor, Tensor]
) -> None:
    groups = []
    for group in vae.decode(some_latents()):
        groups.append(group)
        assert torch.equal(encoded(vae), fresh[0])

    assert torch.equal(torch.cat(groups, dim=2), fresh[1])


def test_threads_do_not_mix_their_videos(vae: VideoAutoencoder) -> None:
    expected = [decoded(vae, seed=seed) for seed in range(4)]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda seed: decoded(vae, seed=seed), range(4)))

    assert all(torch.equal(result, wanted) for result, wanted in zip(results, expected, strict=True))


def test_the_network_is_left_without_features(vae: VideoAutoencoder, network: AutoencoderKLMagvit) -> None:
    groups = vae.decode(some_latents())
    next(groups)

    features = [module.prev_features for module in network.modules() if hasattr(module, "prev_features")]

    assert len(features) > 50
    assert features == [None] * len(features)


def test_between_groups_the_caller_has_its_own_gradient_mode(vae: VideoAutoencoder) -> None:
    for group in vae.decode(some_latents()):
        assert torch.is_grad_enabled()
        assert not group.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pixels_are_rounded_as_diffusers_rounds_them(dtype: torch.dtype) -> None:
    halves = (torch.arange(512) / 2 / 255 * 2 - 1).view(1, 1, 1, 16, 32).expand(1, 3, 1, 16, 32)  # every half level
    noise = torch.randn(1, 3, 5, 16, 32, generator=torch.Generator().manual_seed(0))
    video = torch.cat((halves, noise), dim=2).to(dtype)

    unit = VideoProcessor().postprocess_video(video, output_type="np")

    assert torch.equal(to_uint8(video[0]), torch.from_numpy((unit[0] * 255).round().astype("uint8")))
