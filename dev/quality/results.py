"""What was measured, in one file: kept from run to run as long as it is of the same model, cases and measures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dev.quality.settings import Setting
from easyanim_server.benchmark import record

Row = dict[str, Any]

MEASURES = (
    "agreement.py", "camera.py", "cases.py", "fidelity.py", "thing.py", "trust.py", "../train_demo/clips.py",
    "../train_demo/motion.py", "../train_demo/pictures.py", "../train_demo/prompts.py",
)  # fmt: skip
"""Code that decides what is generated, and what is found in it."""


def measures_digest() -> str:
    """SHA-256 of that code, hex."""
    digest = hashlib.sha256()
    for name in MEASURES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()


class Results:
    """Rows by what they are of, written after every few.

    Args:
        file: Rows that are there are kept if they were measured under the same conditions.
        conditions: All that rows depend on.
        header: Further facts.
    """

    def __init__(self, file: Path, conditions: Mapping[str, Any], **header: Any) -> None:
        self.file = file
        self.header = {"conditions": dict(conditions), **header}
        """Facts that go into the file before its rows."""
        self._rows: dict[tuple[Any, ...], Row] = {}
        self.changed: list[str] = []
        """Conditions that were others in the file, whose rows therefore were dropped."""
        if file.exists():
            document = json.loads(file.read_text(encoding="utf-8-sig"))
            before = document["header"].get("conditions", {})
            self.changed = sorted(name for name, value in conditions.items() if before.get(name) != value)
            if not self.changed:
                rows = document["rows"]
                stale = {row["setting"] for row in rows if row["what"] == "setting" and _is_stale(row)}
                for row in rows:
                    if row.get("setting") not in stale:
                        self.add(row)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def add(self, row: Row) -> None:
        """Put in a row, in place of an older one of the same."""
        self._rows[_key(row)] = {name: _rounded(value) for name, value in row.items()}

    def video(self, setting: str, index: int) -> Row | None:
        """The row of a case made with a setting."""
        return self._rows.get(("video", setting, index))

    def case(self, index: int) -> Row | None:
        """The row of what a case asks for."""
        return self._rows.get(("case", None, index))

    def has(self, what: str) -> bool:
        """Whether there is a row of what there is one of."""
        return (what, None, None) in self._rows

    def write(self, command: str) -> None:
        """Write all rows, one a line."""
        kinds = ("trust", "vae", "setting", "case", "video")
        rows = sorted(self._rows.values(), key=lambda row: kinds.index(row["what"]))
        head = json.dumps(record.header_of(command, **self.header), indent=1, ensure_ascii=False)
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_name(self.file.name + ".part")  # a run that is cut off leaves a whole file
        part.write_text(f'{{"header": {head},\n"rows": [\n{lines}\n]}}\n', encoding="utf-8")
        part.replace(self.file)


def _key(row: Row) -> tuple[Any, ...]:
    return (row["what"], row.get("setting"), row.get("index"))


def _is_stale(row: Row) -> bool:
    """Whether an accelerator of a row's setting was another when it was measured."""
    return bool(row.get("code", "") != Setting.of(row).code)


def _rounded(value: Any) -> Any:
    """Four significant digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
