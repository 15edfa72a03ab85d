"""Turns results into what people read: the tables of docs/quality.md and of a run's own report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dev.quality import targets
from dev.quality.pareto import RULES, Point, choose, front, points
from dev.quality.settings import ARTICLE, DEFAULT, PROFILE_SETTINGS, REFERENCE, REFERENCE_STEPS, Setting
from dev.quality.summary import Summary
from dev.quality.targets import percent
from easyanim_server.config import model_defaults as modeldefaults

NOT_MEASURED = "Not measured yet: `make quality` and `make bench-report` fill this in.\n"

PICTURES = """\
![Quality against predictions and seconds, and motion against what prompts ask for](quality.png)

![What was asked for, and what each profile made of it](quality-sheet.jpg)
"""

GROUPS = {
    "hold": "hold still",
    "camera": "camera, speed left open",
    "camera with a speed": "camera, slow or fast",
    "two motions": "two motions at once",
    "object": "an object",
}


@dataclass(frozen=True)
class Report:
    """One file of results."""

    header: dict[str, Any]
    rows: list[dict[str, Any]]

    @classmethod
    def read(cls, file: Path) -> Report:
        """Read what `results.Results` wrote."""
        document = json.loads(file.read_text(encoding="utf-8-sig"))
        return cls(document["header"], document["rows"])

    @cached_property
    def summary(self) -> Summary:
        """Of all rows."""
        return Summary(self.rows)

    @property
    def guidance(self) -> float:
        """That all videos were made with."""
        return float(self.header["conditions"]["guidance"])

    @cached_property
    def points(self) -> tuple[list[Point], list[int]]:
        """Settings that can be compared, and the cases that they are compared in."""
        return points(self.summary, self.header["grid_cases"])

    @cached_property
    def chosen(self) -> dict[str, Point]:
        """What the rules say that each profile should be."""
        return choose(self.points[0], self.guidance)

    @property
    def title(self) -> str:
        """Model and machine."""
        known = self.header["conditions"]
        gpu = self.header.get("gpu") or known["device"]
        return f"{known['model']}, {gpu}"

    @property
    def facts(self) -> str:
        """What numbers depend on, in one line."""
        known = self.header["conditions"]
        how = f"{known['backend']}, {known['dtype']}, guidance {known['guidance']:g}, {', '.join(known['buckets'])}"
        return f"{how}; torch {known['torch']}; commit {self.header['commit']}, {self.header['date'][:10]}"


def markdown(file: Path) -> str:
    """Tables and pictures of a file of results for docs/, or a line that says that there is none."""
    return f"{render(Report.read(file))}\n{PICTURES}" if file.exists() else NOT_MEASURED


def render(report: Report) -> str:
    """All tables."""
    summary = report.summary
    parts: list[Iterable[str]] = [
        [f"**{report.title}** ({report.facts})"],
        _targets(targets.judge(summary, report.guidance)),
        ["### Motion"],
        _motion(summary),
        ["### Pictures"],
        _pictures(summary),
        ["### Looks"],
        _looks(summary),
        ["### Steps"],
        _article(summary),
        ["### Profiles"],
        _profiles(report),
        ["### The front"],
        _front(report),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _targets(found: Sequence[targets.Target]) -> list[str]:
    lines = ["| target | wanted | measured | | of |", "|---|---:|---:|---|---:|"]
    return lines + [
        f"| {target.sentence} | {target.wanted} | {target.measured} | {target.verdict} | {target.cases or ''} |"
        for target in found
    ]


def _motion(summary: Summary) -> list[str]:
    lines = [
        "| asked for | English agrees | Chinese agrees | right way | size, of what was asked for | pixels a frame |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for group, words in GROUPS.items():
        rows = summary.videos(DEFAULT, lambda case, group=group: case["group"] == group)  # type: ignore[misc]
        if not rows:
            continue
        cells = [words]
        for language in targets.NAMES:
            agree, count = summary.agreement(
                DEFAULT,
                lambda case, group=group, language=language: (case["group"], case["language"]) == (group, language),  # type: ignore[misc]
            )
            cells.append(f"{agree} of {count}")
        cells.append(percent(_mean(row["right_way"] for row in rows)))
        cells.append("" if group == "hold" else percent(_mean(row["ratio"] for row in rows)))
        cells.append(f"{_mean(row['speed'] for row in rows):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _pictures(summary: Summary) -> list[str]:
    rows = summary.videos(DEFAULT)
    if not rows:
        return [NOT_MEASURED.strip()]
    truth = _mean(summary.cases[row["index"]]["truth_smoothness"] for row in rows)
    lines = [
        "| | PSNR | SSIM |",
        "|---|---:|---:|",
        _line("first frame against the given picture", rows, "first_psnr", "first_ssim"),
        _line("whole video against the true clip", rows, "truth_psnr", None),
        _line("each frame against its neighbours, moved (smoothness)", rows, "smoothness", None),
        f"| the same of the true clips | {truth:.1f} dB | |",
    ]
    vae = summary.single.get("vae")
    if vae:
        lines += [
            f"| VAE alone, {vae[kind]} {words} | {vae[f'{kind}_psnr']:.1f} dB | {vae[f'{kind}_ssim']:.3f} |"
            for kind, words in (("stills", "photographs"), ("clips", "true clips"))
        ]
    return lines


def _line(name: str, rows: Sequence[dict[str, Any]], psnr: str, ssim: str | None) -> str:
    similar = f"{_mean(row[ssim] for row in rows):.3f}" if ssim else ""
    return f"| {name} | {_mean(row[psnr] for row in rows):.1f} dB | {similar} |"


LOOKS = {
    "truth": "the true clip itself",
    "looks": "**the model's videos**",
    "smear": "a smear: each frame the mean of 9 of the true clip",
    "blur": "the true clip, blurred by 2 pixels",
    "still": "the start picture, held",
}
"""What is held against the true clip, by the names of columns."""


def looks(summary: Summary) -> dict[str, tuple[float, float]]:
    """GMSD and sharpness of everything in `LOOKS`, over videos of the default whose rows have them; empty without.

    Cases that hold still are left out: a still and a smear are no worse there.
    """
    rows = summary.videos(DEFAULT, lambda case: case["group"] != "hold" and "truth_gmsd" in case)
    pairs = [(row, summary.cases[row["index"]]) for row in rows if "looks_gmsd" in row]
    if not pairs:
        return {}
    return {
        name: (
            _mean((row if name == "looks" else case)[f"{name}_gmsd"] for row, case in pairs),
            _mean((row if name == "looks" else case)[f"{name}_sharpness"] for row, case in pairs),
        )
        for name in LOOKS
    }


def _looks(summary: Summary) -> list[str]:
    found = looks(summary)
    if not found:
        return [NOT_MEASURED.strip()]
    lines = ["| against the true clip, frame by frame | GMSD, less is better | sharpness |", "|---|---:|---:|"]
    return lines + [f"| {LOOKS[name]} | {gmsd:.3f} | {percent(sharp)} |" for name, (gmsd, sharp) in found.items()]


def demo_sentence(file: Path) -> str:
    """README's sentences on the built-in model: where its videos go, and how they look beside a smear."""
    if not file.exists():
        return NOT_MEASURED
    report = Report.read(file)
    summary = report.summary
    agree, count = summary.agreement(DEFAULT)
    thing, things = summary.agreement(DEFAULT, lambda case: case["group"] == "object")
    own = modeldefaults.expected(report.header["conditions"]["model"]).defaults.guidance
    usual = "" if own == report.guidance else f", where it has {own:g} by default"
    text = (
        f"Of {count} prompts over photographs that it never saw, [{agree} videos](docs/quality.md) go where and as far "
        f"as they were told (guidance {report.guidance:g}{usual}), {thing} of {things} where an object moves."
    )
    if found := looks(summary):
        scores = {name: f"{gmsd:.3f}" for name, (gmsd, _) in found.items()}
        text += (
            f" That says nothing of looks: beside the true clip a video has a GMSD of {scores['looks']} and "
            f"{percent(found['looks'][1])} of its fine detail, where a smear of the clip has {scores['smear']} and "
            f"{percent(found['smear'][1])}, the start picture held still {scores['still']}, and the clip itself 0."
        )
    return f"{text}\n"


def _article(summary: Summary) -> list[str]:
    """What other numbers of Euler steps take, and what can be seen of them."""
    settings = [*dict.fromkeys([*sorted((*ARTICLE, DEFAULT), key=lambda setting: setting.steps), REFERENCE])]
    settings = [setting for setting in settings if summary.videos(setting)]
    if not settings or not (indices := summary.paired(*settings)):
        return [NOT_MEASURED.strip()]
    lines = [
        f"Of the same {len(indices)} cases; distances are to the same seed's video.",
        "",
        f"| Euler steps | predictions | seconds | to {REFERENCE_STEPS} steps | SSIM | to {DEFAULT.steps} steps | SSIM "
        "| motion apart, pixels a frame | agrees |",
        f"|---:|{'---:|' * 8}",
    ]
    for setting in settings:
        cells = [
            f"**{setting.steps}**" if setting == DEFAULT else f"{setting.steps}",
            _form(summary.mean(setting, "predictions", indices), "{:.0f}"),
            _form(summary.mean(setting, "seconds", indices), "{:.2f} s"),
            *_distances(summary, setting, indices, "ref"),
            *_distances(summary, setting, indices, "default"),
            _form(summary.mean(setting, "ref_motion", indices), "{:.2f}"),
            _form(summary.mean(setting, "agrees", indices), "{:.0%}").replace("%", " %"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _distances(summary: Summary, setting: Setting, indices: Sequence[int], name: str) -> list[str]:
    return [
        _form(summary.mean(setting, f"{name}_psnr", indices), "{:.1f} dB"),
        _form(summary.mean(setting, f"{name}_ssim", indices), "{:.3f}"),
    ]


def _profiles(report: Report) -> list[str]:
    summary = report.summary
    lines = [
        "| profile | is | predictions | seconds | to 200 steps | SSIM | LPIPS | to `exact` | points lost "
        "| the rule chooses |",
        f"|---|---|{'---:|' * 7}---|",
    ]
    for name, setting in PROFILE_SETTINGS.items():
        lost = summary.lost(setting)
        cells = [
            f"`{name}`",
            setting.name,
            _form(summary.mean(setting, "predictions"), "{:.1f}"),
            _form(summary.mean(setting, "seconds"), "{:.2f} s"),
            _form(summary.mean(setting, "ref_psnr"), "{:.1f} dB"),
            _form(summary.mean(setting, "ref_ssim"), "{:.3f}"),
            _form(summary.mean(setting, "ref_lpips"), "{:.3f}"),
            _form(summary.mean(setting, "default_psnr"), "{:.1f} dB"),
            "" if lost is None or setting == DEFAULT else f"{lost[0]:.1f} ({lost[1]} cases)",
            _choice(report, name),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", "Rules:", "", *(f"- `{name}`: {rule}." for name, rule in RULES.items())]


def _choice(report: Report, name: str) -> str:
    found, indices = report.points
    if not found:
        return ""
    point = report.chosen.get(name)
    if point is None:
        return "none that was measured"
    if point.setting == PROFILE_SETTINGS[name]:
        return f"the same, of {len(indices)} cases"
    return f"{point.setting.name}: {point.predictions:.1f} predictions, {point.psnr:.1f} dB, of {len(indices)} cases"


def _front(report: Report) -> list[str]:
    found, indices = report.points
    if not found:
        return [NOT_MEASURED.strip()]
    cheapest, quickest = ({point.setting for point in front(found, cost)} for cost in ("predictions", "seconds"))
    names = {setting: name for name, setting in PROFILE_SETTINGS.items()}
    lines = [
        f"{len(found)} settings in the same {len(indices)} cases. On the front is what nothing is nearer to the "
        "reference than, at no more cost.",
        "",
        "| setting | predictions | seconds | to 200 steps | agrees | on the front of |",
        f"|---|{'---:|' * 4}---|",
    ]
    for point in found:
        on = [
            words
            for words, best in (("predictions", cheapest), ("seconds", quickest))
            if point.setting in best
        ]  # fmt: skip
        name = f" (`{names[point.setting]}`)" if point.setting in names else ""
        cells = [
            f"{'**' if on else ''}{point.setting.name}{'**' if on else ''}{name}",
            f"{point.predictions:.1f}",
            f"{point.seconds:.2f} s",
            f"{point.psnr:.1f} dB",
            percent(point.agrees),
            ", ".join(on),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _mean(values: Iterable[float]) -> float:
    listed = [float(value) for value in values]
    return sum(listed) / len(listed) if listed else 0.0


def _form(value: float | None, pattern: str) -> str:
    return "" if value is None else pattern.format(value)
