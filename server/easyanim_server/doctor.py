"""Prints what this machine can do for a server with given settings."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from easyanim_server.settings import Settings


def report(settings: Settings) -> int:
    """Print what was found; returns the exit code, 1 where `serve` cannot work."""
    from easyanim_server.workers import tools  # brings torch, which `serve` must not load in this process

    findings = tools.examine(settings)
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark = "[red]missing[/red]" if finding.fatal else "[green]ok[/green]"
        table.add_row(mark, finding.subject, finding.detail)
    console = Console()
    console.print(table)
    broken = [finding.subject for finding in findings if finding.fatal]
    verdict = f"serve will not work: {', '.join(broken)}" if broken else "serve can start with these settings"
    console.print(verdict)
    return 1 if broken else 0
