"""`python -m dev.quality`, which `make quality` runs: see docs/quality.md."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dev.quality import plots, sheet, tables
from dev.quality.cases import Photographs
from dev.quality.harness import Harness, Options
from dev.quality.render import EngineRenderer, Renderer
from dev.quality.settings import PROFILE_SETTINGS, REFERENCE
from dev.quality.sheet import Block, Strip
from dev.quality.tables import Report
from dev.quality.targets import NAMES, STILL, percent
from dev.train_demo import photos
from easyanim_server import catalog
from easyanim_server.benchmark import stopwatch as measure
from easyanim_server.catalog import DEMO
from easyanim_server.config import model_defaults as modeldefaults
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError, EasyAnimError, UnsupportedModel
from easyanim_server.domain.job import GUIDANCE_RANGE
from easyanim_server.engine.devices import resolve_device
from easyanim_server.engine.weights import checkpoint

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPHS = ROOT / ".cache" / "photographs"
RESULTS = ROOT / "bench" / "results" / "quality.json"
DOCS = ROOT / "docs"
BUCKETS = "128x128x25,128x224x25"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status: 0 where all was measured, 3 where the time was over, 2 where nothing could be.

    Whether targets are met does not show in it: that is for people to judge, in the report.
    """
    given = parser().parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    try:
        return _run(given, shlex.join(["python", "-m", "dev.quality", *words]))
    except EasyAnimError as error:
        print(f"quality: {error}{_advice(given.model, error)}", file=sys.stderr)
        return 2


def _run(given: argparse.Namespace, command: str) -> int:
    began = time.monotonic()
    options = _options(given)
    flags = {"model": given.model, "device": given.device, "buckets": ",".join(map(str, options.buckets))}
    flags |= {name: getattr(given, name) for name in ("backend", "cache_coefficients") if getattr(given, name)}
    settings = Settings.load(flags)
    # A model that is not there is known before anything is fetched.
    checkpoint.outline(settings.model, torch.float32, settings.revision)
    photographs = _photographs(given.photographs)
    device = resolve_device(settings.device)
    renderer = EngineRenderer(settings)
    print(f"{given.model} is loaded after {time.monotonic() - began:.0f} s", flush=True)
    places = Places.of(given.model, given.out)
    whole = run(renderer, photographs, options, places, command, device=device, began=began, **measure.machine(device))
    return 0 if whole else 3


@dataclass(frozen=True)
class Places:
    """Where results go."""

    results: Path
    report: Path
    plot: Path
    sheet: Path
    films: Path

    @classmethod
    def of(cls, model: str, out: Path | None) -> Places:
        """The repository's own places for the demo, else all in one folder, by default one of the model's name."""
        if out is None and model == DEMO:
            own = ROOT / "out" / "quality"
            return cls(RESULTS, own / "report.md", DOCS / "quality.png", DOCS / "quality-sheet.jpg", own / "films")
        if out is None:
            out = ROOT / "out" / f"quality-{re.sub(r'[^A-Za-z0-9.]+', '-', model).strip('-.')}"
        return cls(out / "quality.json", out / "report.md", out / "quality.png", out / "sheet.jpg", out / "films")


def run(
    renderer: Renderer,
    photographs: Photographs,
    options: Options,
    places: Places,
    command: str,
    say: Callable[[str], None] = lambda text: print(text, flush=True),
    device: torch.device | None = None,
    began: float | None = None,
    **header: Any,
) -> bool:
    """Measure what is missing and write all that people look at; returns whether everything is measured.

    Args:
        renderer: Makes the videos.
        photographs: What of.
        options: How much.
        places: Where results go.
        command: What repeats the measurement.
        say: Takes lines for people.
        device: Where videos are measured.
        began: When time began to count; see `Harness`.
        header: Further facts for the file.
    """
    harness = Harness(
        renderer, photographs, options, places.results, places.films, command, say, device, began, **header
    )  # fmt: skip
    whole = harness.run()
    report = Report.read(places.results)
    text = tables.render(report)
    places.report.parent.mkdir(parents=True, exist_ok=True)
    places.report.write_text(text, encoding="utf-8")
    plots.draw(report, places.plot)
    if blocks := _blocks(harness, report, options):
        legend = (
            f"{report.title}.  agrees: it moves as asked for;  %: how far, of what was asked for;  "
            f"dB: distance to {REFERENCE.steps} steps"
        )
        sheet.draw(blocks, legend, places.sheet)
    say(f"\n{text}\nwrote {places.results}, {places.report}, {places.plot} and {places.sheet}")
    return whole


def _blocks(harness: Harness, report: Report, options: Options) -> list[Block]:
    """What the contact sheet shows: cases that were made with the default at least."""
    named = {f"{REFERENCE.steps} steps": REFERENCE, **PROFILE_SETTINGS}
    blocks = []
    for index in options.shown_cases:
        strips = [Strip("asked for", harness.truth(index))]
        for label, setting in named.items():
            frames, row = harness.film(setting, index), harness.results.video(setting.name, index)
            if frames is not None and row is not None:
                strips.append(Strip(label, frames, _note(row), row["agrees"]))
        if len(strips) > 1:
            case = report.summary.cases[index]
            language = NAMES[case["language"]]
            blocks.append(Block(f"{case['motion'].replace('_', ' ')}, in {language}", case["prompt"], strips))
    return blocks


def _note(row: dict[str, Any]) -> str:
    """What was found in a video, in a few words."""
    if row["cosine"] == 0.0 and row["ratio"] == 0.0:
        moved = f"{row['speed']:.2f} px/frame"
    elif row["right_way"]:
        moved = f"{percent(row['ratio'])} of asked"
    else:
        moved = "hardly moves" if row["speed"] < STILL else "another way"
    distance = "" if row["ref_psnr"] is None else f"\n{row['ref_psnr']:.1f} dB"
    return f"{'agrees' if row['agrees'] else 'differs'}\n{moved}{distance}"


def _options(given: argparse.Namespace) -> Options:
    """Raises ConfigurationError where a number is not allowed."""
    try:
        buckets = tuple(catalog.parse_bucket(word, given.model) for word in given.buckets.split(",") if word)
    except ValueError as error:
        raise ConfigurationError(f"--buckets: {error}") from error
    if not buckets:
        raise ConfigurationError("--buckets is empty; name a size such as 128x128x25")
    for bucket in buckets:
        if bucket.frames < 5:
            raise ConfigurationError(f"--buckets: {bucket} has too few frames to move in; 5 at least")
    for name in ("cases", "confirmed", "compared", "grid_cases", "shown"):
        if getattr(given, name) < 1:
            raise ConfigurationError(f"--{name.replace('_', '-')} {getattr(given, name)} must be at least 1")
    low, high = GUIDANCE_RANGE
    if given.guidance is None:
        given.guidance = modeldefaults.expected(given.model).defaults.guidance
    if not low <= given.guidance <= high:
        raise ConfigurationError(f"--guidance {given.guidance:g} must be from {low:g} to {high:g}")
    words = ("cases", "confirmed", "compared", "grid_cases", "shown", "seconds", "guidance")
    return Options(
        buckets, **{word: getattr(given, word) for word in words}, grid=() if given.no_grid else Options.grid
    )  # fmt: skip


def _photographs(folder: Path | None) -> Photographs:
    """Those of a folder, or ours, which are fetched where they are not there."""
    if folder is None and not (PHOTOGRAPHS / "photographs.json").is_file():
        print("fetching photographs with apt-get and pip, once", flush=True)
        try:
            photos.collect(PHOTOGRAPHS)
        except (RuntimeError, OSError) as error:
            raise ConfigurationError(
                f"photographs to make videos of cannot be fetched: {error}; --photographs names a folder of your own"
            ) from error
    return Photographs(folder or PHOTOGRAPHS)


def _advice(model: str, error: EasyAnimError) -> str:
    """What to do about a demo that has no weights."""
    if model != DEMO or not isinstance(error, UnsupportedModel):
        return ""
    return (
        "\ndev/train_demo/README.md says how they are trained; another model is measured with, for example,\n"
        "    make quality QUALITY='--model alibaba-pai/EasyAnimateV5.1-7b-zh-InP-diffusers --buckets 384x672x49'"
    )


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    usual = Options(())
    parser = argparse.ArgumentParser(prog="python -m dev.quality", description=__doc__)
    parser.add_argument("--model", default=DEMO, help="as the server takes it (default: %(default)s)")
    parser.add_argument("--buckets", default=BUCKETS, help="sizes; every fourth pair of cases is in the further ones")
    parser.add_argument("--cases", type=int, default=usual.cases, help="made with the default profile")
    parser.add_argument("--confirmed", type=int, default=usual.confirmed, help="of these, made with fast and draft")
    parser.add_argument("--compared", type=int, default=usual.compared, help="of these, made with 200 steps as well")
    parser.add_argument("--grid-cases", type=int, default=usual.grid_cases, help="of these, made with every setting")
    parser.add_argument("--no-grid", action="store_true", help="leave the grid of settings out")
    parser.add_argument("--shown", type=int, default=usual.shown, help="cases on the contact sheet")
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="after which no video is begun")
    parser.add_argument("--guidance", type=float, help="of all videos (default: the model's own)")
    parser.add_argument("--photographs", type=Path, help="a folder of pictures; ours are fetched by default")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--backend", help="how blocks run: eager, inductor or tensorrt; as the server by default")
    parser.add_argument("--cache-coefficients", type=Path, help="a file of easyanim-server fit-cache")
    parser.add_argument("--out", type=Path, help="a folder for everything that is written")
    return parser


if __name__ == "__main__":
    sys.exit(main())
