"""How much memory and time a bucket takes in a placement: a model of both, fitted to what was measured on an H200.

`tests/unit/test_memory.py` holds its constants to the files under `bench/results`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from easyanim_server.domain.cards import REFERENCE, Card
from easyanim_server.domain.events import Phase
from easyanim_server.domain.job import DEFAULT_STEPS, Bucket
from easyanim_server.domain.placement import Movement, WeightPlacement
from easyanim_server.engine.memory.outline import Outline
from easyanim_server.engine.memory.prefetch import AHEAD

GIB = 2**30
MIB = 2**20

STEP_ACTIVATIONS = {
    ("eager", "bf16"): (14.34, 63 * MIB),
    ("eager", "fp8"): (14.60, 147 * MIB),
    ("inductor", "bf16"): (8.09, 152 * MIB),
    ("inductor", "fp8"): (9.11, 146 * MIB),
}
"""Memory of a prediction beside the weights, by backend and precision: vectors of the model's width for each token, and
bytes whatever the tokens. Weights cast from 8 bits are in addition to bf16's."""

VAE_ACTIVATIONS = {Phase.IMAGE_ENCODE: 39.3, Phase.DECODE: 55.2}
"""Memory of the VAE's two ways beside weights and video: numbers for each pixel of a frame, for each channel of the
widest layer."""

TILES_SHARE = 1.25
"""Pixels of all tiles for one of the video, about: they overlap."""

TEXT_ACTIVATIONS = 128 * MIB
"""Memory of reading a prompt beside the weights, generously."""

FRAGMENTATION = 1.03
"""What the allocator takes of the device for what is asked of it."""

CONTEXT_BYTES = int(0.6 * GIB)
"""What CUDA itself and the libraries' workspaces take of a card before the first tensor."""

RATES = {"bf16": (597e12, 670e12), "fp8": (989e12, 661e12)}
"""Operations a second of an H200 in products with weights and in attention, in a step."""

VAE_SECONDS = {Phase.IMAGE_ENCODE: 3.5e-8, Phase.DECODE: 3.0e-8}
"""Of an H200, for each pixel of each frame."""

REFERENCE_CARD = REFERENCE.name
"""The card whose times were measured, and are predicted where no other is asked for."""

LINK_RATE = 25e9
"""Bytes a second from locked host memory to the card: PCIe 4.0 with 16 lanes, which cards of 12 to 24 GB have."""

PAGEABLE_RATE = 6e9
"""The same from memory that is not locked."""


@dataclass(frozen=True)
class Estimate:
    """What a bucket will take in a placement, where one job runs at a time."""

    bucket: Bucket
    placement: WeightPlacement
    precision: str
    tiled: bool
    """Whether the VAE works on tiles."""
    peaks: Mapping[Phase, int]
    """Most bytes of the device's memory in each phase, weights included."""
    host: int
    """Bytes of host memory that weights take."""
    seconds: float
    """Of a generation with guidance and a start picture, on `REFERENCE_CARD` or, scaled by public rates, on another."""

    @property
    def peak(self) -> int:
        """Most bytes of the device's memory, as its allocator counts them."""
        return max(self.peaks.values())

    @property
    def least_card(self) -> int:
        """Bytes of the smallest card that holds it, fragmentation and CUDA's own share included."""
        return int(self.peak * FRAGMENTATION) + CONTEXT_BYTES


def estimate(
    outline: Outline,
    bucket: Bucket,
    placement: WeightPlacement,
    backend: str,
    precision: str,
    *,
    tiled: bool,
    steps: int = DEFAULT_STEPS,
    card: Card | None = None,
) -> Estimate:
    """Predict what a bucket takes.

    Args:
        outline: The model.
        bucket: The video's shape.
        placement: Where weights are, and what they are stored in.
        backend: What runs the blocks; unknown ones are taken for eager, which takes most.
        precision: ``bf16``, ``fp8`` or ``fp8-weights``.
        tiled: Whether the VAE works on tiles, if there is more than one.
        steps: Of the generation whose time is predicted.
        card: Whose time; None for `REFERENCE_CARD` behind a link of `LINK_RATE`.
    """
    tiled = tiled and outline.is_cut(bucket)
    if precision == "bf16" and placement.in_8_bits:
        precision = "fp8-weights"
    how = placement.movement
    blocks = outline.blocks if precision == "bf16" else outline.blocks_fp8
    step, activations = outline.rest, _step_activations(outline, bucket, backend, precision)
    places = 1 if how is Movement.SEQUENTIAL else 1 + AHEAD
    text = outline.text if how is Movement.FULL else min(places * outline.text_layer, outline.text - outline.text_table)
    if how in (Movement.FULL, Movement.MODEL):
        step += sum(blocks)
    else:
        step += min(places, len(blocks)) * max(blocks)
        if how is Movement.GROUP:  # both predictions of guidance are under way at once
            activations += _tokens(outline, bucket) * outline.width * outline.itemsize
    peaks = {
        Phase.TEXT_ENCODE: text + TEXT_ACTIVATIONS,
        Phase.DENOISE: step + activations,
        **{phase: outline.vae + _vae_activations(outline, bucket, phase, tiled) for phase in VAE_ACTIVATIONS},
    }
    if how is Movement.FULL:
        weights = {Phase.TEXT_ENCODE: text, Phase.DENOISE: step}
        peaks = {
            phase: peak + text + step + outline.vae - weights.get(phase, outline.vae) for phase, peak in peaks.items()
        }
    return Estimate(
        bucket=bucket,
        placement=placement,
        precision=precision,
        tiled=tiled,
        peaks=peaks,
        host=0 if placement is WeightPlacement.FULL else outline.text + outline.rest + sum(blocks) + outline.vae,
        seconds=_seconds(outline, bucket, how, precision, sum(blocks), tiled, steps, card),
    )


def _tokens(outline: Outline, bucket: Bucket) -> int:
    return outline.text_tokens + outline.geometry.video_tokens(bucket)


def _step_activations(outline: Outline, bucket: Bucket, backend: str, precision: str) -> int:
    known = "fp8" if precision == "fp8" else "bf16"
    vectors, base = STEP_ACTIVATIONS.get((backend, known), STEP_ACTIVATIONS["eager", known])
    if precision == "fp8-weights":
        base += 3 * 4 * outline.width**2 * outline.itemsize  # the widest layer, cast, and what casting takes
    return int(vectors * _tokens(outline, bucket) * outline.width * outline.itemsize) + base


def _vae_activations(outline: Outline, bucket: Bucket, phase: Phase, tiled: bool) -> int:
    pixels = bucket.height * bucket.width
    at_once = min(bucket.height, outline.vae_tile) * min(bucket.width, outline.vae_tile) if tiled else pixels
    video = 3 * bucket.frames * pixels * outline.itemsize
    # Encoding begins with the whole video; decoded frames leave as they come, but in tiles, which overlap, at the end.
    kept = video if phase is Phase.IMAGE_ENCODE else int(TILES_SHARE * video) if tiled else 0
    return int(VAE_ACTIVATIONS[phase] * at_once * outline.vae_channels * outline.itemsize) + kept


def _seconds(
    outline: Outline,
    bucket: Bucket,
    how: Movement,
    precision: str,
    blocks: int,
    tiled: bool,
    steps: int,
    card: Card | None,
) -> float:
    link, on = (card.link if card else LINK_RATE), card or REFERENCE
    in_8_bits = precision == "fp8" and on.fp8 > 0
    flops = outline.step_cost(outline.geometry.video_tokens(bucket))
    linear, attention = RATES["fp8" if in_8_bits else "bf16"]
    peaks = (REFERENCE.fp8, on.fp8) if in_8_bits else (REFERENCE.bf16, on.bf16)
    step = _scaled(flops.linear, linear, *peaks, on) + _scaled(flops.attention, attention, REFERENCE.bf16, on.bf16, on)
    moved = 0.0
    if how is Movement.GROUP:
        step = max(step, blocks / link)
        moved = (outline.text + outline.rest + 2 * outline.vae) / link
    elif how is Movement.SEQUENTIAL:
        step += 2 * blocks / PAGEABLE_RATE
        moved = (outline.text + outline.rest + 2 * outline.vae) / PAGEABLE_RATE
    elif how is Movement.MODEL:
        moved = (outline.text + outline.rest + blocks + 2 * outline.vae) / link
    pixels = bucket.height * bucket.width * bucket.frames * (1.25 if tiled else 1.0)
    slower = max(REFERENCE.bf16 / on.bf16, REFERENCE.bandwidth / on.bandwidth)
    return steps * step + sum(VAE_SECONDS.values()) * pixels * slower + moved


def _scaled(operations: float, rate: float, peak: float, peak_of_card: float, card: Card) -> float:
    """Seconds on a card of what the reference does at `rate`, below its `peak`.

    What it would take at its peak changes as peaks do; the rest is waiting for memory, and changes as bandwidth does.
    """
    waiting = max(0.0, operations / rate - operations / peak)
    return operations / peak_of_card + waiting * REFERENCE.bandwidth / card.bandwidth
