"""Makes videos in the order of their worth, measures them, and stops in time; what is measured is never made again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dev.quality import fidelity, looks, trust
from dev.quality.agreement import judge_all
from dev.quality.cases import Case, Frames, Photographs, make_case
from dev.quality.pareto import choose, points
from dev.quality.render import Rendered, Renderer
from dev.quality.results import Results, Row, measures_digest
from dev.quality.settings import ARTICLE, DEFAULT, PROFILE_SETTINGS, REFERENCE, Setting, grid
from dev.quality.summary import Summary
from easyanim_server.domain.job import DEFAULT_GUIDANCE, Bucket

TOGETHER = 8
"""Videos that are measured at once, and rows that are lost where a run is killed."""


REMEMBERED_BYTES = 2**29
"""Of true clips, which every setting begins with."""


@dataclass(frozen=True)
class Options:
    """How much to measure."""

    buckets: tuple[Bucket, ...]
    cases: int = 200
    """Made with the default."""
    confirmed: int = 100
    """Of these, made with `fast` and `draft`, to see what they lose."""
    compared: int = 16
    """Of these, made with the reference, the article's steps and all profiles."""
    grid_cases: int = 8
    """Of these, made with every setting of the grid."""
    shown: int = 8
    """Of these, drawn on the contact sheet; see `shown_cases`."""
    seconds: float = 225.0
    """After which no video is begun; a report takes a few more."""
    guidance: float = DEFAULT_GUIDANCE
    grid: tuple[Setting, ...] = tuple(grid())

    @property
    def shown_cases(self) -> list[int]:
        """The cases of the contact sheet: one of each of the first pairs, its languages in turn."""
        picked = (2 * pair + pair % 2 for pair in range(self.shown))
        return [index for index in picked if index < min(self.compared, self.cases)]


class Harness:
    """One measurement of one model.

    Args:
        renderer: Makes the videos.
        photographs: What they are made of.
        options: How much to measure.
        file: Of the results; rows that are there are kept if they are of the same model and conditions.
        films: A folder for frames that later videos are compared with, and for those of the contact sheet.
        command: What repeats the measurement.
        say: Takes a line about what is done.
        device: Where videos are measured.
        began: When time began to count, of `time.monotonic`; now by default.
        header: Further facts for the file.
    """

    def __init__(
        self,
        renderer: Renderer,
        photographs: Photographs,
        options: Options,
        file: Path,
        films: Path,
        command: str,
        say: Callable[[str], None],
        device: torch.device | None = None,
        began: float | None = None,
        **header: Any,
    ) -> None:
        self._began = time.monotonic() if began is None else began
        self._renderer, self._photographs, self._options = renderer, photographs, options
        self._films, self._command, self._device, self._report = films, command, device, say
        conditions = renderer.facts() | {
            "guidance": options.guidance,
            "buckets": [str(bucket) for bucket in options.buckets],
            "photographs": photographs.digest(),
            "measures": measures_digest(),
        }
        self.results = Results(file, conditions, grid_cases=options.grid_cases, **header)
        if self.results.changed:
            self._say(f"rows in {file} are of other conditions ({', '.join(self.results.changed)}); begun anew")
        elif len(self.results):
            self._say(f"{len(self.results)} rows of {file} are kept")
        self._same = not self.results.changed
        self._known = {row["index"] for row in self.results if row["what"] == "case"}
        self._truths: dict[int, Frames] = {}

    def case(self, index: int) -> Case:
        """The case of a number."""
        return make_case(index, self._options.buckets, len(self._photographs))

    def run(self) -> bool:
        """Measure what is missing; returns whether all of it is there now."""
        if not self._same:
            for film in self._films.rglob("*.npy"):
                film.unlink()
        self.results.header["served"] = self._renderer.prepare(self._options.buckets)
        self._say("buckets are ready")
        if not self.results.has("trust"):
            self._trust()
        if not self.results.has("vae"):
            self._vae()
        whole = all(self._make(setting, indices) for setting, indices in self._plan())
        whole = whole and self._confirm() and self._looks()
        self._write()
        self._say("complete" if whole else "the time is over; the same command goes on")
        return whole

    def film(self, setting: Setting, index: int) -> Frames | None:
        """Frames of a video that were kept."""
        file = self._film(setting, index)
        return np.load(file) if file.exists() else None

    def truth(self, index: int) -> Frames:
        """What a case asks for; the first frame is what the model is given."""
        if index not in self._truths:
            drawn = self._photographs.truth(self.case(index))
            if (len(self._truths) + 1) * drawn.nbytes > REMEMBERED_BYTES:
                return drawn
            self._truths[index] = drawn
        return self._truths[index]

    def _say(self, text: str) -> None:
        self._report(f"[{time.monotonic() - self._began:4.0f} s] {text}")

    def _plan(self) -> Iterable[tuple[Setting, range]]:
        """Settings and the cases that they are made of, what matters most first."""
        options = self._options
        compared, few = range(min(options.compared, options.cases)), range(min(options.grid_cases, options.compared))
        fast, draft = PROFILE_SETTINGS["fast"], PROFILE_SETTINGS["draft"]
        yield REFERENCE, compared
        yield DEFAULT, compared
        for setting in (*PROFILE_SETTINGS.values(), *ARTICLE):
            yield setting, compared
        yield DEFAULT, range(options.cases)
        yield from ((setting, few) for setting in options.grid)
        yield fast, range(min(options.confirmed, options.cases))
        yield draft, range(min(options.confirmed, options.cases))

    def _confirm(self) -> bool:
        """Make more videos with settings that the rules choose, which then may choose others, as often as it takes."""
        compared = range(min(self._options.compared, self._options.cases))
        while True:
            summary = Summary(self.results)
            found, _ = points(summary, self._options.grid_cases)
            chosen = {point.setting for point in choose(found, self._options.guidance).values()}
            missing = [setting for setting in chosen if any(self._is_missing(setting, index) for index in compared)]
            if not missing:
                return True
            if not all(self._make(setting, compared) for setting in missing):
                return False

    def _make(self, setting: Setting, indices: Sequence[int]) -> bool:
        """Make and measure what is missing of a setting; returns whether there was time for all of it."""
        missing = [index for index in indices if self._is_missing(setting, index)]
        if not missing:
            return True
        self.results.add(setting.row())
        made: list[tuple[Case, Frames, Rendered]] = []
        in_time = True
        # Grouped by bucket, so that what is measured at once is of one size.
        cases = sorted(map(self.case, missing), key=lambda case: self._options.buckets.index(case.bucket))
        for number, case in enumerate(cases):
            if time.monotonic() - self._began > self._options.seconds:
                in_time = False
                break
            start = self.truth(case.index)
            made.append((case, start, self._renderer.render(case, setting, self._options.guidance, start)))
            following = cases[number + 1].bucket if number + 1 < len(cases) else None
            if len(made) == TOGETHER or following != case.bucket:
                self._measure(setting, made)
                made = []
        if made:
            self._measure(setting, made)
        return in_time

    def _looks(self) -> bool:
        """Add how videos of the default look to rows that were written without; returns whether there was time.

        Frames that were kept are measured as they are; other videos are made again, which gives the same.
        """
        for index in range(self._options.cases):
            row, case = self.results.video(DEFAULT.name, index), self.results.case(index)
            if row is None or case is None or ("looks_gmsd" in row and "truth_gmsd" in case):
                continue
            if time.monotonic() - self._began > self._options.seconds:
                return False
            truth, frames = self.truth(index), self.film(DEFAULT, index)
            if frames is None:
                made = self._renderer.render(self.case(index), DEFAULT, self._options.guidance, truth)
                frames = made.frames
            self.results.add(row | looks.compare(frames, truth, self._device).columns())
            self.results.add(case | looks.of_kinds(truth, self._device))
        return True

    def _is_missing(self, setting: Setting, index: int) -> bool:
        row = self.results.video(setting.name, index)
        if row is None:
            return True
        compared = index < self._options.compared
        return compared and (
            (setting not in (REFERENCE, DEFAULT) and (row["ref_psnr"] is None or row["default_psnr"] is None))
            or (setting == DEFAULT and row["ref_psnr"] is None)
            or (self._is_kept(setting, index) and not self._film(setting, index).exists())
        )

    def _measure(self, setting: Setting, made: Sequence[tuple[Case, Frames, Rendered]]) -> None:
        cases, videos = [case for case, _, _ in made], [rendered.frames for _, _, rendered in made]
        motions = judge_all(cases, videos, self._device)
        for (case, truth, rendered), motion in zip(made, motions, strict=True):
            frames = rendered.frames
            if self._is_kept(setting, case.index):
                self._film(setting, case.index).parent.mkdir(parents=True, exist_ok=True)
                np.save(self._film(setting, case.index), frames)
            row: Row = {
                "what": "video",
                "setting": setting.name,
                "index": case.index,
                "predictions": rendered.predictions,
                "reused": rendered.reused,
                "seconds": rendered.seconds,
                "denoise_seconds": rendered.denoise_seconds,
                "agrees": motion.agrees,
                "right_way": motion.right_way,
                "cosine": motion.cosine,
                "ratio": motion.ratio,
                "speed": motion.speed,
                "found": motion.found,
                "camera": motion.camera,
                "first_psnr": fidelity.psnr(frames[:1], truth[:1]),
                "first_ssim": fidelity.ssim(frames[:1], truth[:1], self._device),
                "truth_psnr": fidelity.psnr(frames, truth),
                "smoothness": fidelity.smoothness(frames, motion.camera, self._device),
            }
            row |= looks.compare(frames, truth, self._device).columns()
            for name, other in (("ref", REFERENCE), ("default", DEFAULT)):
                row |= self._distance(name, case, setting, frames, motion.found, other)
            self.results.add(row)
            if case.index not in self._known:
                self._case_row(case, truth, motion.asked)
        self._write()
        agreed = sum(motion.agrees for motion in motions)
        seconds = sum(rendered.seconds for _, _, rendered in made) / len(made)
        self._say(f"{setting.name}: {agreed} of {len(made)} as asked for, {seconds:.2f} s a video")

    def _distance(
        self, name: str, case: Case, setting: Setting, frames: Frames, found: tuple[float, ...], other: Setting
    ) -> Row:
        """How far a video is from the same seed's with another setting, where that was kept."""
        columns = ("psnr", "ssim", "lpips", "motion")
        empty = dict.fromkeys(f"{name}_{column}" for column in columns)
        row = self.results.video(other.name, case.index)
        wanted = self.film(other, case.index)
        if setting == other or row is None or wanted is None:
            return empty
        learned = fidelity.lpips()
        apart = [a - b for a, b in zip(found, row["found"], strict=True)]
        values = (
            fidelity.psnr(frames, wanted),
            fidelity.ssim(frames, wanted, self._device),
            learned(frames, wanted) if learned else None,
            float(np.hypot.reduce(apart)),
        )
        return dict(zip(empty, values, strict=True))

    def _case_row(self, case: Case, truth: Frames, asked: tuple[float, ...]) -> None:
        self._known.add(case.index)
        row = {
            "what": "case",
            "index": case.index,
            "group": case.group,
            "language": case.language,
            "motion": case.motion,
            "prompt": case.prompt,
            "bucket": str(case.bucket),
            "asked": asked,
        }
        camera = asked if len(asked) == 4 else (0.0, 0.0, 0.0, 0.0)
        row["truth_smoothness"] = fidelity.smoothness(truth, tuple(camera), self._device)  # type: ignore[arg-type]
        self.results.add(row | looks.of_kinds(truth, self._device))

    def _trust(self) -> None:
        cases = [self.case(index) for index in range(min(self._options.cases, 50))]
        found = trust.check(cases, self._photographs, self._device)
        self.results.add(
            {
                "what": "trust",
                "cases": len(cases),
                "agreement": found.agreement,
                "blur": trust.BLUR,
                "noise": trust.NOISE,
            }
        )
        self._say(f"the judge of motion finds {found.agreement:.0%} of {len(cases)} true clips in agreement")

    def _vae(self) -> None:
        """Photographs as they are, and true clips, through the VAE."""
        stills = self._photographs.stills(128, 128)
        clips = [self.truth(index) for index in range(min(self._options.cases, 8))]
        row: Row = {"what": "vae", "stills": len(stills), "clips": len(clips)}
        for name, videos in (("stills", stills), ("clips", clips)):
            pairs = [(self._renderer.round_trip(video), video) for video in videos]
            each = [fidelity.psnr(made, video) for made, video in pairs]
            row[f"{name}_psnr"] = float(np.mean(each))
            row[f"{name}_ssim"] = float(np.mean([fidelity.ssim(made, video, self._device) for made, video in pairs]))
            row[f"{name}_worst"] = min(each)
        self.results.add(row)
        self._say(f"VAE: {row['stills_psnr']:.1f} dB on {len(stills)} photographs, {row['clips_psnr']:.1f} dB on clips")

    def _is_kept(self, setting: Setting, index: int) -> bool:
        """Whether frames are needed again: to compare with, or to be shown."""
        if setting in (REFERENCE, DEFAULT):
            return index < self._options.compared
        return setting in PROFILE_SETTINGS.values() and index in self._options.shown_cases

    def _film(self, setting: Setting, index: int) -> Path:
        folder = setting.name.replace(" %", "").replace(", ", "_").replace(" ", "-")
        return self._films / folder / f"{index:03d}.npy"

    def _write(self) -> None:
        self.results.write(self._command)
