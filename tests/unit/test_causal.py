from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLMagvit
from torch import Tensor, nn

from easyanim_server.engine.families.easyanimate_v51.vae import VideoAutoencoder
from easyanim_server.engine.families.easyanimate_v51.vae_fast import Features, StreamingVAE, fastest_on_cpu
from easyanim_server.engine.kernels import vae_ops as pointwise
from tests.models import Broken, breaking, make_pipeline, shared_pipeline

LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]
SIZES = [(32, 48), (8, 8), (40, 24)]
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
def test_chunks_that_the_network_cannot_cut_are_refused(network: AutoencoderKLMagvit, sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(sizes))):
        VideoAutoencoder(network, **sizes)


Arguments = tuple[object, ...]


def calls(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, Arguments]]:
    """Every function with every choice that its arguments make, at several shapes."""

    def video(*shape: int, seed: int = 0) -> Tensor:
        return random(*shape, seed=seed).to(device, dtype).contiguous(memory_format=BY_CHANNEL)

    def channel(count: int, seed: int) -> Tensor:
        return random(count, seed=seed).to(device, dtype)

    for batch, channels, frames, height, width in ((1, 16, 3, 5, 7), (2, 24, 2, 6, 10), (1, 32, 1, 70, 64)):
        x = video(batch, channels, frames, height, width) * 2 + 3
        scale, shift, bias = (channel(channels, seed) for seed in range(3))
        for past in (None, video(batch, channels, 2, height, width, seed=1)):
            for added in (None, bias):
                yield "norm_silu", (x, added, past, 2, scale, shift, 8, 1e-6)
        for factor, margin in ((2, 0), (1, 1)):
            yield "resize", (x, factor, margin)
        for added, shortcut, repeats in ((bias, x + 1, 1), (None, x + 1, 1), (bias, None, 2), (None, None, 1)):
            yield "add", (x, added, shortcut, repeats)


def compare(way: pointwise.Way, name: str, arguments: Arguments, tolerance: float) -> None:
    wanted = getattr(pointwise, name)(*arguments)

    got = getattr(pointwise.pointwise(way), name)(*(x.clone() if isinstance(x, Tensor) else x for x in arguments))

    assert got.is_contiguous(memory_format=BY_CHANNEL)
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance, msg=lambda text: f"{name}: {text}")


def test_compiled_functions_equal_eager_ones() -> None:
    name, arguments = next(calls())  # each takes seconds
    assert name == "norm_silu"

    compare("compiled", name, arguments, tolerance=1e-5)


@has_triton
def test_triton_equals_torch_in_the_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}

    done = subprocess.run(
        [sys.executable, "-c", "from tests.unit.test_causal import interpret; interpret()"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def interpret() -> None:
    """Compare functions, and a decoder that is made of them; to be called where Triton interprets."""
    count_loops_with_numpy_2()
    for name, arguments in calls():
        compare("triton", name, arguments, tolerance=1e-5)
    latents = random(1, 16, 2, 1, 1)
    _, pixels = expected(random(1, 3, 1, 8, 8), latents)
    assert_close(decoded(StreamingVAE(make_pipeline().vae, "triton", BY_CHANNEL), latents), pixels)


def count_loops_with_numpy_2() -> None:
    """Let Triton 3.6 interpret `range`: it asks arrays of one element for an int, which NumPy 2.4 refuses."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_and_count(tensor: type, scope: object) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))  # type: ignore[attr-defined]

    interpreter._patch_lang_tensor = patch_and_count


@has_triton
@pytest.mark.parametrize("channels", [8, 128, 512])
def test_kernels_build_for_hopper_and_move_16_bytes_at_a_time(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from easyanim_server.engine.kernels import vae_ops_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    _, _, block = kernels._tiling(384 * 672, channels)
    block.pop("num_warps")
    group = {"C": channels, "GROUP": channels // 8, "LANES": channels // 8, "TILES": kernels.TILES}

    assert ptx_for_hopper("_affine", {"eps": "fp32"}, group)
    for name, constants in (
        ("_moments", block),
        ("_norm_silu", block),
        ("_resize", block | {"FACTOR": 2, "MARGIN": 0}),
        ("_add", block),
    ):
        ptx = ptx_for_hopper(name, {}, constants)
        assert ptx.count("ld.global.v4.b32") >= 4, name
        assert name == "_moments" or ptx.count("st.global.v4.b32") == 4, name


def ptx_for_hopper(name: str, types: dict[str, str], constants: dict[str, int]) -> str:
    """Compile a kernel for bfloat16 videos and the H100 or H200, which needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from easyanim_server.engine.kernels import vae_ops_triton as kernels

    kernel = getattr(kernels, name)
    halves, floats = {"x", "y", "out", "bias", "shortcut", "scale", "shift"}, {"sums", "affine"}
    signature = {
        argument: "constexpr"
        if argument in constants
        else "*bf16"
        if argument in halves
        else "*fp32"
        if argument in floats
        else types.get(argument, "i32")
        for argument in kernel.arg_names
    }
    places = {argument: (number,) for number, argument in enumerate(kernel.arg_names)}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={places[argument]: value for argument, value in constants.items()},
        attrs={places[argument]: [["tt.divisibility", 16]] for argument in places if argument in halves | floats},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": kernels.WARPS})
    text: str = compiled.asm["ptx"]
    return text


@pytest.mark.gpu
@has_triton
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.03)], ids=str)
def test_triton_equals_torch_on_a_gpu(dtype: torch.dtype, tolerance: float) -> None:
    for name, arguments in calls("cuda", dtype):
        compare("triton", name, arguments, tolerance)


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


def test_nearly_even_frames_keep_their_digits_on_a_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 50 + torch.randn(1, 16, 4, 32, 32, generator=generator)
    scale, shift = torch.randn(16, generator=generator), torch.randn(16, generator=generator)
    exact = pointwise.norm_silu(x.double(), None, None, 2, scale.double(), shift.double(), 4, 1e-6)

    last = x.contiguous(memory_format=torch.channels_last_3d)
    assert (pointwise.norm_silu(last, None, None, 2, scale, shift, 4, 1e-6) - exact).abs().max() < 1e-4
