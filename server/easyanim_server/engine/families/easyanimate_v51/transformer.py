"""EasyAnimate's video transformer as a function of tensors: one denoising prediction."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import EasyAnimateTransformer3DModel
from torch import Tensor, nn

from easyanim_server.engine.attention.select import largest_product
from easyanim_server.engine.families.easyanimate_v51 import positions
from easyanim_server.engine.families.easyanimate_v51.block import AttentionMode, Block, Rope


@dataclass(frozen=True, eq=False)
class ExecutionPath:
    """How the blocks run for one shape."""

    blocks: Sequence[Callable[[Tensor, Tensor, Rope, int, str], Tensor]]
    """The blocks in order: modules, or what a compiler made of them."""
    kernel: str = "torch"
    """The attention kernel."""
    pairs: bool = False
    """Whether the two predictions of guidance are made in a batch of two."""


class Denoiser(nn.Module):
    """Runs the network in a forward of its own, which never makes the device wait for the host.

    Against the stock forward, rotary angles are computed once per shape and stay on the device, where the stock
    one builds them on the CPU at every step and copies them in every block; and tokens lie contiguous in memory,
    where the stock one leaves channels apart through all blocks.

    Args:
        transformer: The network; its weights are shared, not copied.
        mode: Which of the two networks to run.

    Raises:
        ValueError: the transformer's configuration names unknown positions.
    """

    def __init__(self, transformer: EasyAnimateTransformer3DModel, mode: AttentionMode) -> None:
        super().__init__()
        self.transformer = transformer
        self.mode = mode
        self.positions = positions.formula(transformer.config, mode)
        """How tokens' rows and columns are computed; one of `positions.FORMULAS`."""
        last = len(transformer.transformer_blocks) - 1
        self.blocks = nn.ModuleList(
            Block(stock, mode, drops_text=number == last) for number, stock in enumerate(transformer.transformer_blocks)
        )
        self.eager = ExecutionPath(
            [block.forward for block in self.blocks]
        )  # not __call__: that may have been compiled
        self.ready: Callable[[], None] = lambda: None
        """Called before a prediction, to have the weights there."""
        self.arrange: Callable[[Sequence[Callable[..., Tensor]]], Iterator[Callable[..., Tensor]]] | None = None
        """Set while blocks' weights come one after the other: yields each block when it can run."""
        self.joint = False
        """Whether then a block should run for all prompts before the next one comes."""
        self._ropes: dict[tuple[torch.Size, int], Rope] = {}
        self._first_norm: tuple[nn.Module, ...] = ()  # in a tuple, for a network's own modules are moved about

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor,
        inpaint: Tensor,
        path: ExecutionPath | None = None,
        residuals: list[Tensor] | None = None,
    ) -> Tensor:
        """Predict the velocity from data to noise.

        Args:
            latents: Noisy video, (batch, 16, frames', height/8, width/8), in the weights' dtype.
            timestep: (batch,), in [0, 1000], in the dtype of `latents`.
            text: Prompt embeddings, (batch, 256, hidden).
            inpaint: What is given of the video, (batch, 17, frames', height/8, width/8): mask, then latents.
            path: How the blocks run; by default eagerly, with torch's choice of attention.
            residuals: As in `each`.

        Returns:
            Of the shape and dtype of `latents`.
        """
        return self.each(latents, timestep, [text], inpaint, path, residuals)[0]

    def each(
        self,
        latents: Tensor,
        timestep: Tensor,
        prompts: Sequence[Tensor],
        inpaint: Tensor,
        path: ExecutionPath | None = None,
        residuals: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """Predict for several prompts what `forward` does for each.

        Where blocks' weights are on their way while others run, each block runs for all prompts before the next one:
        one journey instead of several, for the memory of another sequence of tokens. Otherwise prompts take turns.

        Args:
            latents: As in `forward`, like the others.
            timestep: (batch,).
            prompts: Embeddings, (batch, 256, hidden) each.
            inpaint: What is given of the video.
            path: How the blocks run.
            residuals: Where it is given, gets what the blocks added to the video's tokens, (batch, video tokens, dim)
                for each prompt.
        """
        self.ready()
        if len(prompts) > 1 and (self.arrange is None or not self.joint):
            return [self.each(latents, timestep, [text], inpaint, path, residuals)[0] for text in prompts]
        net, path = self.transformer, path or self.eager
        texts = prompts[0].shape[1]
        rope = self.rope(latents, texts)
        emb = self._embed_time(timestep, latents.dtype)
        video = self._embed(latents, inpaint)
        xs = [torch.cat((net.text_proj(text), video), dim=1) for text in prompts]  # (batch, text + video tokens, dim)
        del video

        for block in path.blocks if self.arrange is None else self.arrange(path.blocks):
            for number, x in enumerate(xs):
                xs[number] = block(x, emb, rope, texts, path.kernel)

        # The last block leaves the text behind.
        if residuals is not None:
            video = self._embed(latents, inpaint)  # again: as large as a sequence, it is not kept through all blocks
            residuals.extend(x - video for x in xs)
        return [self._head(x, emb, latents.shape) for x in xs]

    def again(self, latents: Tensor, timestep: Tensor, residuals: Sequence[Tensor], inpaint: Tensor) -> list[Tensor]:
        """Predict without the blocks: they are taken to add what they added before.

        Args:
            latents: As in `forward`, like the others.
            timestep: (batch,).
            residuals: As `each` gave them.
            inpaint: What is given of the video.
        """
        self.ready()
        emb, video = self._embed_time(timestep, latents.dtype), self._embed(latents, inpaint)
        return [self._head(video + residual, emb, latents.shape) for residual in residuals]

    def change(
        self, latents: Tensor, timestep: Tensor, before: Tensor, timestep_before: Tensor, inpaint: Tensor
    ) -> Tensor:
        """Relative L1 distance between what the first block's attention gets of the video in two steps.

        Args:
            latents: Of the later step; as in `forward`, like the others.
            timestep: (batch,).
            before: Latents of the earlier step.
            timestep_before: (batch,).
            inpaint: What is given of the video.

        Returns:
            One float32 on the device.
        """
        self.ready()
        was = self._first_input(before, timestep_before, inpaint)
        difference = self._first_input(latents, timestep, inpaint) - was
        return difference.abs().sum(dtype=torch.float32) / was.abs().sum(dtype=torch.float32)

    def largest_product(self) -> float:
        """The most that a query times a key can be in any block; see `attention.largest_product`."""
        return max(largest_product(block.qk_norms) for block in self.blocks if isinstance(block, Block))

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

    def _first_input(self, latents: Tensor, timestep: Tensor, inpaint: Tensor) -> Tensor:
        """Video tokens, normalised and modulated by the first block: (batch, video tokens, dim)."""
        norm: Any = self.transformer.transformer_blocks[0].norm1
        if norm.linear.weight.device != latents.device:  # its block's weights are there while it runs, no longer
            self._first_norm = self._first_norm or (copy.deepcopy(norm).to(latents.device),)
            norm = self._first_norm[0]
        emb = self._embed_time(timestep, latents.dtype)
        shift, scale = norm.linear(norm.silu(emb))[:, None].chunk(6, dim=-1)[:2]
        modulated: Tensor = norm.norm(self._embed(latents, inpaint)) * (1 + scale) + shift
        return modulated

    def _embed_time(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        net = self.transformer
        emb: Tensor = net.time_embedding(net.time_proj(timestep).to(dtype))  # (batch, time_embed_dim)
        return emb

    def _embed(self, latents: Tensor, inpaint: Tensor) -> Tensor:
        return self._patchify(torch.cat((latents, inpaint), dim=1))  # (batch, video tokens, dim)

    def _head(self, video: Tensor, emb: Tensor, shape: torch.Size) -> Tensor:
        net = self.transformer
        return self._unpatchify(net.proj_out(net.norm_out(net.norm_final(video), temb=emb)), shape)

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
