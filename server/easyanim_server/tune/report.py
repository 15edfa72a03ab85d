"""The report of a tuning: one page that needs nothing else, with tables, plots and frames side by side."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from easyanim_server.domain.events import Phase
from easyanim_server.domain.job import DEFAULT_STEPS
from easyanim_server.domain.wording import counted
from easyanim_server.tune.journal import Row
from easyanim_server.tune.plan import BEFORE, BEFORE_STEPS
from easyanim_server.tune.tables import Line, Table, Tables, psnr

FRAME_WIDTH = 480
"""Most pixels of a frame in the page."""

AMPLIFIED = 8
"""How much differences are brightened."""

STYLE = """\
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6470; --line: #dfe3e8; --paper: #ffffff; --card: #f5f7f9;
  --mark: #e8f1fd; --text: #9aa4b1; --image: #e2a043; --denoise: #2f7fd1; --decode: #3fa37c }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4b1; --line: #313842; --paper: #14181d;
  --card: #1c2127; --mark: #1a2c42; --text: #6f7a88; --image: #d1923a; --denoise: #4a97e6; --decode: #46b389 } }
* { box-sizing: border-box }
body { font: 15px/1.55 system-ui, "DejaVu Sans", sans-serif; color: var(--ink); background: var(--paper);
  max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .2rem }
p { margin: .2rem 0 1rem; color: var(--soft); max-width: 48rem }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem; margin: 1.6rem 0 0 }
.tile { background: var(--card); border-radius: 10px; padding: 1rem 1.2rem }
.tile b { display: block; font-size: 1.75rem; line-height: 1.25; font-weight: 650; letter-spacing: -.01em }
.tile span { color: var(--soft); font-size: .88rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: .82rem; border-bottom: 1px solid var(--line) }
th, td { padding: .42rem .9rem .42rem .4rem; white-space: nowrap; vertical-align: middle }
td { border-bottom: 1px solid var(--line) }
.n { text-align: right }
.long { white-space: normal }
tr.best td { background: var(--mark); font-weight: 600 }
td.bar { width: 34%; min-width: 11rem; padding-right: 0 }
td.bar div { display: flex; height: .95rem; border-radius: 3px; overflow: hidden; gap: 1px }
i { display: inline-block }
.TEXT_ENCODE { background: var(--text) } .IMAGE_ENCODE { background: var(--image) }
.DENOISE { background: var(--denoise) } .DECODE { background: var(--decode) }
.legend { color: var(--soft); font-size: .82rem; margin: .6rem 0 0 }
.legend i { width: .75em; height: .75em; border-radius: 2px; margin: 0 .35em 0 1.1em }
.legend i:first-child { margin-left: 0 }
.frames { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 15.5rem)); gap: 1rem; margin: 1.2rem 0 }
figure { margin: 0 }
figure img { width: 100%; display: block; border-radius: 6px; background: #000 }
figure img + img { margin-top: 4px }
figcaption { font-size: .85rem; color: var(--soft); margin-top: .35rem }
figcaption b { color: var(--ink) }
svg { width: 100%; max-width: 34rem; height: auto; display: block; margin: 1rem 0 }
svg text { fill: var(--soft); font-size: 12px } svg .name { fill: var(--ink); font-weight: 600 }
svg .axis { stroke: var(--line) } svg .way { stroke: var(--denoise); stroke-width: 2; fill: none }
svg circle { fill: var(--denoise) } svg circle.best { fill: var(--image) }
ul { color: var(--soft); padding-left: 1.2rem } li { margin: .2rem 0 }
code { font: .88em ui-monospace, "DejaVu Sans Mono", monospace; background: var(--card); padding: .1em .35em;
  border-radius: 4px; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; color: var(--soft); font-size: .9rem }
dd { margin: 0; color: var(--ink) }"""

_PHASES = {"TEXT_ENCODE": "text", "IMAGE_ENCODE": "picture", "DENOISE": "denoising", "DECODE": "decoding"}

_LEGEND = (
    '<p class="legend">'
    + "".join(f'<i class="{phase}"></i>{name}' for phase, name in _PHASES.items())
    + ". ≈: denoising is projected from measured steps; all else was run.</p>"
)


def page(tables: Tables) -> str:
    """The whole page, as HTML."""
    pictures = {"before": _before_and_after(tables), "memory": _trade_off(tables), "steps": _by_steps(tables)}
    parts = [_head(tables), _tiles(tables)]
    made = tables.all
    for table in made:
        parts += [_table(table), _LEGEND if table is made[0] else "", pictures.get(table.name, "")]
    parts += [_left_out(tables), _facts(tables)]
    title = html.escape(f"Tuned for {_machine(tables)}")
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{title}</title>\n<style>\n{STYLE}\n</style>\n'
        + "\n".join(part for part in parts if part)
        + "\n</html>\n"
    )


def _machine(tables: Tables) -> str:
    return str(tables.machine.facts["cpu"]) if tables.machine.kind == "cpu" else tables.machine.device


def _head(tables: Tables) -> str:
    header = tables.tuned.tuning.header
    line = f"{header['model']}, {header['date'][:10]}, easyanim {header['versions'].get('easyanim', '')}"
    return f"<h1>{html.escape(f'Tuned for {_machine(tables)}')}</h1>\n<p>{html.escape(line)}</p>"


def _tiles(tables: Tables) -> str:
    plan = tables.plan
    before = tables.timing(BEFORE, plan.compared, BEFORE_STEPS)
    usual = tables.timing(plan.defaults, plan.compared, DEFAULT_STEPS)
    after = tables.timing(tables.chosen, plan.compared, DEFAULT_STEPS)
    tiles = []
    if after:
        tiles.append((f"{after.text} s", f"a video of {plan.compared}, {DEFAULT_STEPS} steps"))
    if after and before:
        factor = f"{before.seconds / after.seconds:.1f} ×"
        tiles.append((factor, f"faster than {BEFORE.placement}, {BEFORE_STEPS} steps ({before.text} s)"))
    if after and usual and after.exact == usual.exact:  # a projection may not be held against what was run
        same = tables.chosen == plan.defaults
        factor = "defaults" if same else f"{usual.seconds / after.seconds:.2f} ×"
        tiles.append((factor, "are the best that was found" if same else f"faster than the defaults ({usual.text} s)"))
    placement, backend, precision = tables.served(tables.chosen, plan.compared)
    tiles.append((placement.replace("_", " "), f"is the placement; {backend}, {precision}"))
    shown = (f'<div class="tile"><b>{html.escape(big)}</b><span>{html.escape(small)}</span></div>'
             for big, small in tiles)  # fmt: skip
    return f'<div class="tiles">{"".join(shown)}</div>'


def _table(table: Table) -> str:
    longest = max((sum(line.phases.values()) for line in table.lines), default=0.0) or 1.0
    numeric = [all(_is_number(line.cells[column]) for line in table.lines) for column in range(len(table.columns))]
    heads = [f"<th{' class=n' if right else ''}>{html.escape(name)}</th>"
             for name, right in zip(table.columns, numeric, strict=True)]  # fmt: skip
    rows = [_row(line, numeric, longest) for line in table.lines]
    return (
        f"<h2>{html.escape(table.heading)}</h2>\n<p>{html.escape(table.note)}</p>\n"
        f'<div class="scroll"><table>\n<tr>{"".join(heads)}<th></th></tr>\n' + "\n".join(rows) + "\n</table></div>"
    )


def _row(line: Line, numeric: Sequence[bool], longest: float) -> str:
    cells = []
    for text, right in zip(line.cells, numeric, strict=True):
        kind = " class=n" if right else " class=long" if len(text) > 48 else ""
        cells.append(f"<td{kind}>{html.escape(text)}</td>")
    segments = "".join(
        f'<i class="{phase}" style="width:{100 * seconds / longest:.2f}%" title="{_PHASES[phase]} {seconds:.3g} s"></i>'
        for phase in (phase.value for phase in Phase)
        if (seconds := line.phases.get(phase, 0.0)) > 0
    )
    best = " class=best" if line.best else ""
    return f'<tr{best}>{"".join(cells)}<td class="bar"><div>{segments}</div></td></tr>'


def _is_number(text: str) -> bool:
    return bool(text) and not any(letter.isalpha() for letter in text)


def _before_and_after(tables: Tables) -> str:
    """One frame of each, as far as whole generations were run."""
    plan, shown = tables.plan, []
    asked = {"Before": (BEFORE, BEFORE_STEPS), "Defaults": (plan.defaults, DEFAULT_STEPS)}
    if tables.chosen != plan.defaults:
        asked["Tuned"] = (tables.chosen, DEFAULT_STEPS)
    for name, (candidate, steps) in asked.items():
        row = tables.whole(candidate, steps)
        frames = tables.frames(row)
        if row is not None and frames is not None:
            shown.append(_figure([_middle(frames)], name, f"{counted(steps, 'step')}, {row['seconds']:.3g} s"))
    return f'<div class="frames">{"".join(shown)}</div>' if len(shown) > 1 else ""


def _by_steps(tables: Tables) -> str:
    """The middle frame by steps, under it what differs from the most steps; and a curve of it."""
    videos = _videos(tables.generations(), tables)
    if len(videos) < 2:
        return ""
    most = max(videos)
    reference = videos[most][1]
    figures, points = [], []
    for steps, (row, frames) in videos.items():
        caption = f"{row['seconds']:.3g} s"
        pictures = [_middle(frames)]
        if steps != most:
            apart = psnr(frames, reference)
            caption += f", {apart:.1f} dB"
            pictures.append(_apart(_middle(frames), _middle(reference)))
            points.append((steps, apart, f"{row['seconds']:.3g} s", steps == DEFAULT_STEPS))
        figures.append(_figure(pictures, counted(steps, "step"), caption))
    note = (
        f"<p>The middle frame; under it, {AMPLIFIED} times brighter, how it differs from the frame of "
        f"{counted(most, 'step')}.</p>"
    )
    plot = _plot(points, "steps", f"PSNR to {counted(most, 'step')}, dB") if len(points) > 1 else ""
    return f'<div class="frames">{"".join(figures)}</div>\n{note}\n{plot}'


def _videos(rows: Mapping[int, Row], tables: Tables) -> dict[int, tuple[Row, npt.NDArray[np.uint8]]]:
    found = {steps: (row, tables.frames(row)) for steps, row in rows.items()}
    return {steps: (row, frames) for steps, (row, frames) in found.items() if frames is not None}


def _trade_off(tables: Tables) -> str:
    """Seconds against memory, where memory was measured."""
    points = []
    for line in tables.memory().lines:
        if line.phases and line.cells[3][0].isdigit():
            points.append((float(line.cells[3]), sum(line.phases.values()), line.cells[0], line.best))
    return _plot(sorted(points), "peak GiB", "seconds") if len(points) > 1 else ""


def _middle(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    middle: npt.NDArray[np.uint8] = frames[len(frames) // 2]
    return middle


def _apart(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    apart = np.abs(one.astype(np.int16) - other.astype(np.int16)) * AMPLIFIED
    return np.asarray(apart.clip(0, 255), dtype=np.uint8)


def _figure(pictures: Sequence[npt.NDArray[np.uint8]], name: str, caption: str) -> str:
    shown = "".join(f'<img alt="{html.escape(name)}" src="{_data(picture)}">' for picture in pictures)
    return f"<figure>{shown}<figcaption><b>{html.escape(name)}</b>, {html.escape(caption)}</figcaption></figure>"


def _data(picture: npt.NDArray[np.uint8]) -> str:
    """A picture as a JPEG inside its own address."""
    image = Image.fromarray(picture)
    if image.width > FRAME_WIDTH:
        image = image.resize((FRAME_WIDTH, round(image.height * FRAME_WIDTH / image.width)))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=84)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _plot(points: Sequence[tuple[float, float, str, bool]], across: str, up: str) -> str:
    """Named points (x, y, name, whether it is the choice), joined from left to right."""
    width, height, left, right, top, bottom = 560, 250, 52, 110, 18, 40
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    low_x, high_x = _range(xs)
    low_y, high_y = _range(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - low_x) / (high_x - low_x) * (width - left - right),
            height - bottom - (y - low_y) / (high_y - low_y) * (height - top - bottom),
        )

    floor = height - bottom
    parts = [f'<line class="axis" x1="{left}" y1="{floor}" x2="{width - right + 30}" y2="{floor}"/>']
    parts += [f'<line class="axis" x1="{left}" y1="{top}" x2="{left}" y2="{floor}"/>']
    parts += [f'<text x="{place(x, low_y)[0]:.0f}" y="{floor + 17}" text-anchor="middle">{x:.3g}</text>'
              for x in _apart_enough(xs, high_x - low_x)]  # fmt: skip
    parts += [f'<text x="{left - 8}" y="{place(low_x, y)[1] + 4:.0f}" text-anchor="end">{y:.3g}</text>'
              for y in _apart_enough(ys, high_y - low_y)]  # fmt: skip
    parts += [f'<text x="{(left + width - right) / 2:.0f}" y="{height - 6}" text-anchor="middle">{across}</text>']
    parts += [f'<text x="{left}" y="11">{html.escape(up)}</text>']
    way = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(x, y) for x, y, _, _ in sorted(points)))
    parts += [f'<polyline class="way" points="{way}"/>']
    for x, y, name, best in points:
        at = place(x, y)
        parts.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="5" class="{"best" if best else ""}"/>')
        parts.append(f'<text class="name" x="{at[0] + 9:.1f}" y="{at[1] - 7:.1f}">{html.escape(name)}</text>')
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    """What an axis spans: the values and a little room."""
    low, high = min(values), max(values)
    room = 0.12 * (high - low) or 0.5 * abs(high) or 1.0
    return low - room, high + room


def _apart_enough(values: Sequence[float], span: float) -> list[float]:
    """Those that can be written on an axis without touching."""
    kept: list[float] = []
    for value in sorted(values):
        if not kept or value - kept[-1] > 0.09 * span:
            kept.append(value)
    return kept


def _left_out(tables: Tables) -> str:
    if not tables.tuned.left_out:
        return ""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in tables.tuned.left_out)
    return f"<h2>Not measured</h2>\n<ul>{items}</ul>"


def _facts(tables: Tables) -> str:
    header = tables.tuned.tuning.header
    versions = ", ".join(f"{name} {number}" for name, number in header["versions"].items())
    facts = {"device": header["device"], "driver": header["driver"], "processor": header["cpu"], "versions": versions,
             "commit": header["commit"], "date": header["date"], "prompt": header["prompt"]}  # fmt: skip
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items() if value)
    use = "<p>Serve with what was found: <code>easyanim-server serve --tuned tuned.json</code></p>"
    return f"<h2>What it was measured with</h2>\n<dl>{rows}</dl>\n{use}"
