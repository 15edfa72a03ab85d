"""Draws docs/rooms.svg: the packages of server and client, and which import which, read from the source.

    python dev/docs/draw_rooms.py

An arrow from one room to another is left out where a chain of other arrows leads there as well: almost every room
imports `domain`. A dashed arrow is a module that is named in a string and imported by that name in another process.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "rooms.svg"

PACKAGES = {
    "easyanim_server": ROOT / "server" / "easyanim_server",
    "easyanim_client": ROOT / "client" / "easyanim_client",
}
WHOLE = {"easyanim_client": "client", "easyanim": "proto"}
"""Packages that are one room."""
PROTO = "The contract, and the stubs generated from it."

COLUMNS = {
    "cli": 0.4,
    "client": 0.13, "http": 0.25, "rpc": 0.4, "tune": 0.84,
    "proto": 0.13, "jobs": 0.4, "benchmark": 0.84,
    "workers": 0.4,
    "media": 0.13, "prompts": 0.375, "engine": 0.62, "telemetry": 0.865,
    "config": 0.74,
    "catalog": 0.74,
    "domain": 0.5,
}  # fmt: skip
"""Centres of rooms, as shares of the width; rows follow from the arrows."""

WIDTH, BOX_WIDTH, BOX_HEIGHT, ROW = 1000, 212, 62, 104
MARGIN = 12
CHARACTERS = 34
"""Of a line in a box."""

STYLE = """
  text { font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; text-anchor: middle }
  .name { font-size: 15px; font-weight: 600; fill: #10243e }
  .what { font-size: 11px; fill: #3d4f66 }
  .room { fill: #e8f0fb; stroke: #5b86c4; stroke-width: 1.4 }
  .apart { fill: #fdf1dd; stroke: #c9953c }
  .arrow { fill: none; stroke: #7f8ea3; stroke-width: 1.6 }
  .by-name { stroke-dasharray: 5 4 }
"""


@dataclass(frozen=True)
class Arrow:
    """One room imports another, or has it imported by name."""

    source: str
    target: str
    by_name: bool = False


def room_of(module: str) -> str | None:
    """The room that a module is in; None outside of ours, and for the server's package itself."""
    parts = module.split(".")
    if parts[0] in WHOLE:
        return WHOLE[parts[0]]
    if parts[0] not in PACKAGES or len(parts) == 1 or parts[1].startswith("__"):
        return None
    return parts[1]


def read() -> tuple[dict[str, str], set[Arrow]]:
    """Rooms with what they are for, and all arrows between them."""
    rooms, arrows = {"proto": PROTO}, set[Arrow]()
    for package, folder in PACKAGES.items():
        for file in sorted(folder.rglob("*.py")):
            parts = [package, *file.relative_to(folder).with_suffix("").parts]
            room = room_of(".".join(parts))
            if room is None:
                continue
            tree = ast.parse(file.read_bytes())
            opens_room = parts[-1] == "__init__" and len(parts) == (2 if package in WHOLE else 3)
            if opens_room or (len(parts) == 2 and package not in WHOLE):
                rooms[room] = (ast.get_docstring(tree) or "").partition(".")[0] + "."
            for target, by_name in targets(tree):
                if target != room:
                    arrows.add(Arrow(room, target, by_name))
    return rooms, {arrow for arrow in arrows if not arrow.by_name or Arrow(arrow.source, arrow.target) not in arrows}


def targets(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Rooms that the code imports, and those it names in a string like ``package.module:attribute``."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and ":" in node.value:
            module = node.value.partition(":")[0]
            if module.startswith("easyanim_server.") and (room := room_of(module)):
                yield room, True
        yield from ((room, False) for room in map(room_of, names) if room)


def reduced(arrows: set[Arrow]) -> list[Arrow]:
    """The arrows without which a room could not be reached; sorted."""
    after: dict[str, set[str]] = {}
    for arrow in arrows:
        after.setdefault(arrow.source, set()).add(arrow.target)

    def reachable(start: str) -> set[str]:
        found, open_rooms = set[str](), [start]
        while open_rooms:
            for room in after.get(open_rooms.pop(), set()) - found:
                found.add(room)
                open_rooms.append(room)
        return found

    needed = [
        arrow
        for arrow in arrows
        if not any(arrow.target in reachable(other) for other in after[arrow.source] - {arrow.target})
    ]
    return sorted(needed, key=lambda arrow: (arrow.source, arrow.target))


def rows_of(rooms: dict[str, str], arrows: list[Arrow]) -> dict[str, int]:
    """Rows such that every arrow points down.

    Raises:
        ValueError: the arrows go in a circle.
    """
    rows = dict.fromkeys(rooms, 0)
    for _ in range(len(rooms) + 1):
        lower = {arrow.target: rows[arrow.source] + 1 for arrow in sorted(arrows, key=lambda one: rows[one.source])
                 if rows[arrow.target] <= rows[arrow.source]}  # fmt: skip
        if not lower:
            return rows
        rows |= lower
    raise ValueError(f"rooms import each other in a circle: {', '.join(sorted(lower))}")


def draw() -> str:
    """The picture, as SVG that reads the same on a light and on a dark page."""
    rooms, found = read()
    unplaced = rooms.keys() - COLUMNS.keys()
    if unplaced:
        raise ValueError(f"COLUMNS lacks {', '.join(sorted(unplaced))}")
    arrows = reduced(found)
    rows = rows_of(rooms, arrows)
    places = {room: (round(COLUMNS[room] * WIDTH), MARGIN + rows[room] * ROW) for room in rooms}
    height = max(y for _, y in places.values()) + BOX_HEIGHT + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        "<title>Rooms of the code, and which imports which</title>",
        f"<style>{STYLE}</style>",
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#7f8ea3"/></marker>',
        *(path(arrow, arrows, places) for arrow in arrows),
        *(box(room, rooms[room], *places[room]) for room in sorted(rooms)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def path(arrow: Arrow, arrows: list[Arrow], places: dict[str, tuple[int, int]]) -> str:
    """One arrow from the lower edge of a box to the upper edge of another, beside the others of both boxes."""
    leaving = sorted((places[one.target][0], one.target) for one in arrows if one.source == arrow.source)
    coming = sorted((places[one.source][0], one.source) for one in arrows if one.target == arrow.target)
    (x1, y1), (x2, y2) = places[arrow.source], places[arrow.target]
    x1 += port([room for _, room in leaving].index(arrow.target), len(leaving))
    x2 += port([room for _, room in coming].index(arrow.source), len(coming))
    y1 += BOX_HEIGHT
    bend = (y2 - y1) / (2 if y2 - y1 < ROW else 12)  # long arrows are straight: they pass between boxes
    kind = "arrow by-name" if arrow.by_name else "arrow"
    curve = f"M{x1} {y1} C{x1} {y1 + bend:g} {x2} {y2 - bend:g} {x2} {y2}"
    title = f"<title>{arrow.source} → {arrow.target}</title>"
    return f'<path class="{kind}" marker-end="url(#head)" d="{curve}">{title}</path>'


def port(index: int, count: int) -> int:
    """Where on a box's edge the arrow of that number begins or ends, from its middle."""
    return round((index - (count - 1) / 2) * min(34, (BOX_WIDTH - 30) / count))


def box(room: str, what: str, x: int, y: int) -> str:
    """A room with its name and purpose."""
    apart = " apart" if room in WHOLE.values() else ""
    lines = textwrap.wrap(what.removesuffix("."), CHARACTERS)
    first = y + 35 if len(lines) > 1 else y + 41
    left = x - BOX_WIDTH // 2
    parts = [
        f'<rect class="room{apart}" x="{left}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8"/>',
        f'<text class="name" x="{x}" y="{y + 20}">{room}</text>',
    ]
    for number, line in enumerate(lines[:2]):
        parts.append(f'<text class="what" x="{x}" y="{first + 14 * number}">{escape(line)}</text>')
    return "\n".join(parts)


if __name__ == "__main__":
    FILE.write_text(draw(), encoding="utf-8")
    print(f"wrote {FILE.relative_to(ROOT)}")
