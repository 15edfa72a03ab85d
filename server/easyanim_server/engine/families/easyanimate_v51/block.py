"""One transformer block over the joint sequence of text and video tokens: the unit that is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateLayerNormZero, EasyAnimateTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from easyanim_server.engine.attention.select import attend, query_scale
from easyanim_server.engine.compile.precision import CastLinear, Fp8Linear
from easyanim_server.engine.families.runtime import Rope
from easyanim_server.engine.kernels.conv_linear import ConvolvedLinear
from easyanim_server.engine.kernels.float16 import ScaledLinear, unit_rows
from easyanim_server.engine.kernels.fused import (
    Quantised,
    add_gate,
    add_gate_norm_modulate,
    gelu_quantise,
    linear_gelu,
    norm_modulate,
    qk_norm_rotate,
)

AttentionMode = Literal["original", "diffusers"]
"""`original` is the network as it was trained; `diffusers` repeats its port, which differs, for comparison."""

SCALE_ALIGNMENT = 16
"""Bytes; where cuBLAS wants the scales of rows to begin."""

Layer = nn.Linear | Fp8Linear | CastLinear | ConvolvedLinear
"""One of a block's large products."""


class TokenLayers(nn.Module):
    """The weights that one kind of token passes in a block; text has its own only in the first blocks (MMDiT).

    Queries, keys and values are one product. The stock layers become views of the joined weight, so both networks
    can run and neither holds a second copy.

    The four linear layers may be replaced by `Fp8Linear`, all together and for both kinds of token: what makes their
    inputs then quantises them as well. Or by `CastLinear` or `ConvolvedLinear`, whose inputs stay as they are.
    """

    qk_norm: Tensor
    """LayerNorms over a head's channels: (2, 2, channels), of queries, then of keys; weight and bias."""

    def __init__(
        self, qkv: list[nn.Linear], norms: list[nn.LayerNorm], out: nn.Linear, feed_forward: FeedForward
    ) -> None:
        super().__init__()
        self.qkv: Layer = _joined(qkv)
        self.qk_eps = norms[0].eps
        self.register_buffer("qk_norm", torch.stack([torch.stack((norm.weight, norm.bias)).data for norm in norms]))
        self.out: Layer = out
        self.ff_in: Layer = feed_forward.net[0].proj
        self.ff_out: Layer = feed_forward.net[2]

    @property
    def takes_fp8(self) -> bool:
        """Whether inputs should come quantised."""
        return isinstance(self.qkv, Fp8Linear)

    def feed_forward(self, x: Tensor | Quantised) -> Tensor:
        """Widen, bend, narrow: (batch, tokens, dim) to the same shape."""
        bent: Tensor | Quantised
        if isinstance(x, Quantised) or isinstance(self.ff_in, Fp8Linear):
            bent = gelu_quantise(self.ff_in(x))
        elif isinstance(self.ff_in, CastLinear):
            assert self.ff_in.bias is not None  # the layer that it took over has one
            bent = linear_gelu(x, self.ff_in.dense(x.dtype), self.ff_in.bias)
        elif isinstance(self.ff_in, ConvolvedLinear | ScaledLinear):
            bent = F.gelu(self.ff_in(x), approximate="tanh")
        else:
            bent = linear_gelu(x, self.ff_in.weight, self.ff_in.bias)
        narrowed: Tensor = self.ff_out(bent)
        return narrowed


class Block(nn.Module):
    """EasyAnimate's block on one tensor of text tokens followed by video tokens.

    The stock block carries text and video apart and joins them for attention alone. Held together, the blocks whose
    weights they share are single products over all tokens, and nothing is copied to join them.

    In those blocks the original network sends text through the output projection as well, which diffusers' port
    does for the video alone: half of the 7B model's blocks then compute something else than was trained.

    Args:
        stock: Whose weights are used.
        mode: Which of the two networks to run.
        drops_text: Whether text ends here, as it does in the last block: nothing reads what becomes of it.

    Source: EasyAnimate ``easyanimate/models/processor.py``, c2a70d1; diffusers ``EasyAnimateTransformerBlock``.
    """

    def __init__(self, stock: EasyAnimateTransformerBlock, mode: AttentionMode, drops_text: bool = False) -> None:
        super().__init__()
        attn = stock.attn1
        self.heads = attn.heads
        self.norm1, self.norm2 = stock.norm1, stock.norm2
        self.norm3: nn.Module | None = stock.norm3
        self.video = TokenLayers(
            [attn.to_q, attn.to_k, attn.to_v], [attn.norm_q, attn.norm_k], attn.to_out[0], stock.ff
        )
        self.text: TokenLayers | None = None
        if attn.add_q_proj is not None:
            projections = [attn.add_q_proj, attn.add_k_proj, attn.add_v_proj]
            norms = [attn.norm_added_q, attn.norm_added_k]
            self.text = TokenLayers(projections, norms, attn.to_add_out, stock.txt_ff)
        self.projects_text = self.text is not None or mode == "original"
        self.drops_text = drops_text
        self.kind = (self.text is not None, self.projects_text, drops_text)
        """Blocks of one kind compute the same function of inputs and weights."""

    @property
    def takes_fp8(self) -> bool:
        """Whether a large product takes quantised inputs."""
        return any(layers.takes_fp8 for layers in (self.video, self.text) if layers is not None)

    @property
    def in_float16(self) -> bool:
        """Whether weights are float16, and tokens float32 therefore; see `kernels.float16`."""
        return self.video.qk_norm.dtype is torch.float16  # which no other weights take the place of

    def forward(self, x: Tensor, emb: Tensor, rope: Rope, texts: int, kernel: str) -> Tensor:
        """Attend, then feed forward, each on modulated tokens and added through a gate.

        Args:
            x: (batch, text + video tokens, dim).
            emb: Embedded timestep, (batch, time_embed_dim).
            rope: Angles of all tokens.
            texts: How many of the tokens are text; they come first.
            kernel: Which attention kernel; see `attention.available`.

        Returns:
            Of the shape of `x`; of a block that `drops_text`, the video tokens alone.
        """
        scale = query_scale(kernel, rope[0].shape[-1])
        q, k, v, first, second = self.before_attention(x, emb, rope, texts, scale)
        if self.drops_text:
            x, q, texts = x[:, texts:], q[:, texts:], 0
        return self.after_attention(x, self._attend(q, k, v, kernel), first, second, texts)

    def before_attention(
        self, x: Tensor, emb: Tensor, rope: Rope, texts: int, scale: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Queries times `scale`, keys and values, (batch, tokens, heads, channels) each; both norms' modulation."""
        first, second = self._modulation(self.norm1, emb), self._modulation(self.norm2, emb)
        y = norm_modulate(x, self.norm1.norm, first, texts, quantise=self.video.takes_fp8)
        return *self._project(y, rope, texts, scale), first, second

    def after_attention(self, x: Tensor, attended: Tensor, first: Tensor, second: Tensor, texts: int) -> Tensor:
        """Add what was attended to, (batch, tokens, heads, channels), to `x`; then the feed-forward branch."""
        branch = self._project_out(attended.flatten(2), texts)
        x, y = add_gate_norm_modulate(x, branch, first, self.norm2.norm, second, texts, quantise=self.video.takes_fp8)
        branch = self._by_kind(TokenLayers.feed_forward, y, texts)
        if self.norm3 is not None:
            branch = [self.norm3(part) for part in branch]
        return add_gate(x, branch, second, texts)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, kernel: str) -> Tensor:
        """See `attention.attend`; tokens in float32 are attended to in float16, where their weights are."""
        if not self.in_float16:
            return attend(q, k, v, kernel)
        values, scale = unit_rows(v, (1, 2, 3))  # queries and keys are normalised
        return attend(q.to(values.dtype), k.to(values.dtype), values, kernel).float() * scale

    @property
    def qk_norms(self) -> list[Tensor]:
        """See `TokenLayers.qk_norm`: of text, where it has its own, then of video."""
        return [layers.qk_norm for layers in (self.text, self.video) if layers is not None]

    @staticmethod
    def _modulation(norm: EasyAnimateLayerNormZero, emb: Tensor) -> Tensor:
        """Shift, scale and gate of video, then of text: (batch, 2, 3, dim)."""
        modulation: Tensor = norm.linear(norm.silu(emb)).unflatten(-1, (2, 3, -1))
        return modulation

    def _project(self, x: Tensor | Quantised, rope: Rope, texts: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values: (batch, tokens, heads, channels) each."""
        qkv = self._by_kind(lambda layers, tokens: layers.qkv(tokens), x, texts)
        return qk_norm_rotate(qkv, self.qk_norms, self.video.qk_eps, rope, self.heads, scale)

    def _project_out(self, x: Tensor, texts: int) -> list[Tensor]:
        if self.projects_text or not texts:
            return self._by_kind(lambda layers, tokens: layers.out(tokens), x, texts)
        return [x[:, :texts], self.video.out(x[:, texts:])]

    def _by_kind(
        self, layer: Callable[[TokenLayers, Tensor | Quantised], Tensor], x: Tensor | Quantised, texts: int
    ) -> list[Tensor]:
        """Apply a layer with the weights of each token's kind: to text and to video, or to all at once."""
        if self.text is None or not texts:
            return [layer(self.video, x)]
        of_text, of_video = _split(x, texts)
        return [layer(self.text, of_text), layer(self.video, of_video)]


def _split(x: Tensor | Quantised, texts: int) -> tuple[Tensor | Quantised, Tensor | Quantised]:
    """Text tokens and video tokens."""
    if isinstance(x, Quantised):
        values, scale = x
        return Quantised(values[:, :texts], scale[:, :texts]), Quantised(values[:, texts:], scales_from(scale, texts))
    return x[:, :texts], x[:, texts:]


def scales_from(scale: Tensor, first: int) -> Tensor:
    """Scales of the rows from `first` on, (batch, rows, 1), at an address that cuBLAS takes.

    All rows are shifted where they have to be: a mere copy of the others is what the compiler leaves out as no work.
    """
    missing = -first % (SCALE_ALIGNMENT // scale.element_size())
    if missing:
        scale = F.pad(scale, (0, 0, missing, 0))
    return scale[:, first + missing :]


def _joined(layers: list[nn.Linear]) -> nn.Linear:
    """One layer that computes what several do on the same input; they become views of its parameters."""
    first = layers[0]
    sizes = [layer.out_features for layer in layers]
    joined = nn.Linear(first.in_features, sum(sizes), bias=first.bias is not None, device="meta")
    for name, _ in list(joined.named_parameters()):
        whole = torch.cat([getattr(layer, name).data for layer in layers])
        setattr(joined, name, nn.Parameter(whole, requires_grad=False))
        for layer, part in zip(layers, torch.split(whole, sizes), strict=True):
            getattr(layer, name).data = part
    return joined
