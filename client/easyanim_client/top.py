"""`easyanim-client top`: a server at a glance, again and again, from GetServerInfo alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from rich import box
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from easyanim_client.errors import EasyAnimError
from easyanim_client.render import PHASES
from easyanim_client.served import Activity, DeviceStatus, ServerInfo, State
from easyanim_client.wording import counted

HISTORY = 60
"""Looks that the curves go back."""

STYLES = {State.SERVING: "bold green", State.STARTING: "bold yellow", State.DRAINING: "bold magenta"}
LEVELS = "▁▂▃▄▅▆▇█"


class Screen:
    """What was seen of a server, as a picture of the newest look and curves of those before."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._info: ServerInfo | None = None
        self._problem = ""
        self._jobs: deque[float] = deque(maxlen=HISTORY)
        self._load: deque[float] = deque(maxlen=HISTORY)

    def see(self, info: ServerInfo) -> None:
        """Take in an answer of the server."""
        self._info, self._problem = info, ""
        self._jobs.append(info.jobs / (info.limits.max_queued + 1))
        if info.devices:
            self._load.append(sum(device.utilization for device in info.devices) / len(info.devices))

    def miss(self, problem: str) -> None:
        """Take in that the server did not answer; the last picture stays, marked as old."""
        self._problem = problem

    def __rich__(self) -> RenderableType:
        info = self._info
        if info is None:
            return Text(self._problem)
        running = [item for item in info.activity if item.phase is not None]
        waiting = [item for item in info.activity if item.phase is None]
        parts = [self._header(info)]
        if self._problem:
            parts.append(Text(f"no answer, still trying: {self._problem}", style="bold red"))
        parts += [_device(device, self._load) for device in info.devices]
        parts += [_running(running), self._queue(info, waiting)]
        return Group(*parts)

    def _header(self, info: ServerInfo) -> RenderableType:
        grid = Table.grid(expand=True, padding=(0, 1))
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_column(justify="right", no_wrap=True)
        title = Text.assemble(("easyanim ", "bold"), info.version, "  ", (info.model.name, "cyan"))
        if info.model.device:
            title.append(f"  {info.model.dtype} on {info.model.device}", style="dim")
        state = Text.assemble((f"● {info.state.value}", STYLES.get(info.state, "bold red")), "  ", self._address)
        grid.add_row(title, state)
        return Group(grid, Text(info.state_detail, style="yellow")) if info.state_detail else grid

    def _queue(self, info: ServerInfo, waiting: list[Activity]) -> RenderableType:
        table = Table(box=None, expand=True, padding=(0, 1), header_style="dim")
        for name in ("#", "job", "size", "frames", "steps", "waits for", "starts in"):
            left = name in ("job", "size")
            table.add_column(
                name, justify="left" if left else "right", no_wrap=True, ratio=3 if name == "job" else None
            )
        for place, item in enumerate(waiting, start=1):
            row = (str(place), item.job_id, item.bucket, str(item.frames), str(item.steps))
            table.add_row(*row, clock(item.elapsed_seconds), clock(item.eta_seconds))
        content = table if waiting else Text("nobody waits", style="dim")
        title = f"queue  {len(waiting)} of {info.limits.max_queued} places taken"
        return _panel(content, title, curve(self._jobs, "jobs"))


def watch(
    look: Callable[[], ServerInfo], address: str, console: Console, *, interval: float = 1.0, once: bool = False
) -> None:
    """Show a server until Ctrl-C: in place on a terminal, one picture after the other elsewhere.

    Args:
        look: Asks the server.
        address: Shown beside its answers.
        console: Where to.
        interval: Seconds between two looks.
        once: Show one picture and return.

    Raises:
        EasyAnimError: the first look failed; later on that is shown, and looked past.
    """
    screen = Screen(address)
    screen.see(look())
    if once:
        console.print(screen)
        return
    try:
        if not console.is_terminal:
            while True:
                console.print(screen)
                time.sleep(interval)
                _look(look, screen)
        with Live(screen, console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.refresh()
                time.sleep(interval)
                _look(look, screen)
    except KeyboardInterrupt:
        return


def _look(look: Callable[[], ServerInfo], screen: Screen) -> None:
    try:
        screen.see(look())
    except EasyAnimError as error:
        screen.miss(str(error))


def _device(device: DeviceStatus, load: deque[float]) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(width=6, style="dim")
    grid.add_column(ratio=1)
    grid.add_column(justify="right", width=30, no_wrap=True)
    used = device.memory_used / device.memory_total if device.memory_total else 0.0
    amount = f"{decimal(device.memory_used)} of {decimal(device.memory_total)}  {used:4.0%}"
    grid.add_row("memory", _bar(used, "magenta"), amount)
    extras = [f"{device.temperature:.0f} °C"] if device.temperature is not None else []
    extras += [f"{device.power:.0f} W"] if device.power is not None else []
    grid.add_row("load", _bar(device.utilization, "green"), "  ".join([*extras, f"{device.utilization:4.0%}"]))
    return _panel(grid, device.name, curve(load, "load"))


def _running(running: list[Activity]) -> RenderableType:
    if not running:
        return _panel(Text("nothing", style="dim"), "running")
    rows: list[RenderableType] = []
    for item in running:
        assert item.phase is not None  # it runs
        doing, unit = PHASES[item.phase]
        grid = Table.grid(expand=True, padding=(0, 1))
        grid.add_column(ratio=1, no_wrap=True)
        grid.add_column(justify="right", no_wrap=True)
        shape = Text.assemble(
            (item.job_id, "bold"), f"  {item.bucket}, {counted(item.frames, 'frame')}, {counted(item.steps, 'step')}"
        )
        grid.add_row(shape, Text.assemble("ETA ", (clock(item.eta_seconds), "bold cyan")))
        speed = "" if item.unit_seconds is None else f", {item.unit_seconds:.2f} s/{unit}"
        count = f"{doing}, {unit} {item.completed} of {item.total}{speed}"
        grid.add_row(count, f"for {clock(item.elapsed_seconds)}")
        rows += [grid, _bar(item.completed / item.total if item.total else 0.0, "cyan")]
    return _panel(Group(*rows), "running")


def _bar(share: float, style: str) -> ProgressBar:
    return ProgressBar(total=1.0, completed=min(share, 1.0), complete_style=style, finished_style=style)


def _panel(content: RenderableType, title: str, subtitle: str = "") -> Panel:
    return Panel(
        content,
        title=f"[bold]{title}[/bold]",
        title_align="left",
        subtitle=subtitle or None,
        subtitle_align="right",
        box=box.ROUNDED,
        border_style="bright_black",
        padding=(0, 1),
    )


def curve(shares: deque[float], name: str) -> str:
    """The last values of something between 0 and 1 as one line; empty before there are two."""
    if len(shares) < 2:
        return ""
    line = "".join(LEVELS[min(len(LEVELS) - 1, round(share * (len(LEVELS) - 1)))] for share in shares)
    return f"{name} {line}"


def clock(seconds: float | None) -> str:
    """Minutes and seconds, with hours where there are some; a dash where it is not known."""
    if seconds is None:
        return "—"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
