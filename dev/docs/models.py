"""The table of docs/models.md: `python -m dev.docs.models write` makes it of the catalogue, `check` compares."""

from __future__ import annotations

import sys
from pathlib import Path

from easyanim_server import catalog
from easyanim_server.domain import published
from easyanim_server.domain.job import START, START_END, TEXT

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- models -->\n", "<!-- /models -->\n"

TASKS = {TEXT: "text", START: "start picture", START_END: "start and end picture"}

NOT_YET = "not yet"


def table() -> str:
    """A row a model, a column a task."""
    lines = [
        f"| Hugging Face | ModelScope | layout | {' | '.join(TASKS.values())} |",
        f"|---|---|---|{'---|' * len(TASKS)}",
    ]
    for model in published.PUBLISHED:
        known = catalog.find(model.id)
        tasks = known.capabilities.tasks if known else frozenset()
        marks = ["yes" if task in tasks else "" for task in TASKS] if known else [NOT_YET, "", ""]
        # What is in diffusers' layout was published on Hugging Face.
        other = "" if model.diffusers else f"`{published.MODELSCOPE_OWNER}/{model.name}`"
        layout = "diffusers" if model.diffusers else "authors'"
        lines.append(f"| `{model.id}` | {other} | {layout} | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with the table as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}{table()}{END}{tail}"


if __name__ == "__main__":
    if sys.argv[1:] == ["write"]:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        raise SystemExit("docs/models.md is not what the catalogue has; python -m dev.docs.models write")
