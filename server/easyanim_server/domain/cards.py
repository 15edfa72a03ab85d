"""Cards whose rates are public, to scale times that were measured on another one.

Rates are makers' peaks: dense (not sparse) products of 16 and 8 bits with sums in 32 bits, memory bandwidth, and the
link to the host. What is reached of a peak differs from card to card, so times that are scaled by them are estimates.

GeForce cards make 8-bit products with sums in 32 bits at half the rate of those with sums in 16 bits, which are what
tables of the 5090 give: "NVIDIA RTX 5090 Specs: 32GB GDDR7, Blackwell Architecture, and 5th Gen Tensor Cores" has
1,676.8 sparse, which is 838.4 dense and 419.2 with sums in 32 bits; in 16 bits 838.4 sparse, likewise 209.6; and
1,792 GB/s. "NVIDIA GeForce RTX 4090" of waredb has that card's halves themselves, 165.15 and 330.3. The bandwidths of
H100 and H200, 3.35 and 4.8 TB/s, stand side by side in "NVIDIA H200 GPU Specifications and Features".
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from easyanim_server.domain.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Card:
    """One card's rates by its maker."""

    name: str
    bf16: float
    """Operations a second of dense bf16 products with float32 sums."""
    fp8: float
    """The same in 8 bits; 0 where the card has no such products."""
    bandwidth: float
    """Bytes a second of its memory."""
    pcie: int
    """Generation of its link to the host, of 16 lanes."""

    @property
    def link(self) -> float:
        """Bytes a second from locked host memory that are reached: 25 GB/s of PCIe 4.0, others in proportion."""
        return 25e9 * 2.0 ** (self.pcie - 4)


CARDS = {
    # NVIDIA Ampere GA102 whitepaper v2.1, table 9: FP16/BF16 tensor with FP32 accumulate, dense.
    "3090": Card("NVIDIA GeForce RTX 3090", 71e12, 0.0, 936e9, 4),
    # NVIDIA Ada GPU architecture whitepaper v2.1, appendix A: BF16 with FP32 accumulate, FP8 with FP32 accumulate.
    "4090": Card("NVIDIA GeForce RTX 4090", 165.2e12, 330.3e12, 1008e9, 4),
    # NVIDIA RTX Blackwell GPU architecture whitepaper v1.1, appendix A: the same columns.
    "5090": Card("NVIDIA GeForce RTX 5090", 209.5e12, 419e12, 1792e9, 5),
    # NVIDIA RTX A6000 datasheet gives 309.7 sparse; half of it dense.
    "a6000": Card("NVIDIA RTX A6000", 154.8e12, 0.0, 768e9, 4),
    # NVIDIA L4 datasheet: 121 and 242 dense.
    "l4": Card("NVIDIA L4", 121e12, 242e12, 300e9, 4),
    # NVIDIA L40S datasheet: 362 and 733 dense.
    "l40s": Card("NVIDIA L40S", 362e12, 733e12, 864e9, 4),
    # NVIDIA A100 80GB datasheet, SXM.
    "a100": Card("NVIDIA A100 80GB", 312e12, 0.0, 2039e9, 4),
    # NVIDIA H100 datasheet, SXM: 1,979 and 3,958 sparse; half of them dense.
    "h100": Card("NVIDIA H100 80GB", 989.4e12, 1978.9e12, 3350e9, 5),
    # NVIDIA H200 datasheet, SXM: as the H100, with other memory.
    "h200": Card("NVIDIA H200", 989.4e12, 1978.9e12, 4800e9, 5),
}
"""By the name that `plan --card` takes."""

REFERENCE = CARDS["h200"]
"""Whose times are measured."""


def find(name: str) -> Card:
    """The card of a name such as ``4090``, ``RTX 4090`` or ``NVIDIA H100 80GB``.

    Raises:
        ConfigurationError: no rates of it are known; names those that are.
    """
    words = re.sub(r"nvidia|geforce|rtx|\d+ ?gi?b|[^a-z0-9]", "", name.lower())
    if words in CARDS:
        return CARDS[words]
    near = difflib.get_close_matches(words, CARDS, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigurationError(f"card {name!r} has no known rates; known are {', '.join(CARDS)}{hint}")
