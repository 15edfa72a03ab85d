"""What docs/operations.md tells operators to look for is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.rpc import code_pb2

from easyanim_server.rpc.status import CODES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## What can go wrong")[2].partition("\n## ")[0]
SOURCES = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "server").rglob("*.py"))


def named(point: str) -> list[str]:
    """Everything in code spans under that point of the lists."""
    points = re.findall(rf"^- \*\*{point}\*\*: (.*?)(?=\n- |\n\n)", SECTION, re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`]+)`", " ".join(" ".join(points).split()))


OF_THE_SYSTEM = {"error_id", "No space left on device"}
"""Not a message: a key of a line, and what the system calls the error."""


@pytest.mark.parametrize("line", sorted({*named("Log")} - OF_THE_SYSTEM))
def test_every_log_line_that_operators_are_told_of_is_written(line: str) -> None:
    assert f'{line}"' in SOURCES


@pytest.mark.parametrize("name", sorted(name for name in named("Metrics") if name.startswith("easyanim_")))
def test_every_metric_that_operators_are_told_of_is_in_the_table(name: str) -> None:
    assert f"\n| `{name}` |" in PAGE


def test_every_alert_that_operators_are_told_of_is_a_rule() -> None:
    rules = set(re.findall(r"alert: (\w+)", (ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8")))
    told = set(re.findall(r"`(Easyanim\w+)`", SECTION))
    assert told
    assert told <= rules


def test_every_failure_says_all_of_it() -> None:
    points = ["Callers", "State", "Metrics", "Log", "Do"]
    for failure in SECTION.split("\n### ")[1:]:
        assert re.findall(r"^- \*\*(\w+)\*\*:", failure, re.MULTILINE) == points, failure.partition("\n")[0]


def test_readme_s_table_of_failures_has_every_code_with_its_reasons() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("| a call fails with |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    pairs = [(code, reason) for row in rows for code in re.findall(r"`(\w+)`", row[0])
             for reason in re.findall(r"`([A-Z_]+)`", row[2])]  # fmt: skip
    answered = {(code_pb2.Code.Name(code), error.reason) for error, code in CODES.items()}

    assert answered <= set(pairs)
    assert len(rows) == len({tuple(row) for row in rows})


def test_readme_says_when_to_try_again_where_the_server_does() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("| a call fails with |")[2].partition("\n\n")[0]
    told = {
        reason
        for line in table.splitlines()[2:]
        if line.split("|")[4].strip() == "when to try again"
        for reason in re.findall(r"`([A-Z_]+)`", line.split("|")[3])
    }

    assert told == {error.reason for error in CODES if error.heals}


def test_the_list_of_pages_promises_what_its_pages_have() -> None:
    """Of each row the items of one word: `run a server: logs, metrics, ...`."""
    docs = ROOT / "docs"
    rows = re.findall(r"^\| (?!you want)(.+?) \| \[.*?\]\((\S+)\) \|$", (docs / "README.md").read_text(), re.MULTILINE)
    promised = [
        (word.strip(), page) for text, page in rows for word in re.split(r"[,:]", text) if " " not in word.strip()
    ]

    assert ("metrics", "operations.md") in promised
    for word, page in promised:
        assert word.lower().rstrip("s") in (docs / page).read_text(encoding="utf-8").lower(), (word, page)
