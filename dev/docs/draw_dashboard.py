"""Draws the Grafana dashboard without Grafana: its panels' own queries, asked of a Prometheus server, by matplotlib.

    python dev/docs/draw_dashboard.py --prometheus http://127.0.0.1:9090 --minutes 15 --out docs/dashboard.png

A picture for the documentation, and a check that every query is answered; Grafana's own drawing looks similar.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter, MinuteLocator, date2num
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator

DASHBOARD = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards" / "easyanim.json"

COLUMN, ROW, GAP, TITLE, DPI = 66, 38, 8, 30, 100
"""Grafana's grid, in pixels."""
CANVAS, PANEL, EDGE, TEXT, DIM = "#111217", "#181b1f", "#2a2e34", "#d8d9da", "#8e9299"
LINES = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0", "#96d98d", "#ffee52")
NAMED = {
    "green": LINES[0],
    "yellow": LINES[1],
    "blue": LINES[2],
    "orange": LINES[3],
    "red": LINES[4],
    "purple": LINES[5],
}
COLORS = {"green": "#3d8b40", "yellow": "#c79a00", "red": "#c4343f", "text": "#d8d9da"}


class Prometheus:
    """Answers queries over one stretch of time."""

    def __init__(self, address: str, end: float, minutes: float, step: float) -> None:
        self._address = address.rstrip("/")
        self._end = end
        self._start = self._end - 60 * minutes
        self._step = step

    def instant(self, query: str) -> list[dict[str, Any]]:
        """The newest value of every series, with its labels."""
        return self._ask("query", query=query, time=self._end)

    def range(self, query: str) -> list[dict[str, Any]]:
        """All values of every series."""
        return self._ask("query_range", query=query, start=self._start, end=self._end, step=self._step)

    def _ask(self, what: str, **parameters: Any) -> list[dict[str, Any]]:
        parameters["query"] = parameters["query"].replace("$__rate_interval", "1m").replace("$instance", ".*")
        url = f"{self._address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result


class Drawing:
    """One figure with all panels."""

    def __init__(self, dashboard: dict[str, Any], source: Prometheus) -> None:
        self._source = source
        self._panels, self.left_out = filled(dashboard["panels"], source)
        rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in self._panels)
        self._width, self._height = 24 * COLUMN + GAP, rows * ROW + GAP
        matplotlib.rcParams.update({"font.family": "DejaVu Sans", "text.color": TEXT, "font.size": 8})
        self.figure = Figure(figsize=(self._width / DPI, self._height / DPI), dpi=DPI, facecolor=CANVAS)
        self.empty: list[str] = []
        """Titles of panels whose queries had no answer."""
        kinds = {"row": self._row, "stat": self._stat, "timeseries": self._timeseries, "table": self._table}
        for panel in self._panels:
            kinds[panel["type"]](panel)

    def _axes(self, panel: dict[str, Any], left: int = 0, right: int = 0, top: int = 0, bottom: int = 0) -> Axes:
        grid = panel["gridPos"]
        x, y = grid["x"] * COLUMN + GAP, grid["y"] * ROW + GAP
        w, h = grid["w"] * COLUMN - GAP, grid["h"] * ROW - GAP
        box = (x + left, self._height - y - h + bottom, w - left - right, h - top - bottom)
        scale = (self._width, self._height, self._width, self._height)
        axes: Axes = self.figure.add_axes(tuple(value / whole for value, whole in zip(box, scale, strict=True)))
        axes.set_facecolor(PANEL)
        return axes

    def _frame(self, panel: dict[str, Any], color: str = PANEL, title: str = TEXT) -> None:
        axes = self._axes(panel)
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.add_patch(
            FancyBboxPatch(
                (0, 0), 1, 1, boxstyle="round,pad=0", facecolor=color, edgecolor=EDGE, linewidth=1.2, clip_on=False
            )
        )
        corner: dict[str, Any] = {
            "xycoords": "axes fraction",
            "xytext": (8, -8),
            "textcoords": "offset points",
            "va": "top",
        }
        axes.annotate(panel["title"], (0, 1), fontsize=9, fontweight="bold", color=title, va="top", **corner)

    def _row(self, panel: dict[str, Any]) -> None:
        axes = self._axes(panel)
        axes.set_axis_off()
        axes.text(0, 0.5, f"▾  {panel['title']}", va="center", fontsize=11, fontweight="bold")

    def _stat(self, panel: dict[str, Any]) -> None:
        query = panel["targets"][0]["expr"]
        found = self._source.instant(query)
        value = float(found[0]["value"][1]) if found else math.nan
        defaults = panel["fieldConfig"]["defaults"]
        color = COLORS[threshold(defaults["thresholds"]["steps"], value)]
        filled = panel["options"]["colorMode"] == "background" and not math.isnan(value)
        self._frame(panel, color if filled else PANEL, "white" if filled else TEXT)
        axes = self._axes(panel, bottom=2, top=TITLE)
        axes.set_axis_off()
        axes.patch.set_alpha(0)
        if panel["options"]["graphMode"] == "area" and (series := self._source.range(query)):
            values = np.array([float(pair[1]) for pair in series[0]["values"]])
            if values.max() > 0:
                axes.fill_between(range(len(values)), values, color="white" if filled else LINES[2], alpha=0.18, lw=0)
                axes.plot(values, color="white" if filled else LINES[2], alpha=0.5, lw=1)
                axes.set_ylim(0, values.max() * 3.5)
                axes.set_xlim(0, len(values) - 1)
        if math.isnan(value):
            self.empty.append(panel["title"])
            shown = "No data"
        else:
            mappings = {key: item["text"] for m in defaults.get("mappings", []) for key, item in m["options"].items()}
            shown = mappings.get(f"{value:g}") or format_value(value, defaults["unit"], defaults.get("decimals"))
        size = 15 if shown == "No data" else 25
        axes.text(0.5, 0.5, shown, transform=axes.transAxes, ha="center", va="center", fontsize=size, color=TEXT)

    def _timeseries(self, panel: dict[str, Any]) -> None:
        self._frame(panel)
        axes = self._axes(panel, left=62, right=14, top=TITLE + 6, bottom=50)
        lines = [
            (legend(target["legendFormat"], series["metric"]), series["values"])
            for target in panel["targets"]
            for series in self._source.range(target["expr"])
        ]
        lines = [line for line in lines if any(not math.isnan(float(value)) for _, value in line[1])]
        if not lines:
            self.empty.append(panel["title"])
            axes.set_axis_off()
            axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", va="center", color=DIM, fontsize=12)
            return
        defaults = panel["fieldConfig"]["defaults"]
        moments = sorted({moment for _, values in lines for moment, _ in values})
        dates = [date2num(datetime.fromtimestamp(moment)) for moment in moments]
        table = np.full((len(lines), len(moments)), math.nan)
        for number, (_, values) in enumerate(lines):
            for moment, value in values:
                table[number, moments.index(moment)] = float(value)
        stacked = defaults["custom"].get("stacking", {}).get("mode") == "normal"
        drawn = np.cumsum(np.nan_to_num(table), axis=0) if stacked else table
        below = np.zeros(len(moments))
        fixed = {
            override["matcher"]["options"]: NAMED[item["value"]["fixedColor"]]
            for override in panel["fieldConfig"]["overrides"]
            for item in override["properties"]
        }
        for number, (name, _) in enumerate(lines):
            color = fixed.get(name, LINES[number % len(LINES)])
            shown = not stacked or np.nansum(table[number]) > 0  # in a stack, a line of nothing hides the one below
            axes.plot(dates, drawn[number], color=color, lw=1.5 if shown else 0, label=name)
            alpha = defaults["custom"]["fillOpacity"] / 100
            axes.fill_between(dates, drawn[number], below, color=color, alpha=alpha, lw=0)
            below = drawn[number] if stacked else below
        top = defaults.get("max") or np.nanmax(drawn) * 1.08
        axes.set_ylim(0, top if top > 0 else 1)
        axes.set_xlim(dates[0], dates[-1])
        axes.grid(color=EDGE, lw=0.7)
        axes.tick_params(colors=DIM, length=0, labelsize=8)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value, defaults["unit"], None)))
        every = min((n for n in (1, 2, 5, 10, 30, 60) if (moments[-1] - moments[0]) / 60 / n <= 6), default=60)
        axes.xaxis.set_major_locator(MinuteLocator(byminute=range(0, 60, every)))
        axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
        for spine in axes.spines.values():
            spine.set_visible(False)
        longest = max(len(name) for name, _ in lines)
        columns = max(1, min(4, len(lines), 84 // (longest + 6)))
        axes.legend(
            loc="upper left", bbox_to_anchor=(-0.1, -0.1), ncols=columns, frameon=False, fontsize=7.5,
            labelcolor=TEXT, handlelength=1, columnspacing=1.2, borderaxespad=0.3,
        )  # fmt: skip

    def _table(self, panel: dict[str, Any]) -> None:
        self._frame(panel)
        axes = self._axes(panel, left=12, right=12, top=TITLE, bottom=6)
        axes.set_axis_off()
        options = panel["transformations"][0]["options"]
        found = self._source.instant(panel["targets"][0]["expr"])
        if not found:
            self.empty.append(panel["title"])
        unit = panel["fieldConfig"]["defaults"]["unit"]
        rows = [{**item["metric"], "Value": format_value(float(item["value"][1]), unit, None)} for item in found]
        order = options["indexByName"]
        columns = [name for name in sorted(order, key=order.get) if name not in options["excludeByName"]]
        step = 1 / (panel["gridPos"]["h"] * ROW - GAP - TITLE) * 22
        for place, name in enumerate(columns):
            x = place / len(columns)
            title = options.get("renameByName", {}).get(name, name)
            axes.text(x, 1 - step / 2, title, va="center", color="#6e9fff", fontweight="bold", fontsize=8.5)
            for number, row in enumerate(rows, start=1):
                axes.text(x, 1 - step * (number + 0.5), row.get(name, ""), va="center", fontsize=8.5)
                axes.axhline(1 - step * number, color=EDGE, lw=0.8)


def filled(panels: list[dict[str, Any]], source: Prometheus) -> tuple[list[dict[str, Any]], list[str]]:
    """Leave out whole lines of panels that show nothing, such as those of a device where there is none.

    Returns:
        The panels that are left, moved up; and the titles of the others.
    """
    kept, left_out, up = [], [], 0
    lines: dict[int, list[dict[str, Any]]] = {}
    for panel in panels:
        lines.setdefault(panel["gridPos"]["y"], []).append(panel)
    for top in sorted(lines):
        drawn = [panel for panel in lines[top] if panel["type"] == "timeseries"]
        if len(drawn) == len(lines[top]) and not any(_shows_something(panel, source) for panel in drawn):
            up += max(panel["gridPos"]["h"] for panel in drawn)
            left_out += [panel["title"] for panel in drawn]
        else:
            kept += [{**panel, "gridPos": {**panel["gridPos"], "y": top - up}} for panel in lines[top]]
    return kept, left_out


def _shows_something(panel: dict[str, Any], source: Prometheus) -> bool:
    """Whether any value of a panel was above zero."""
    return any(
        float(value) > 0  # NaN is not
        for target in panel["targets"]
        for series in source.range(target["expr"])
        for _, value in series["values"]
    )


def legend(form: str, labels: dict[str, str]) -> str:
    """A series' name, as Grafana makes it of the legend's form."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match[1], ""), form)


def threshold(steps: list[dict[str, Any]], value: float) -> str:
    """The colour of the highest threshold that the value has reached."""
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return str(reached[-1])


def format_value(value: float, unit: str, decimals: int | None) -> str:
    """A value as Grafana shows it in its unit."""
    if unit == "percentunit":
        return f"{value:.0%}"
    if unit in ("bytes", "Bps"):
        power = min(4, int(math.log(max(abs(value), 1), 1024)))
        return f"{value / 1024**power:.3g} {['', 'Ki', 'Mi', 'Gi', 'Ti'][power]}B" + ("/s" if unit == "Bps" else "")
    if unit == "s":
        if value and abs(value) < 1:
            return f"{value * 1000:.3g} ms"
        return (
            f"{value / 60:.3g} min" if abs(value) >= 60 else f"{value:.{decimals}f} s" if decimals else f"{value:.3g} s"
        )
    return f"{value:.{decimals}f}" if decimals is not None else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--until", type=datetime.fromisoformat, help="end of the time that is drawn; default: now")
    parser.add_argument("--step", type=float, default=5, help="seconds between two points")
    parser.add_argument("--out", type=Path, default=Path("docs/dashboard.png"))
    given = parser.parse_args()
    end = given.until.timestamp() if given.until else time.time()
    source = Prometheus(given.prometheus, end, given.minutes, given.step)
    drawing = Drawing(json.loads(DASHBOARD.read_text()), source)
    drawing.figure.savefig(given.out, facecolor=CANVAS)
    print(f"wrote {given.out}; without data: {', '.join(drawing.empty) or 'none'}")
    print(f"left out, since nothing in their line has data: {', '.join(drawing.left_out) or 'none'}")


if __name__ == "__main__":
    main()
