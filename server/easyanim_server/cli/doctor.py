"""Prints what this machine can do for a server with given settings."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from easyanim_server.cli.findings import Finding
from easyanim_server.config import environment
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import EasyAnimError

MARKS = {"ok": "[green]ok[/green]", "warn": "[yellow]warn[/yellow]", "missing": "[red]missing[/red]"}


def report(settings: Settings, as_json: bool = False) -> int:
    """Print what was found; returns the exit code, 1 where `serve` cannot work.

    Args:
        settings: Those that `serve` would have.
        as_json: Whether to print one JSON object in place of a table.
    """
    findings = _examine(settings)
    broken = [finding.subject for finding in findings if finding.fatal]
    doubtful = [finding.subject for finding in findings if finding.doubtful]
    verdict = "serve can start with these settings" + (f"; mind {', '.join(doubtful)}" if doubtful else "")
    verdict = f"serve will not work: {', '.join(broken)}" if broken else verdict
    if as_json:
        rows = [
            {"status": finding.status, "subject": finding.subject, "detail": finding.detail} for finding in findings
        ]
        print(json.dumps({"can_serve": not broken, "verdict": verdict, "findings": rows}, ensure_ascii=False, indent=2))
    else:
        _print_table(findings, verdict)
    return 1 if broken else 0


def _examine(settings: Settings) -> Sequence[Finding]:
    try:
        environment.temporary_folder()
    except EasyAnimError as error:  # torch itself cannot be imported then
        return [Finding("temporary files", str(error), fatal=True)]
    from easyanim_server.cli import tools  # brings torch, which `serve` must not load in this process

    return tools.examine(settings)


def _print_table(findings: Sequence[Finding], verdict: str) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        table.add_row(MARKS[finding.status], escape(finding.subject), escape(finding.detail))
    console = Console()
    console.print(table)
    console.print(escape(verdict))
