"""Attention kernels, the measured choice among them, and the wall that keeps compilers from choosing another."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values, (batch, tokens, heads, channels) each, to values of that shape."""

MEASUREMENTS = 5

HOPELESS = 1.5
"""How many times as long as the best kernel another one may take and still be measured again."""

LONG = 500.0
"""Milliseconds of a run on the CPU after which it is not repeated."""

CLEARLY = 0.8
"""Share of torch's time under which another kernel is chosen on a CPU. Where they are alike, as a processor that other
programs use as well makes them look at times, every start is to choose the same."""

CONVOLUTION = "convolution"
"""The kernel of `attention_cpu`."""

BOUNDED = "fa4-bounded"
"""The kernel of `attention_hopper`, for products of bounded size."""

LARGEST_PRODUCT = 96.0
"""What `BOUNDED` is trusted with, in powers of two: times any value and summed over all tokens it stays in float32."""


def attend(q: Tensor, k: Tensor, v: Tensor, kernel: str = "torch") -> Tensor:
    """Let every token attend to every token.

    Args:
        q: Queries times `query_scale`, (batch, queries, heads, channels).
        k: Keys, (batch, keys, heads, channels).
        v: Values, of the shape of `k`.
        kernel: Which of `available` computes it; ``torch`` leaves the choice to torch.

    Returns:
        Softmax-weighted values, of the shape of `q`, contiguous.
    """
    attended: Tensor = _opaque(q, k, v, kernel)
    return attended


def query_scale(kernel: str, channels: int) -> float:
    """What queries have to be multiplied by for a kernel; most apply softmax's scale themselves."""
    return math.log2(math.e) / math.sqrt(channels) if kernel == BOUNDED else 1.0


def largest_product(norms: Sequence[Tensor]) -> float:
    """The most that any query times any key can be, in powers of two after softmax's scale.

    Args:
        norms: Of the LayerNorms that make queries and keys, one for each kind of token, (2, 2, channels): of queries,
            then of keys; weight and bias.

    A normalised vector n is at most sqrt(channels) long, and rotation turns pairs of channels without changing their
    length. So of ``(w n + b) . (w' n' + b')`` the first product is at most channels times the greatest ``w w'`` of a
    pair, and the others are bounded by their factors' lengths.
    """
    if norms[0].is_meta:
        return math.inf  # nothing is known of weights that are not there
    channels = norms[0].shape[-1]
    length = math.sqrt(channels)
    greatest = 0.0
    for query_weight, query_bias in (norm[0].double() for norm in norms):
        for key_weight, key_bias in (norm[1].double() for norm in norms):
            pairs = query_weight.abs().view(-1, 2).amax(1) * key_weight.abs().view(-1, 2).amax(1)
            bound = channels * pairs.max()
            bound += length * (query_weight.abs().max() * key_bias.norm() + key_weight.abs().max() * query_bias.norm())
            bound += query_bias.norm() * key_bias.norm()
            greatest = max(greatest, float(bound))
    return greatest * math.log2(math.e) / length


# Behind an operator of its own: Inductor retraces F.scaled_dot_product_attention into the flash kernel, which on
# Hopper takes half again as long as the one that eager torch chooses.
@torch.library.custom_op("easyanim::attend", mutates_args=())
def _opaque(q: Tensor, k: Tensor, v: Tensor, kernel: str) -> Tensor:
    return _KERNELS[kernel]()(q, k, v).contiguous()


@_opaque.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, kernel: str) -> Tensor:
    return q.new_empty(q.shape)


def available(device: torch.device, dtype: torch.dtype, largest: float = math.inf) -> list[str]:
    """The kernels that can run on this device in this type, by name; ``torch`` first.

    Args:
        device: Where.
        dtype: Of queries, keys and values.
        largest: The most that a query times a key can be; see `largest_product`.
    """
    if device.type != "cuda":
        return ["torch", "math", CONVOLUTION]
    names = ["torch", "math"]
    if dtype in (torch.bfloat16, torch.float16):
        capability = torch.cuda.get_device_capability(device)
        names += ["flash", "cudnn"]
        names += [name for name, (module, least) in _PACKAGES.items() if capability >= least and _importable(module)]
        if "fa4" in names and capability[0] == 9 and dtype is torch.bfloat16 and largest <= LARGEST_PRODUCT:
            names.append(BOUNDED)
    return [*names, "efficient"]


def candidates(device: torch.device, dtype: torch.dtype, largest: float = math.inf) -> list[str]:
    """Those of `available` among which measuring decides.

    Math needs tokens x tokens of memory. On CUDA torch chooses among the others, on the CPU it has one of its own.
    """
    left_out = ("torch", "math") if device.type == "cuda" else ("math",)
    return [name for name in available(device, dtype, largest) if name not in left_out]


def measure(shape: torch.Size, device: torch.device, dtype: torch.dtype, kernels: Sequence[str]) -> dict[str, float]:
    """Milliseconds of each kernel on random tokens; infinite for those that fail.

    Those for which there was no memory left are not among them: that says nothing of another time.

    Args:
        shape: (batch, tokens, heads, channels).
        device: Where to measure.
        dtype: Of the tokens.
        kernels: Which.
    """
    generator = torch.Generator(device).manual_seed(0)
    q, k, v = (torch.randn(shape, generator=generator, device=device, dtype=dtype) for _ in range(3))
    times: dict[str, float] = {}
    for name in kernels:
        scaled = q * query_scale(name, shape[-1])
        try:
            best = min(times.values(), default=math.inf)
            times[name] = _milliseconds(partial(attend, scaled, k, v, name), best, device)
        except torch.OutOfMemoryError:
            continue
        except Exception:  # a kernel that this card or shape is too much for is no choice, whatever it raises
            times[name] = math.inf
    return times


def fastest(times: Mapping[str, float]) -> str:
    """The kernel to take by its milliseconds; ``torch`` where none runs, on a CPU also unless one is clearly faster."""
    # A choice of torch's that has a time of its own is the CPU's.
    weighed = {name: CLEARLY * value if name == "torch" else value for name, value in times.items() if value < math.inf}
    return min(weighed, key=lambda name: weighed[name], default="torch")


def _milliseconds(run: Callable[[], Tensor], best: float, device: torch.device) -> float:
    """The median, of one run alone where that is far from the best; on the CPU the least, for others compute there."""
    first = _timed(run, device)  # builds plans, compiles just in time
    if device.type == "cpu" and first > LONG:
        return first
    times: list[float] = []
    while len(times) < MEASUREMENTS and (not times or times[0] < HOPELESS * best):
        times.append(_timed(run, device))
    return statistics.median(times) if device.type == "cuda" else min(times)


def _timed(run: Callable[[], Tensor], device: torch.device) -> float:
    """Milliseconds of one run, from an idle device to an idle device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1e3


def _stock(*backends: SDPBackend) -> Kernel:
    """Torch's own attention, restricted to some of its kernels; by default all."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (batch, heads, tokens, channels), as a view
        if not backends:
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        with sdpa_kernel(list(backends)):
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    return run


def _packaged(module: str, function: str) -> Kernel:
    """A kernel of another library, all of which take (batch, tokens, heads, channels)."""
    imported = getattr(import_module(module), function)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        result = imported(q, k, v)
        values: Tensor = result[0] if isinstance(result, tuple) else result  # some give the softmax's logarithms too
        return values

    return run


def _sage() -> Kernel:
    sageattn = import_module("sageattention").sageattn
    return lambda q, k, v: sageattn(q, k, v, tensor_layout="NHD")


def _convolution() -> Kernel:
    kernel: Kernel = import_module("easyanim_server.engine.attention.cpu").attend
    return kernel


def _bounded() -> Kernel:
    kernel: Kernel = import_module("easyanim_server.engine.attention.hopper").attend
    return kernel


_PACKAGES: dict[str, tuple[str, tuple[int, int]]] = {
    "fa4": ("flash_attn.cute", (9, 0)),
    "fa3": ("flash_attn_interface", (9, 0)),
    "fa2": ("flash_attn.flash_attn_interface", (8, 0)),
    "sage": ("sageattention", (8, 0)),
}
"""Optional kernels: the module that has them, and the least compute capability."""

_KERNELS: dict[str, Callable[[], Kernel]] = {
    "torch": cache(lambda: _stock()),
    "math": cache(lambda: _stock(SDPBackend.MATH)),
    CONVOLUTION: cache(_convolution),
    "efficient": cache(lambda: _stock(SDPBackend.EFFICIENT_ATTENTION)),
    "flash": cache(lambda: _stock(SDPBackend.FLASH_ATTENTION)),
    "cudnn": cache(lambda: _stock(SDPBackend.CUDNN_ATTENTION)),
    "fa4": cache(lambda: _packaged("flash_attn.cute", "flash_attn_func")),
    "fa3": cache(lambda: _packaged("flash_attn_interface", "flash_attn_func")),
    "fa2": cache(lambda: _packaged("flash_attn.flash_attn_interface", "flash_attn_func")),
    "sage": cache(_sage),
    BOUNDED: cache(_bounded),
}
"""How each kernel is made, on first use: importing some of them takes seconds."""


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is not there
        return False
