"""The VAE's causal network, chunk after chunk, in few passes over memory.

Memory decides its speed. At the largest resolution, 384x672 pixels with 128 channels in bfloat16, a frame is 66 MB,
and every operator reads and writes it. Passes over that frame in one residual block, when four frames come at a time:

                                                        stock   here
    copies for norms, single frames, NCDHW <-> NDHWC     36      0
    moments of the norms                                  2      2
    norms, and SiLU                                       8      4
    joining chunk and past, keeping the next past         8      4
    biases                                                4      0
    sum with the shortcut                                 5      3
    the convolutions' own reading and writing             8      5
                                                      -------  -----
                                                         71     18   or 1.2 GB a frame instead of 4.7

Stock convolves three frames at a time to one, for which each frame is cut out, turned to the layout that the GPU
convolves in, and back. Here a chunk stays in that layout and is convolved as a whole; what lies between two
convolutions is one function (`pointwise`), that also adds the bias and writes where the next convolution reads. With
16 frames at a time, joining and keeping fall to one pass, and the whole to 14.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLMagvit
from torch import Tensor, nn
from torch.nn import functional as F

from easyanim_server.engine.kernels.vae_ops import Way, best_way, follow, pointwise

Features = dict[nn.Module, Tensor]
"""What the chunks of one video leave for the next: for every causal convolution the last frames that it read."""

ALIGNED = 8
"""Numbers of channels that are not a multiple of this keep bfloat16 convolutions off the fast tensor-core kernels."""


def fastest_on_cpu(dtype: torch.dtype) -> dict[str, Any]:
    """How `StreamingVAE` is to convolve on a CPU: layout and flat.

    For float32, torch's 3-D convolutions fall back to unfolding the input for many numbers of channels, which takes
    up to nine times as long as the same as a sum of 2-D ones. In bfloat16 they do not.
    """
    return {"layout": torch.channels_last_3d, "flat": dtype is torch.float32}


class StreamingVAE:
    """Runs the stock network's weights over one chunk of a video at a time.

    Nothing is kept in between but the `Features` that the caller hands in, so any number of videos may be under way,
    in any number of threads. The forward hooks on stock modules are not run, pre-hooks are, to let them observe;
    what they return is ignored.

    Args:
        vae: The stock network. Its convolutions' weights are put in the order in memory of `layout`.
        way: How to compute what lies between convolutions; the fastest that works on the network's device by default.
        layout: `torch.channels_last_3d`, which GPUs convolve in (default there), or `torch.contiguous_format`, in
            which a CPU gives the stock network's bits.
        device: Where the weights will be when it runs; by default where they are.
        flat: Whether to convolve frames instead of videos, and to sum over time; see `fastest_on_cpu`. Needs
            `torch.channels_last_3d`, which is its default layout.

    Raises:
        ValueError: the network normalises over frames together or has another activation than SiLU.

    Source: the forward passes in diffusers' `autoencoder_kl_magvit.py`, 0.42.
    """

    def __init__(
        self,
        vae: AutoencoderKLMagvit,
        way: Way | None = None,
        layout: torch.memory_format | None = None,
        device: torch.device | None = None,
        flat: bool = False,
    ) -> None:
        if not vae.config.spatial_group_norm or vae.config.act_fn != "silu":
            raise ValueError(
                f"spatial_group_norm={vae.config.spatial_group_norm}, act_fn={vae.config.act_fn!r}: "
                "the fast path cannot run this VAE; must be True, 'silu'"
            )
        device = device or next(vae.parameters()).device
        self._vae = vae
        self._pointwise = pointwise(way or best_way(device))
        last = device.type == "cuda" or flat
        self._layout = layout or (torch.channels_last_3d if last else torch.contiguous_format)
        self._flat = flat
        for module in vae.modules():
            if isinstance(module, nn.Conv3d):
                module.weight.data = module.weight.data.contiguous(memory_format=self._layout)

    @torch.no_grad()
    def encode_chunk(self, video: Tensor, features: Features) -> Tensor:
        """Run the encoder.

        Args:
            video: (batch, 3, n, height, width) in [-1, 1], in the weights' dtype. A video's first chunk is its first
                frame, all others have a multiple of four frames.
            features: What the chunks before have left, empty before the first; replaced by what this one leaves.
                After a failure they are of no use.

        Returns:
            Moments before `quant_conv`, (batch, 32, 1 or n / 4, height / 8, width / 8).
        """
        encoder = self._vae.encoder
        return self._run(encoder, (*encoder.down_blocks, encoder.mid_block), video, features)

    @torch.no_grad()
    def decode_chunk(self, latents: Tensor, features: Features) -> Tensor:
        """Run the decoder.

        Args:
            latents: Behind `post_quant_conv`, (batch, 16, n, height / 8, width / 8), in the weights' dtype. A
                video's first chunk is its first latent frame.
            features: As in `encode_chunk`.

        Returns:
            (batch, 3, 1 or 4n, height, width), about [-1, 1] with overshoot.
        """
        decoder = self._vae.decoder
        return self._run(decoder, (decoder.mid_block, *decoder.up_blocks), latents, features)

    def _run(self, half: Any, stages: tuple[Any, ...], x: Tensor, features: Features) -> Tensor:
        """Run the encoder or the decoder; (batch, channels, frames, h, w) wherever `x` stands below."""
        _run_hooks(half, x)
        x = self._follow(half.conv_in, x.contiguous(memory_format=self._layout), features)
        x = self._conv_and_bias(half.conv_in, x)
        for stage in stages:
            x = self._stage(stage, x, features)
        y, bias = self._norm_conv(half.conv_norm_out, half.conv_out, x, None, features)
        return self._pointwise.add(y, bias, None, 1)

    def _stage(self, stage: Any, x: Tensor, features: Features) -> Tensor:
        """Run a down, mid or up block: residual blocks, and then what changes the size."""
        _run_hooks(stage, x)
        attentions = getattr(stage, "attentions", ())
        for number, block in enumerate(stage.convs):
            if attentions and number:
                x = self._attend(attentions[number - 1], x)
            x = self._residual(block, x, features)
        if getattr(stage, "downsampler", None) is not None:
            x = self._downsample(stage.downsampler, x, features)
        if getattr(stage, "upsampler", None) is not None:
            x = self._upsample(stage.upsampler, x, features)
        return x

    def _attend(self, attention: Any, x: Tensor) -> Tensor:
        """Let the pixels of each frame attend to one another; frames know nothing of each other here."""
        _run_hooks(attention, x)
        y: Tensor = attention.forward(x)
        return y.contiguous(memory_format=self._layout)

    def _residual(self, block: Any, x: Tensor, features: Features) -> Tensor:
        _run_hooks(block, x)
        y, bias = self._norm_conv(block.norm1, block.conv1, x, None, features)
        y, bias = self._norm_conv(block.norm2, block.conv2, y, bias, features)
        shortcut = x
        if isinstance(block.shortcut, nn.Conv3d):
            shortcut, more = self._conv(block.shortcut, x)
            bias = None if bias is None or more is None else bias + more
        return self._pointwise.add(y, bias, shortcut, 1)

    def _downsample(self, downsampler: Any, x: Tensor, features: Features) -> Tensor:
        """Halve height and width, and frames where the convolution strides over them."""
        _run_hooks(downsampler, x)
        z = self._follow(downsampler.conv, x, features)
        return self._conv_and_bias(downsampler.conv, self._pointwise.resize(z, 1, 1))

    def _upsample(self, upsampler: Any, x: Tensor, features: Features) -> Tensor:
        """Double height and width, and frames where it is told to, except those of the first chunk."""
        _run_hooks(upsampler, x)
        repeats = 2 if upsampler.temporal_upsample and upsampler.conv in features else 1
        z = self._follow(upsampler.conv, x, features)  # before it grows, so that the past that is kept is small
        return self._conv_and_bias(upsampler.conv, self._pointwise.resize(z, 2, 0), repeats)

    def _norm_conv(
        self, norm: nn.GroupNorm, conv: Any, x: Tensor, bias: Tensor | None, features: Features
    ) -> tuple[Tensor, Tensor | None]:
        """Normalise x + bias, activate, convolve; see `_conv` for what is returned."""
        z = self._pointwise.norm_silu(
            x, bias, features.get(conv), conv.temporal_padding, norm.weight, norm.bias, norm.num_groups, norm.eps
        )
        _keep(conv, z, features)
        return self._conv(conv, z)

    def _follow(self, conv: Any, x: Tensor, features: Features) -> Tensor:
        """Put the frames that `conv` has read before in front of `x`."""
        z = follow(x, features.get(conv), conv.temporal_padding)
        _keep(conv, z, features)
        return z

    def _conv_and_bias(self, conv: nn.Conv3d, z: Tensor, repeats: int = 1) -> Tensor:
        """Convolve where no norm follows that would add the bias, and repeat every frame."""
        y, bias = self._conv(conv, z)
        return self._pointwise.add(y, bias, None, repeats)

    def _conv(self, conv: nn.Conv3d, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Convolve a chunk behind its past, (batch, in, lead + frames, h, w).

        Returns:
            (batch, out, frames / stride, h', w'), and the bias where it is still to be added.
        """
        _run_hooks(conv, z)
        if self._flat:
            return _conv_flat(conv, z), None
        if self._layout == torch.contiguous_format:
            # CPUs take longer for a narrow convolution of many frames than for many convolutions of one frame.
            size, stride = conv.kernel_size[0], conv.stride[0]
            windows = [z[:, :, i : i + size] for i in range(0, z.shape[2] - size + 1, stride)]
            return torch.cat([_conv3d(conv, window, conv.bias) for window in windows], dim=2), None
        if self._pointwise.adds_bias and conv.out_channels % ALIGNED == 0:
            return _conv3d(conv, z, None), conv.bias
        return _conv3d(conv, z, conv.bias), None


def _keep(conv: Any, z: Tensor, features: Features) -> None:
    """Keep of all that `conv` is about to read the frames that it will need again."""
    again = conv.temporal_padding + 1 - conv.t_stride
    features[conv] = z[:, :, -again:].clone()  # a view would hold the whole chunk


def _conv3d(conv: nn.Conv3d, z: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with numbers of channels rounded up with zeros, of which nothing is seen outside."""
    weight = conv.weight  # (out, in, t, h, w)
    more_out, more_in = -conv.out_channels % ALIGNED, -conv.in_channels % ALIGNED
    if z.is_contiguous(memory_format=torch.channels_last_3d) and (more_out or more_in):
        weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, more_in, 0, more_out))
        z = F.pad(z, (0, 0, 0, 0, 0, 0, 0, more_in)) if more_in else z
        bias = None if bias is None else F.pad(bias, (0, more_out))
    return F.conv3d(z, weight, bias, conv.stride, conv.padding)[:, : conv.out_channels]


def _conv_flat(conv: nn.Conv3d, z: Tensor) -> Tensor:
    """Convolve all frames with the kernel of each instant by itself, and sum."""
    instants, stride = conv.kernel_size[0], conv.stride[0]
    last = z.shape[2] - instants
    total: Tensor | None = None
    for instant in range(instants):
        frames = z[:, :, instant : instant + last + 1 : stride].transpose(1, 2)  # (batch, frames, in, h, w)
        bias = conv.bias if total is None else None
        part = F.conv2d(frames.flatten(0, 1), conv.weight[:, :, instant], bias, conv.stride[1:], conv.padding[1:])
        total = part if total is None else total.add_(part)
    assert total is not None  # kernels have an instant at least
    return torch.unflatten(total, 0, (z.shape[0], -1)).transpose(1, 2)


def _run_hooks(module: nn.Module, x: Tensor) -> None:
    """Let the pre-hooks of a stock module see that a chunk runs through it, though its own forward is not called."""
    for hook in tuple(module._forward_pre_hooks.values()):
        hook(module, (x,))
