"""EasyAnimate's video transformer as a function of tensors: one denoising prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers import EasyAnimateTransformer3DModel
from torch import Tensor, nn

from easyanim_server.engine.attention import largest_product
from easyanim_server.engine.block import AttentionMode, Block, Rope


@dataclass(frozen=True, eq=False)
class Path:
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
    """

    def __init__(self, transformer: EasyAnimateTransformer3DModel, mode: AttentionMode) -> None:
        super().__init__()
        self.transformer = transformer
        self.mode = mode
        last = len(transformer.transformer_blocks) - 1
        self.blocks = nn.ModuleList(
            Block(stock, mode, drops_text=number == last) for number, stock in enumerate(transformer.transformer_blocks)
        )
        self.eager = Path([block.forward for block in self.blocks])  # not __call__: that may have been compiled
        self.ready: Callable[[], None] = lambda: None
        """Called before a prediction, to have the weights there."""
        self.arrange: Callable[[Sequence[Callable[..., Tensor]]], Iterator[Callable[..., Tensor]]] | None = None
        """Set while blocks' weights come one after the other: yields each block when it can run."""
        self.joint = False
        """Whether then a block should run for all prompts before the next one comes."""
        self._ropes: dict[tuple[torch.Size, int], Rope] = {}

    def forward(
        self, latents: Tensor, timestep: Tensor, text: Tensor, inpaint: Tensor, path: Path | None = None
    ) -> Tensor:
        """Predict the velocity from data to noise.

        Args:
            latents: Noisy video, (batch, 16, frames', height/8, width/8), in the weights' dtype.
            timestep: (batch,), in [0, 1000], in the dtype of `latents`.
            text: Prompt embeddings, (batch, 256, hidden).
            inpaint: What is given of the video, (batch, 17, frames', height/8, width/8): mask, then latents.
            path: How the blocks run; by default eagerly, with torch's choice of attention.

        Returns:
            Of the shape and dtype of `latents`.
        """
        return self.each(latents, timestep, [text], inpaint, path)[0]

    def each(
        self, latents: Tensor, timestep: Tensor, prompts: Sequence[Tensor], inpaint: Tensor, path: Path | None = None
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
        """
        self.ready()
        if len(prompts) > 1 and (self.arrange is None or not self.joint):
            return [self.each(latents, timestep, [text], inpaint, path)[0] for text in prompts]
        net, path = self.transformer, path or self.eager
        texts = prompts[0].shape[1]
        rope = self.rope(latents, texts)
        emb = net.time_embedding(net.time_proj(timestep).to(latents.dtype))  # (batch, time_embed_dim)
        video = self._patchify(torch.cat((latents, inpaint), dim=1))  # (batch, video tokens, dim)
        xs = [torch.cat((net.text_proj(text), video), dim=1) for text in prompts]  # (batch, text + video tokens, dim)
        del video

        for block in path.blocks if self.arrange is None else self.arrange(path.blocks):
            for number, x in enumerate(xs):
                xs[number] = block(x, emb, rope, texts, path.kernel)

        # The last block leaves the text behind.
        return [self._head(x, emb, latents.shape) for x in xs]

    def largest_product(self) -> float:
        """The most that a query times a key can be in any block; see `attention.largest_product`."""
        return max(largest_product(block.qk_norms) for block in self.blocks if isinstance(block, Block))

    def rope(self, latents: Tensor, texts: int) -> Rope:
        """Angles of all tokens for latents of this shape, on their device; computed when the shape is seen first."""
        shape = latents.shape[2:]  # (frames', height/8, width/8)
        if (shape, texts) not in self._ropes:
            # The stock module looks at sizes alone and computes on the CPU.
            cos, sin = self.transformer.rope_embedding(torch.empty(1, 1, *shape, device="meta"))
            cos = torch.cat((cos.new_ones(texts, cos.shape[1]), cos))
            sin = torch.cat((sin.new_zeros(texts, sin.shape[1]), sin))
            self._ropes[shape, texts] = (cos.to(latents.device), sin.to(latents.device))
        return self._ropes[shape, texts]

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
