"""EasyAnimate's video transformer as a function of tensors: one denoising prediction."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import EasyAnimateTransformer3DModel
from torch import Tensor, nn

from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.shape import Geometry
from easyanim_server.engine.attention.select import largest_product
from easyanim_server.engine.families.easyanimate_v51 import positions
from easyanim_server.engine.families.easyanimate_v51.block import AttentionMode, Block
from easyanim_server.engine.families.easyanimate_v51.text import MAX_TOKENS, TEXT, TEXT_T5
from easyanim_server.engine.families.runtime import BlockContext, Condition, ExecutionPath, NetworkInputs, Rope

INPAINT = "inpaint"
"""Name of what is given of the video, (batch, 17, frames', height/8, width/8): mask, then latents. Networks that make
videos from text alone have no such input."""

PRODUCTS = ("qkv", "out", "ff_in", "ff_out")
"""The large ones of a block, by their names in `TokenLayers`."""

EXAMPLE_TIMESTEP = 500.0
"""Of predictions that are made to build, compare and measure: any will do."""


class EasyAnimateDenoiser(nn.Module):
    """Implements `families.runtime.Denoiser` with a forward of its own, which never makes the device wait for the host.

    Against the stock forward, rotary angles are computed once per shape and stay on the device, where the stock
    one builds them on the CPU at every step and copies them in every block; and tokens lie contiguous in memory,
    where the stock one leaves channels apart through all blocks.

    Args:
        transformer: The network; its weights are shared, not copied.
        mode: Which of the two networks to run.
        text_tokens: Of each condition, in the order in which they are joined: `TEXT`, then `TEXT_T5`.
        geometry: Of the model, for examples of a bucket's shape.

    Raises:
        ValueError: the transformer's configuration names unknown positions, or it projects another number of
            conditions.
    """

    blocks: Sequence[Block]

    def __init__(
        self,
        transformer: EasyAnimateTransformer3DModel,
        mode: AttentionMode,
        text_tokens: Sequence[int] = (MAX_TOKENS,),
        geometry: Geometry = EASYANIMATE_V51.geometry,
    ) -> None:
        super().__init__()
        self._geometry = geometry
        self.transformer = transformer
        self.mode = mode
        self.texts = dict(zip((TEXT, TEXT_T5), text_tokens, strict=False))
        """Tokens of each condition by its name."""
        if len(self.texts) != (1 if transformer.text_proj_t5 is None else 2):
            raise ValueError(f"{len(self.texts)} conditions for a network with text_proj_t5={transformer.text_proj_t5}")
        self.is_given = transformer.config.in_channels > transformer.config.out_channels
        """Whether the network reads what is given of the video."""
        self.positions = positions.formula(transformer.config, mode)
        """How tokens' rows and columns are computed; one of `positions.FORMULAS`."""
        last = len(transformer.transformer_blocks) - 1
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
            Block(stock, mode, drops_text=number == last) for number, stock in enumerate(transformer.transformer_blocks)
        )
        self.eager = ExecutionPath(
            [block.forward for block in self.blocks]
        )  # not __call__: that may have been compiled
        self._ropes: dict[tuple[torch.Size, int], Rope] = {}
        self._first_norm: tuple[nn.Module, ...] = ()  # in a tuple, for a network's own modules are moved about

    @property
    def network(self) -> EasyAnimateTransformer3DModel:
        """The stock network, whose layers are views of the blocks'."""
        return self.transformer

    @property
    def exact(self) -> bool:
        """Whether it repeats diffusers' port, to be compared with it."""
        return self.mode == "diffusers"

    def context(self, inputs: NetworkInputs, condition: Condition) -> BlockContext:
        """See `Denoiser.context`; `timestep` is in [0, 1000]."""
        texts = sum(condition[name].shape[1] for name in self.texts)
        rope = self.rope(inputs.latents, texts)
        return BlockContext(self._embed_time(inputs), rope, texts)

    def embed(self, inputs: NetworkInputs) -> Tensor:
        """See `Denoiser.embed`."""
        given = (inputs.given[INPAINT],) if self.is_given else ()
        return self._patchify(torch.cat((inputs.latents, *given), dim=1))

    def join(self, video: Tensor, condition: Condition) -> Tensor:
        """See `Denoiser.join`."""
        net = self.transformer
        texts = [net.text_proj(condition[TEXT])]
        if net.text_proj_t5 is not None:
            texts.append(net.text_proj_t5(condition[TEXT_T5]))
        return torch.cat((*texts, video), dim=1)

    def head(self, video: Tensor, context: BlockContext, shape: torch.Size) -> Tensor:
        """See `Denoiser.head`."""
        net = self.transformer
        return self._unpatchify(net.proj_out(net.norm_out(net.norm_final(video), temb=context.time)), shape)

    def first_input(self, inputs: NetworkInputs) -> Tensor:
        """Video tokens, normalised and modulated by the first block: (batch, video tokens, dim)."""
        norm: Any = self.transformer.transformer_blocks[0].norm1
        if norm.linear.weight.device != inputs.latents.device:  # its block's weights are there while it runs, no longer
            self._first_norm = self._first_norm or (copy.deepcopy(norm).to(inputs.latents.device),)
            norm = self._first_norm[0]
        emb = self._embed_time(inputs)
        shift, scale = norm.linear(norm.silu(emb))[:, None].chunk(6, dim=-1)[:2]
        modulated: Tensor = norm.norm(self.embed(inputs)) * (1 + scale) + shift
        return modulated

    def example(self, bucket: Bucket, device: torch.device, batch: int = 1) -> tuple[NetworkInputs, Condition]:
        """See `Denoiser.example`."""
        dtype = next(self.transformer.parameters()).dtype
        return example_inputs(
            self.transformer.config, self.texts, self._geometry.latent_shape(bucket), device, dtype, batch
        )

    def attention_shape(self, bucket: Bucket) -> torch.Size:
        """See `Denoiser.attention_shape`."""
        config = self.transformer.config
        tokens = sum(self.texts.values()) + self._geometry.video_tokens(bucket)
        return torch.Size((1, tokens, config.num_attention_heads, config.attention_head_dim))

    def replace_products(self, number: int, make: Callable[[nn.Linear], nn.Module], give_up: bool = False) -> None:
        """See `Denoiser.replace_products`; it is the stock transformer's layers that share the weights."""
        block, stock = self.blocks[number], self.transformer.transformer_blocks[number]
        for layers in (block.video, block.text):
            if layers is not None:
                for name in PRODUCTS:
                    setattr(layers, name, make(getattr(layers, name)))
        if give_up:
            for branch in (stock.attn1, stock.ff, stock.txt_ff):
                for linear in branch.modules() if branch is not None else ():
                    if isinstance(linear, nn.Linear):
                        linear.weight.data = linear.weight.data.new_empty(0)

    def largest_product(self) -> float:
        """The most that a query times a key can be in any block; see `attention.largest_product`."""
        return max(largest_product(block.qk_norms) for block in self.blocks)

    def rope(self, latents: Tensor, texts: int) -> Rope:
        """Angles of all tokens for latents of this shape, on their device; computed when the shape is seen first."""
        shape = latents.shape[2:]  # (frames', height/8, width/8)
        if (shape, texts) not in self._ropes:
            cos, sin = self._angles(shape)
            cos = torch.cat((cos.new_ones(texts, cos.shape[1]), cos))
            sin = torch.cat((sin.new_zeros(texts, sin.shape[1]), sin))
            self._ropes[shape, texts] = (cos.to(latents.device), sin.to(latents.device))
        return self._ropes[shape, texts]

    def _angles(self, shape: torch.Size) -> Rope:
        """Angles of the video's tokens, computed on the CPU."""
        if self.positions == "diffusers":  # the stock module looks at sizes alone
            stock: Rope = self.transformer.rope_embedding(torch.empty(1, 1, *shape, device="meta"))
            return stock
        config = self.transformer.config
        frames, height, width = shape
        return positions.angles(frames, height, width, config.attention_head_dim, config.patch_size)

    def _embed_time(self, inputs: NetworkInputs) -> Tensor:
        net = self.transformer
        emb: Tensor = net.time_embedding(net.time_proj(inputs.timestep).to(inputs.latents.dtype))
        return emb  # (batch, time_embed_dim)

    def _patchify(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = x.transpose(1, 2).flatten(0, 1)  # (batch * frames', channels, h, w)
        x = self.transformer.proj(x)  # (batch * frames', dim, h/p, w/p)
        x = x.flatten(2).transpose(1, 2)  # (batch * frames', h/p * w/p, dim)
        return x.reshape(batch, -1, x.shape[-1])  # (batch, video tokens, dim)

    def _unpatchify(self, x: Tensor, shape: torch.Size) -> Tensor:
        batch, channels, frames, height, width = shape
        p = self.transformer.config.patch_size
        x = x.reshape(batch, frames, height // p, width // p, channels, p, p)
        x = x.permute(0, 4, 1, 2, 5, 3, 6)  # (batch, channels, frames', h/p, p, w/p, p)
        return x.flatten(5, 6).flatten(3, 4)


def example_inputs(
    config: Any,
    texts: Mapping[str, int],
    shape: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    batch: int = 1,
) -> tuple[NetworkInputs, Condition]:
    """Random inputs of a network, the same on every call.

    Args:
        config: The transformer's.
        texts: Tokens of each condition by its name.
        shape: Of one video's latents, (channels, frames', height', width').
        device: Where they are to be.
        dtype: Theirs.
        batch: Samples, all alike.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*of_one: int) -> Tensor:
        drawn = torch.randn(of_one, generator=generator).to(device, dtype)
        return torch.stack([drawn] * batch)

    channels, widths = config.out_channels, {TEXT: config.text_embed_dim, TEXT_T5: config.text_embed_dim_t5}
    latents = draw(channels, *shape[1:])
    condition = {name: draw(tokens, widths[name]) for name, tokens in texts.items()}
    is_given = config.in_channels > channels
    given = {INPAINT: draw(config.in_channels - channels, *shape[1:])} if is_given else {}
    return NetworkInputs(latents, torch.full((batch,), EXAMPLE_TIMESTEP, device=device, dtype=dtype), given), condition
