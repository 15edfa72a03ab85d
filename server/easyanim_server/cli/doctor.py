"""Prints what this machine can do for a server with given settings."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from easyanim_server.config.settings import Settings


def report(settings: Settings) -> int:
    """Print what was found; returns the exit code, 1 where `serve` cannot work."""
    from easyanim_server.cli import tools  # brings torch, which `serve` must not load in this process

    findings = tools.examine(settings)
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark = "[yellow]warn[/yellow]" if finding.doubtful else "[green]ok[/green]"
        mark = "[red]missing[/red]" if finding.fatal else mark
        table.add_row(mark, finding.subject, finding.detail)
    console = Console()
    console.print(table)
    broken = [finding.subject for finding in findings if finding.fatal]
    doubtful = [finding.subject for finding in findings if finding.doubtful]
    verdict = "serve can start with these settings" + (f"; mind {', '.join(doubtful)}" if doubtful else "")
    verdict = f"serve will not work: {', '.join(broken)}" if broken else verdict
    console.print(verdict)
    return 1 if broken else 0
