"""The functions between the convolutions of the VAE: every way to run them gives the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from easyanim_server.engine.families.easyanimate_v51.vae_fast import StreamingVAE
from easyanim_server.engine.kernels import vae_ops as pointwise
from tests.models import make_pipeline
from tests.triton_interpreter import call_interpreted
from tests.vae_chunks import BY_CHANNEL, assert_close, decoded, expected, has_triton, random

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
    call_interpreted("tests.unit.test_vae_ops")


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


def test_nearly_even_frames_keep_their_digits_on_a_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 50 + torch.randn(1, 16, 4, 32, 32, generator=generator)
    scale, shift = torch.randn(16, generator=generator), torch.randn(16, generator=generator)
    exact = pointwise.norm_silu(x.double(), None, None, 2, scale.double(), shift.double(), 4, 1e-6)

    last = x.contiguous(memory_format=torch.channels_last_3d)
    assert (pointwise.norm_silu(last, None, None, 2, scale, shift, 4, 1e-6) - exact).abs().max() < 1e-4
