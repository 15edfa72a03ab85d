"""The video VAE, safe against failures: pixels to latents and back, a few frames at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from diffusers import AutoencoderKLMagvit
from torch import Tensor, nn

from easyanim_server.domain.wording import counted
from easyanim_server.engine.families.easyanimate_v51.vae_fast import Features, StreamingVAE, fastest_on_cpu
from easyanim_server.engine.families.easyanimate_v51.vae_tiling import cut, join
from easyanim_server.engine.kernels.vae_ops import Way

Path = Literal["stock", "fast"]


class VideoAutoencoder:
    """Encodes and decodes in causal chunks: the first frame alone, then a few at a time.

    The stock network keeps the features that a chunk leaves for the next one inside its modules. A failure between
    two chunks leaves them there, where they break the next video or leak into it, and two videos at once mix. Here
    they belong to one use, and a chunk is handed them. So uses may fail, be abandoned half-way, interleave, and come
    from several threads.

    Args:
        vae: The stock network. Its own tiling is not used.
        path: ``fast`` runs the forward pass of `StreamingVAE`, ``stock`` the network's own, to compare with; their
            results are equal but for rounding.
        sample_frames: Frames that are encoded at a time after the first, a multiple of 4. More are faster and need
            more memory.
        latent_frames: Latent frames that are decoded at a time after the first; each makes four frames.
        way: How the fast path computes what lies between convolutions; by default the fastest for the device.
        device: Where it computes; by default where the weights are.
        exact: Whether the fast path gives the stock network's bits on a CPU, which takes several times as long.
        tiled: Whether a video of that height and width, in pixels, is done in tiles: less memory, other pixels, all
            frames at once.
        sliced: Whether videos of a batch are done one by one: less memory, more time, the same pixels.

    Raises:
        ValueError: there are no such chunks, or the fast path cannot run this network.
    """

    def __init__(
        self,
        vae: AutoencoderKLMagvit,
        path: Path = "fast",
        sample_frames: int = 4,
        latent_frames: int = 1,
        way: Way | None = None,
        device: torch.device | None = None,
        exact: bool = False,
        tiled: Callable[[int, int], bool] = lambda height, width: False,
        sliced: bool = False,
    ) -> None:
        if sample_frames < 1 or sample_frames % vae.temporal_compression_ratio:
            raise ValueError(f"sample_frames is {sample_frames}; must be a multiple of 4")
        if latent_frames < 1:
            raise ValueError(f"latent_frames is {latent_frames}; must be at least 1")
        self._vae = vae
        weight = next(vae.parameters())
        self.dtype = weight.dtype
        device = device or weight.device
        convolves = fastest_on_cpu(weight.dtype) if device.type == "cpu" and not exact else {}
        self._network = StreamingVAE(vae, way, device=device, **convolves) if path == "fast" else _StockVAE(vae)
        self._tiled = tiled
        self._sliced = sliced
        self._sample_frames = sample_frames
        self._latent_frames = latent_frames

    @torch.no_grad()
    def encode(
        self, video: Tensor, observe: Callable[[int, int], None], ready: Callable[[], None] = lambda: None
    ) -> Tensor:
        """Compress a video to the most likely latents.

        Args:
            video: (batch, 3, frames, height, width) in [-1, 1], in the weights' dtype; frames of the form 4k+1,
                height and width multiples of 8.
            observe: Called with (frames done, frames) before the first chunk and after each; may raise to leave.
            ready: Called before each chunk, to have the weights there.

        Returns:
            (batch, 16, (frames - 1) / 4 + 1, height / 8, width / 8), scaled to the transformer's range.

        Raises:
            ValueError: the number of frames is not of the form 4k+1, which the network would fail on half-way.
        """
        frames = video.shape[2]
        if frames % self._vae.temporal_compression_ratio != 1:
            raise ValueError(f"{counted(frames, 'frame')} cannot be encoded; must be 4k+1")
        height, width = video.shape[-2:]
        observe(0, frames)
        if not self._tiled(height, width):
            mean = self._encode(video, lambda done: observe(done, frames), ready)
        else:
            tiles, means = list(cut(video, 1)), list[Tensor]()
            for tile in tiles:
                before = frames * len(means)

                def observe_tile(done: int, before: int = before) -> None:
                    observe((before + done) // len(tiles), frames)

                means.append(self._encode(tile, observe_tile, ready))
            scale = self._vae.spatial_compression_ratio
            mean = join(means, height // scale, width // scale, scale)
        latents: Tensor = mean * self._vae.config.scaling_factor
        return latents

    def _encode(self, video: Tensor, observe: Callable[[int], None], ready: Callable[[], None]) -> Tensor:
        """Most likely latents, not scaled."""
        if self._sliced and len(video) > 1:
            return torch.cat([self._encode(one, observe, ready) for one in torch.split(video, 1)])
        features: Features = {}
        moments = []
        for chunk in _chunks(video.shape[2], self._sample_frames):
            ready()
            moments.append(self._network.encode_chunk(video[:, :, chunk], features))
            observe(chunk.stop)
        mean: Tensor = self._vae.quant_conv(torch.cat(moments, dim=2)).chunk(2, dim=1)[0]
        return mean

    @torch.no_grad()
    def decode(self, latents: Tensor, ready: Callable[[], None] = lambda: None) -> Iterator[Tensor]:
        """Decompress latents, yielding frames as soon as they are there.

        Their concatenation is the stock network's full decode. The generator may be left at any point.

        Args:
            latents: (batch, 16, frames', height / 8, width / 8), in the transformer's range.
            ready: Called before each chunk, to have the weights there.

        Yields:
            (batch, 3, n, height, width), about [-1, 1] with overshoot, where n is 1, then 4, 4, ... In tiles n is 0
            after each chunk of each tile, where no frame is complete yet but the caller may leave.
        """
        scale = self._vae.spatial_compression_ratio
        height, width = (scale * size for size in latents.shape[-2:])
        if not self._tiled(height, width):
            for frames in self._decode(latents, ready):
                yield from torch.split(frames, self._vae.temporal_compression_ratio, dim=2)
            return
        tiles = []
        for tile in cut(latents, scale):
            parts = []
            for frames in self._decode(tile, ready):
                parts.append(frames)
                yield frames.new_empty(*frames.shape[:2], 0, height, width)
            tiles.append(torch.cat(parts, dim=2))
        video = join(tiles, height, width, 1)
        yield video[:, :, :1]
        yield from torch.split(video[:, :, 1:], self._vae.temporal_compression_ratio, dim=2)

    def _decode(self, latents: Tensor, ready: Callable[[], None]) -> Iterator[Tensor]:
        """Chunks of frames."""
        if self._sliced and len(latents) > 1:
            for chunks in zip(*(self._decode(one, ready) for one in torch.split(latents, 1)), strict=True):
                yield torch.cat(chunks)
            return
        ready()
        z = self._vae.post_quant_conv(1 / self._vae.config.scaling_factor * latents)
        features: Features = {}
        for chunk in _chunks(z.shape[2], self._latent_frames):
            ready()
            yield self._network.decode_chunk(z[:, :, chunk], features)


class _StockVAE:
    """The stock network's own forward pass, with the features of one use at a time; the methods of `StreamingVAE`."""

    def __init__(self, vae: AutoencoderKLMagvit) -> None:
        self._vae = vae
        self._lock = threading.Lock()
        self._causal = [module for module in vae.modules() if hasattr(module, "prev_features")]

    def encode_chunk(self, video: Tensor, features: Features) -> Tensor:
        return self._run(self._vae.encoder, video, features)

    def decode_chunk(self, latents: Tensor, features: Features) -> Tensor:
        return self._run(self._vae.decoder, latents, features)

    def _run(self, half: nn.Module, x: Tensor, features: Features) -> Tensor:
        """Run one chunk after the one that left `features`, and replace them with what it leaves."""
        with self._lock:
            for module in self._causal:
                module.prev_features = features.get(module)
            try:
                y: Tensor = half(x)
                left = {module: module.prev_features for module in self._causal}
                features.update((module, feature) for module, feature in left.items() if feature is not None)
                return y
            finally:
                for module in self._causal:
                    module.prev_features = None


def _chunks(frames: int, size: int) -> Iterator[slice]:
    """Cut a causal sequence: its first frame, then `size` at a time."""
    yield slice(0, 1)
    for start in range(1, frames, size):
        yield slice(start, min(start + size, frames))
