"""The picture of the dashboard leaves out lines of panels that show nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[2] / "dev" / "docs" / "draw_dashboard.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("draw_dashboard", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Source:
    """Answers each query with the values of its name."""

    def __init__(self, **values: list[str]) -> None:
        self._values = values

    def range(self, query: str) -> list[dict[str, Any]]:
        return (
            [{"metric": {}, "values": [[0, value] for value in self._values[query]]}] if query in self._values else []
        )


def panel(title: str, x: int, y: int, kind: str = "timeseries") -> dict[str, Any]:
    place = {"x": x, "y": y, "w": 8, "h": 8}
    return {"title": title, "type": kind, "gridPos": place, "targets": [{"expr": title}]}


def test_lines_without_data_are_left_out_and_what_stands_below_moves_up() -> None:
    panels = [
        panel("queue", 0, 0), panel("refused", 8, 0),
        panel("memory", 0, 8), panel("load", 8, 8), panel("power", 16, 8),
        panel("cache", 0, 16), panel("server", 0, 24, "table"),
    ]  # fmt: skip
    source = Source(queue=["0", "2"], refused=["0"], memory=["0", "NaN"], cache=["0.5"])

    kept, left_out = load().filled(panels, source)

    assert left_out == ["memory", "load", "power"]
    assert [(item["title"], item["gridPos"]["y"]) for item in kept] == [
        ("queue", 0), ("refused", 0), ("cache", 8), ("server", 16),
    ]  # fmt: skip
