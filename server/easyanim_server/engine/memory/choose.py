"""Which placement suits a card, a model and its buckets, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch

from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.execution import Backend, Tiling
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.placement import FASTEST_FIRST, PlacementSetting, WeightPlacement
from easyanim_server.engine.compile.precision import resolve_precision
from easyanim_server.engine.config import EngineConfig
from easyanim_server.engine.memory.estimate import CONTEXT_BYTES, GIB, Estimate, estimate
from easyanim_server.engine.memory.outline import Outline
from easyanim_server.engine.weights import checkpoint


@dataclass(frozen=True)
class PlacementChoice:
    """A placement for all buckets."""

    placement: WeightPlacement
    estimates: tuple[Estimate, ...]
    """For each bucket."""
    reason: str
    """One sentence."""

    def of(self, bucket: Bucket) -> Estimate | None:
        """What was predicted for a bucket."""
        return next((item for item in self.estimates if item.bucket == bucket), None)

    def tiles(self, height: int, width: int) -> bool:
        """Whether a bucket of that size needs the VAE to work on tiles."""
        return any(item.tiled for item in self.estimates if (item.bucket.height, item.bucket.width) == (height, width))

    def wants_tiles(self, tiling: Tiling, height: int, width: int) -> bool:
        """Whether the VAE is to work on tiles, where it can: if that is asked for or needed."""
        return tiling is Tiling.ON or (tiling is Tiling.AUTO and self.tiles(height, width))


Asked = tuple[str, str, str]
"""Placement, backend and precision, as settings name them."""


@dataclass(frozen=True)
class Forecast:
    """What a bucket is predicted to take under settings that were not tried."""

    asked: Asked
    estimate: Estimate
    fits: bool
    """Whether the card has room for it."""


def choose(
    outline: Outline,
    buckets: Sequence[Bucket],
    card: int,
    *,
    placement: PlacementSetting = PlacementSetting.AUTO,
    backend: str = "inductor",
    precision: str = "bf16",
    tiling: Tiling = Tiling.AUTO,
) -> PlacementChoice:
    """Pick the fastest placement in which every bucket fits, or check the one that is asked for.

    Without need, the VAE is not tiled, which would change pixels: a slower placement goes before a tiled one.

    Args:
        outline: The model.
        buckets: All that are to be served.
        card: Bytes of the device's memory that this process may take.
        placement: ``auto``, or the one to check.
        backend: What runs the transformer's blocks.
        precision: ``bf16``, ``fp8`` or ``fp8-weights``.
        tiling: Of the VAE: ``off``, ``on``, or ``auto`` for where a bucket does not fit without.

    Raises:
        ConfigurationError: a bucket does not fit; names it, and what would make it fit.
    """
    named = placement.placement
    candidates = (named,) if named else FASTEST_FIRST
    if named is None and precision != "bf16":
        candidates = (WeightPlacement.FULL, WeightPlacement.FULL_IN_8_BITS, *FASTEST_FIRST[1:])
    passed: list[str] = []
    for tiled in tiling.tried:
        for name in candidates:
            estimates = [_fitting(outline, bucket, card, name, backend, precision, tiled, tiling) for bucket in buckets]
            worst = max(estimates, key=lambda item: item.peak)
            if name is WeightPlacement.FULL and precision != "bf16":  # it starts from weights in bf16 on the device
                first = min(buckets, key=lambda bucket: bucket.height * bucket.width * bucket.frames)
                worst = max(worst, estimate(outline, first, name, "eager", "bf16", tiled=True), key=lambda it: it.peak)
            if worst.least_card <= card:
                return PlacementChoice(name, tuple(estimates), _reason(named, estimates, worst, card, passed))
            if not tiled:
                passed.append(f"{name} needs {_gib(worst.least_card)}")
    raise ConfigurationError(_refusal(outline, buckets, card, candidates, backend, precision, tiling))


def _fitting(
    outline: Outline,
    bucket: Bucket,
    card: int,
    name: WeightPlacement,
    backend: str,
    precision: str,
    tiled: bool,
    tiling: Tiling,
) -> Estimate:
    """A bucket's estimate, with tiles where they are allowed and either forced or needed."""
    whole = estimate(outline, bucket, name, backend, precision, tiled=False)
    if not tiled or (tiling is Tiling.AUTO and whole.least_card <= card):
        return whole
    return estimate(outline, bucket, name, backend, precision, tiled=True)


def _reason(
    asked: WeightPlacement | None, estimates: Sequence[Estimate], worst: Estimate, card: int, passed: list[str]
) -> str:
    fits = f"{worst.bucket} is predicted to need {_gib(worst.least_card)} of {_gib(card)}"
    cut = [str(item.bucket) for item in estimates if item.tiled]
    tiles = f" with the VAE in tiles for {', '.join(cut)}" if cut else ""
    if asked is not None:
        return f"{asked} as configured: {fits}{tiles}"
    others = f"; {', '.join(passed)}" if passed else ""
    return f"{worst.placement} is the fastest that fits{tiles}: {fits}{others}"


def _refusal(
    outline: Outline,
    buckets: Sequence[Bucket],
    card: int,
    candidates: Sequence[WeightPlacement],
    backend: str,
    precision: str,
    tiling: Tiling,
) -> str:
    tiled = tiling is not Tiling.OFF
    leanest = {
        bucket: min(
            (_fitting(outline, bucket, card, name, backend, precision, tiled, tiling) for name in candidates),
            key=lambda item: item.peak,
        )
        for bucket in buckets
    }
    wrong = [item for item in leanest.values() if item.least_card > card]
    named = ", ".join(f"{item.bucket} ({_gib(item.least_card)} in {item.placement})" for item in wrong)
    verb = "does" if len(wrong) == 1 else "do"
    return (
        f"{_gib(card)} of device memory: bucket {named} {verb} not fit; {_help(outline, wrong, card, backend, tiling)}"
    )


def _help(outline: Outline, wrong: Sequence[Estimate], card: int, backend: str, tiling: Tiling) -> str:
    """What would make them fit, first without and then with tiles; else a larger card.

    Weights in 8 bits are never needed: streamed blocks take less room as they are.
    """

    def tried(name: WeightPlacement, tiled: bool) -> int:
        asked = wrong[0].precision
        precision = "bf16" if asked == "fp8-weights" and not name.in_8_bits else asked
        each = (estimate(outline, item.bucket, name, backend, precision, tiled=tiled) for item in wrong)
        return max(item.least_card for item in each)

    own = wrong[0].placement
    others = [name for name in FASTEST_FIRST if name is not own]
    for name, tiled in [(name, False) for name in others] + [(name, True) for name in (own, *others)]:
        if tried(name, tiled) <= card:
            asks = [f"placement={name}"] if name is not own else []
            asks += ["vae_tiling=on"] if tiled and tiling is Tiling.OFF else []
            return f"{' and '.join(asks)} would make it fit"
    least = min(tried(name, True) for name in (*FASTEST_FIRST, own))
    return f"leave it out of --buckets, or use a card with {_gib(least)} or more"


def find_placement(config: EngineConfig, outline: Callable[[], Outline]) -> PlacementChoice:
    """Choose for the device that is there, before any weight is loaded.

    On the CPU nothing is short but host memory, so `auto` is `full` and any other placement works for the sake of it.

    Args:
        config: Device, buckets and how to run.
        outline: Called where the model's size matters.

    Raises:
        ConfigurationError: a bucket does not fit the device, or the weights do not fit the host.
        UnsupportedModel: the model has no outline.
    """
    named = config.placement.placement
    if config.device.type == "cuda":
        made = choose(
            outline(),
            config.buckets,
            room(config),
            placement=config.placement,
            backend="inductor" if config.backend is Backend.AUTO else config.backend,
            precision=resolve_precision(config.precision, bool(named and named.in_8_bits), config.device),
            tiling=config.vae_tiling,
        )
        _check_host(made)
        return made
    if named is None:
        return PlacementChoice(WeightPlacement.FULL, (), "the CPU has all weights in its own memory")
    return PlacementChoice(named, (), f"{named} as configured")


def room(config: EngineConfig) -> int:
    """Bytes of a CUDA device that a process so configured may plan with now."""
    free, total = torch.cuda.mem_get_info(config.device)
    return capacity(total, free, config.vram_limit_gib)


def predicted(config: EngineConfig, asked: Sequence[Asked]) -> list[Forecast]:
    """What candidates for tuning are predicted to take, bucket by bucket; nothing on the CPU, where nothing is short.

    Args:
        config: Model, device, buckets, tiling and limits count.
        asked: Placement, backend and precision of each.
    """
    if config.device.type != "cuda":
        return []
    outline = checkpoint.outline(config.model, config.dtype, config.revision)
    card = room(config)
    forecasts = []
    for placement, backend, precision in asked:
        placed = WeightPlacement(placement)
        runs = resolve_precision(precision, True, config.device) if placed.in_8_bits else precision
        for bucket in config.buckets:
            for tiled in config.vae_tiling.tried:
                item = estimate(outline, bucket, placed, backend, runs, tiled=tiled)
                if item.least_card <= card:
                    break
            forecasts.append(Forecast((placement, backend, precision), item, item.least_card <= card))
    return forecasts


def capacity(total: int, free: int, limit_gib: float | None) -> int:
    """Bytes that a process may plan with: of the part of a card that is free, or that it is limited to.

    Args:
        total: Of the card.
        free: Of it now, CUDA's own share of this process taken off already.
        limit_gib: The setting, or None.
    """
    room = min(free + CONTEXT_BYTES, total)
    return min(room, int(limit_gib * GIB)) if limit_gib else room


def _check_host(choice: PlacementChoice) -> None:
    needed, available = choice.estimates[0].host, psutil.virtual_memory().available
    if needed > available:
        raise ConfigurationError(
            f"placement {choice.placement} keeps {_gib(needed)} of weights in host memory, of which {_gib(available)} "
            "are available; placement full needs none, on a card that is large enough"
        )


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
