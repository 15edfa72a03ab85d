"""The command `easyanim-server plan`: what fits a card of a given size, without one."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from easyanim_server.config.settings import Settings
from easyanim_server.domain.cards import Card
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.execution import Tiling
from easyanim_server.domain.job import DEFAULT_STEPS, Bucket
from easyanim_server.domain.placement import FASTEST_FIRST, IN_8_BITS
from easyanim_server.engine.devices import resolve_device, resolve_dtype
from easyanim_server.engine.memory.choose import choose
from easyanim_server.engine.memory.estimate import LINK_RATE, PAGEABLE_RATE, REFERENCE_CARD, Estimate, estimate
from easyanim_server.engine.weights import checkpoint

UNITS = {"GB": 10**9, "GiB": 2**30, "MiB": 2**20}
GIB = 2**30

FILE_WIDTH = 150
"""Characters in a line where the output is no terminal."""

HEADINGS = (
    "bucket", "placement", "precision", "fits", "card GiB", "peak GiB", "in phase", "host GiB", "seconds",
)  # fmt: skip
FULL_WIDTH = 122
"""Characters that all columns need; a narrower terminal gets none of `LEFT_OUT`."""
LEFT_OUT = ("in phase", "host GiB")


@dataclass(frozen=True)
class MemoryPlan:
    """Every bucket in every placement on a card of some size."""

    model: str
    card: int
    """Bytes."""
    rows: tuple[Estimate, ...]
    auto: str
    """What `auto` would choose and why, or why nothing fits."""
    seconds_of: Card | None = None
    """The card whose seconds are estimated from public rates; None for those that follow measurements."""

    @property
    def timed(self) -> str:
        """The name of the card whose seconds the rows have."""
        return self.seconds_of.name if self.seconds_of else REFERENCE_CARD

    @property
    def buckets(self) -> list[Bucket]:
        """In order, each once."""
        return list(dict.fromkeys(row.bucket for row in self.rows))


def parse_size(text: str) -> int:
    """Read a size of memory, such as ``24GiB``, ``24 GB`` or ``24``, which means GiB as makers of cards count.

    Raises:
        ConfigurationError: it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(GB|GiB|MiB|G)?\s*", text)
    size = float(match[1]) * UNITS.get(match[2] or "GiB", GIB) if match else 0.0
    if size <= 0:
        raise ConfigurationError(f"vram {text!r} must be a size such as 24GiB, 24GB or 24564MiB")
    return int(size)


def plan(settings: Settings, vram: str, seconds_of: Card | None = None) -> MemoryPlan:
    """Predict every bucket in every placement; nothing is downloaded but configurations, and no device is used.

    Args:
        settings: Model, buckets, backend, precision and tiling count.
        vram: The card's memory; see `parse_size`.
        seconds_of: The card whose seconds are estimated; by default the measured one's are predicted.

    Raises:
        ConfigurationError: `vram` is no size, or the model's configuration cannot be had.
        UnsupportedModel: there is no such model.
    """
    card = parse_size(vram)
    dtype = resolve_dtype("bfloat16", resolve_device("cpu"))
    outline = checkpoint.outline(checkpoint.like_published(settings.model), dtype)
    backend = "inductor" if settings.backend == "auto" else settings.backend
    rows = []
    for bucket in settings.catalogue:
        for name in (*FASTEST_FIRST, *IN_8_BITS):
            precision = "fp8-weights" if name.in_8_bits else settings.precision.value
            forced = settings.vae_tiling is Tiling.ON
            row = estimate(outline, bucket, name, backend, precision, tiled=forced, card=seconds_of)
            if row.least_card > card and settings.vae_tiling is Tiling.AUTO:
                tiled = estimate(outline, bucket, name, backend, precision, tiled=True, card=seconds_of)
                row = tiled if tiled.least_card <= card else row
            rows.append(row)
    try:
        chosen = choose(
            outline, settings.catalogue, card, placement=settings.placement, backend=backend,
            precision=settings.precision, tiling=settings.vae_tiling,
        )  # fmt: skip
        # A placement that was named is named by the reason.
        named = settings.placement.placement is chosen.placement
        auto = chosen.reason if named else f"{settings.placement} means {chosen.placement}: {chosen.reason}"
    except ConfigurationError as error:
        auto = str(error)
    return MemoryPlan(settings.model, card, tuple(rows), auto, seconds_of)


def show(made: MemoryPlan) -> None:
    """Print the table, what would be chosen, and what the numbers rest on."""
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)
    title = f"{made.model} on a card with {made.card / GIB:.1f} GiB"
    narrow = console.width < FULL_WIDTH
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0 if narrow else 1))
    shown = [heading for heading in HEADINGS if not (narrow and heading in LEFT_OUT)]
    for heading in shown:
        right = heading.endswith("GiB") or heading == "seconds"
        width = len("sequential_cpu_offload") if narrow and heading == "placement" else None
        named = _seconds_heading(made) if heading == "seconds" else heading
        name = named.replace(" ", "\n") if narrow else named
        table.add_column(name, justify="right" if right else "left", overflow="fold", width=width)
    for bucket in made.buckets:
        for row in made.rows:
            if row.bucket == bucket:
                cells = dict(zip(HEADINGS, _cells(row, made.card), strict=True))
                table.add_row(*(cells[heading] for heading in shown))
        table.add_section()
    console.print(table)
    console.print(Text(made.auto))
    console.print(Text("\n".join(_notes(made)), style="dim"))


def to_json(made: MemoryPlan) -> str:
    """The plan for programs: sizes in bytes, and of which card the seconds are."""
    rows: list[dict[str, Any]] = [
        {
            "bucket": str(row.bucket),
            "placement": row.placement,
            "precision": row.precision,
            "fits": row.least_card <= made.card,
            "vae_tiled": row.tiled,
            "least_card_bytes": row.least_card,
            "peak_bytes": row.peak,
            "host_bytes": row.host,
            "seconds": round(row.seconds, 1),
        }
        for row in made.rows
    ]
    head = {"model": made.model, "card_bytes": made.card, "auto": made.auto, "steps": DEFAULT_STEPS}
    timed = {"seconds_of": made.timed, "seconds_estimated": made.seconds_of is not None}
    return json.dumps({**head, **timed, "rows": rows}, indent=2)


def _seconds_heading(made: MemoryPlan) -> str:
    short = made.timed.removeprefix("NVIDIA ").removeprefix("GeForce ")
    return f"{'≈ ' if made.seconds_of else ''}s, {short}"


def _cells(row: Estimate, card: int) -> list[str | Text]:
    fits = row.least_card <= card
    word = Text("tiled" if row.tiled else "yes", "green") if fits else Text("no", "red")
    phase = max(row.peaks, key=lambda phase: row.peaks[phase])
    return [
        str(row.bucket), row.placement, row.precision, word, f"{row.least_card / GIB:.1f}", f"{row.peak / GIB:.1f}",
        phase.value.lower().replace("_", " "), f"{row.host / GIB:.1f}", f"{row.seconds:.0f}",
    ]  # fmt: skip


def _notes(made: MemoryPlan) -> list[str]:
    lines = [
        _of_seconds(made.seconds_of),
        "card GiB: the smallest card; peak GiB with 3 % for fragmentation and 0.6 GiB for CUDA itself",
    ]
    if any(row.tiled for row in made.rows):
        lines.append("tiled: fits with the VAE in tiles, which changes pixels a little (vae_tiling)")
    return lines


def _of_seconds(card: Card | None) -> str:
    """What the seconds rest on."""
    steps = f"{DEFAULT_STEPS} steps with guidance"
    if card is None:
        return (
            f"seconds: predicted for {steps} on an {REFERENCE_CARD}, with copies at {LINK_RATE / 1e9:.0f} GB/s, "
            f"{PAGEABLE_RATE / 1e9:.0f} in sequential_cpu_offload; slower cards take longer, see --card"
        )
    rates = f"{card.bf16 / 1e12:.0f} TFLOP/s in bf16, {card.bandwidth / 1e9:.0f} GB/s of memory"
    return (
        f"seconds: an estimate for {steps} on an {card.name} by its public rates ({rates}, PCIe {card.pcie}.0), from "
        f"what was measured on an {REFERENCE_CARD}; nothing was measured on this card"
    )
