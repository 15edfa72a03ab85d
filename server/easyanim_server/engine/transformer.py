"""EasyAnimate's video transformer as a function of tensors: one denoising prediction."""

from __future__ import annotations

import torch
from diffusers import EasyAnimateTransformer3DModel
from torch import Tensor, nn

from easyanim_server.engine.attention import AttentionMode, JointAttention, Rope


class Denoiser(nn.Module):
    """Runs the stock submodules in a forward of its own, which never makes the device wait for the host.

    Against the stock forward, rotary angles are computed once per shape and stay on the device, where the stock
    one builds them on the CPU at every step and copies them in every block; and tokens lie contiguous in memory,
    where the stock one leaves channels apart through all blocks.

    Args:
        transformer: The network. Its attention modules are given this mode's processor.
        mode: Which attention to run.
    """

    def __init__(self, transformer: EasyAnimateTransformer3DModel, mode: AttentionMode) -> None:
        super().__init__()
        self.transformer = transformer
        self._ropes: dict[torch.Size, Rope] = {}
        processor = JointAttention(mode)
        for block in transformer.transformer_blocks:
            block.attn1.set_processor(processor)

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor, inpaint: Tensor) -> Tensor:
        """Predict the velocity from data to noise.

        Args:
            latents: Noisy video, (batch, 16, frames', height/8, width/8), in the weights' dtype.
            timestep: (batch,), in [0, 1000], in the dtype of `latents`.
            text: Prompt embeddings, (batch, 256, hidden).
            inpaint: What is given of the video, (batch, 17, frames', height/8, width/8): mask, then latents.

        Returns:
            Of the shape and dtype of `latents`.
        """
        net = self.transformer
        rope = self.rope(latents)
        emb = net.time_embedding(net.time_proj(timestep).to(latents.dtype))  # (batch, time_embed_dim)
        video = self._patchify(torch.cat((latents, inpaint), dim=1))  # (batch, video tokens, dim)
        text = net.text_proj(text)  # (batch, text tokens, dim)

        for block in net.transformer_blocks:
            video, text = block(video, text, emb, rope)

        video = net.norm_out(net.norm_final(video), temb=emb)
        return self._unpatchify(net.proj_out(video), latents.shape)

    def rope(self, latents: Tensor) -> Rope:
        """Angles for latents of this shape, on their device; computed when the shape is seen first."""
        shape = latents.shape[2:]  # (frames', height/8, width/8)
        if shape not in self._ropes:
            # The stock module looks at sizes alone and computes on the CPU.
            cos, sin = self.transformer.rope_embedding(torch.empty(1, 1, *shape, device="meta"))
            self._ropes[shape] = (cos.to(latents.device), sin.to(latents.device))
        return self._ropes[shape]

    def _patchify(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = x.transpose(1, 2).flatten(0, 1)  # (batch * frames', channels, h, w)
        x = self.transformer.proj(x)  # (batch * frames', dim, h/p, w/p)
        x = x.flatten(2).transpose(1, 2)  # (batch * frames', h/p * w/p, dim)
        return x.reshape(batch, -1, x.shape[-1]).contiguous()  # (batch, video tokens, dim)

    def _unpatchify(self, x: Tensor, shape: torch.Size) -> Tensor:
        batch, channels, frames, height, width = shape
        p = self.transformer.config.patch_size
        x = x.reshape(batch, frames, height // p, width // p, channels, p, p)
        x = x.permute(0, 4, 1, 2, 5, 3, 6)  # (batch, channels, frames', h/p, p, w/p, p)
        return x.flatten(5, 6).flatten(3, 4)
