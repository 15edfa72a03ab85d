"""What the tuner has measured, a line of JSON each, so that a run which is cut off goes on where it ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]

KEY = ("what", "candidate", "bucket", "steps")
"""Names a measurement among those with the same header."""


class Journal:
    """Rows of one folder. Those of another header (card, versions, model, commit) stay in the file and count nothing.

    Args:
        file: Of JSON lines; made if absent.
        header: What measurements depend on.
        retry: Whether failures are measured again.
    """

    def __init__(self, file: Path, header: Mapping[str, Any], retry: bool = False) -> None:
        self._file = file
        text = json.dumps(header, sort_keys=True, ensure_ascii=False)
        self._mark = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.rows: list[Row] = []
        """What counts, in the order of measurement."""
        known = False
        for row in _lines(file):
            known = known or (row.get("what") == "header" and row.get("header") == self._mark)
            if row.get("header") == self._mark and row.get("what") != "header" and not (retry and "error" in row):
                self._keep(row)
        if not known:
            self._append({"what": "header", "header": self._mark, "facts": dict(header)})

    def find(self, what: str, candidate: str, bucket: str, steps: int) -> Row | None:
        """The row of that measurement, which may be a failure; None where there is none."""
        wanted = (what, candidate, bucket, steps)
        return next((row for row in self.rows if tuple(row[name] for name in KEY) == wanted), None)

    def add(self, row: Row) -> None:
        """Keep a row, on disk before this returns."""
        row = {name: _rounded(value) for name, value in row.items()}
        self._append({"header": self._mark, **row})
        self._keep(row)

    def _keep(self, row: Row) -> None:
        key = [row[name] for name in KEY]
        self.rows = [other for other in self.rows if [other[name] for name in KEY] != key]
        self.rows.append({name: value for name, value in row.items() if name != "header"})

    def _append(self, row: Row) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        torn = self._file.exists() and not self._file.read_bytes().endswith(b"\n") and self._file.stat().st_size > 0
        with self._file.open("a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + json.dumps(row, ensure_ascii=False) + "\n")


def _lines(file: Path) -> list[Row]:
    """All lines that are whole: the last one may have been cut off."""
    rows = []
    for line in file.read_text(encoding="utf-8-sig").splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _rounded(value: Any) -> Any:
    """Four significant digits: more than one run can tell."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
