"""What the VAE is taught first: the best linear code of small blocks of pixels, found by principal components.

At the demo model's compression, 8x8 pixels of four frames to 16 numbers, it keeps 28.7 dB of held-out clips: more than
a VAE of this size finds by itself in many times the training. So the decoder first learns to read this code and the
encoder to write it, each by itself, and only then are they trained as one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FRAMES, SIDE = 4, 8
"""Of a block: what one latent place stands for."""


class LinearCode(nn.Module):
    """Blocks of pixels as their first principal components, each of unit variance over the clips it was found on.

    Args:
        clips: (batch, 3, 4k+1, height, width) in [-1, 1]; sides are multiples of 8.
        channels: Components that are kept.
    """

    @torch.no_grad()
    def __init__(self, clips: Tensor, channels: int) -> None:
        super().__init__()
        blocks = _blocks(clips).flatten(0, 3).double()
        centred = blocks - blocks.mean(0)
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        basis = vectors.flip(1)[:, :channels]  # eigenvalues come in rising order
        # Parameters, so that they are saved with what was trained on them.
        self.mean = nn.Parameter(blocks.mean(0).float(), requires_grad=False)
        self.basis = nn.Parameter((basis / (centred @ basis).std(0)).float(), requires_grad=False)

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        """Encode: (batch, 3, 4k+1, height, width) to (batch, channels, k+1, height / 8, width / 8)."""
        code: Tensor = (_blocks(video) - self.mean) @ self.basis
        return code.permute(0, 4, 1, 2, 3)


def _blocks(video: Tensor) -> Tensor:
    """Blocks at every latent place, (batch, k+1, height / 8, width / 8, 768); the first frame fills one by itself."""
    filled = torch.cat((*(video[:, :, :1],) * (FRAMES - 1), video), dim=2)
    blocks = filled.unfold(2, FRAMES, FRAMES).unfold(3, SIDE, SIDE).unfold(4, SIDE, SIDE)
    return blocks.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4)
