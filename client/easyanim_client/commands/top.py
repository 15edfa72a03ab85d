"""`easyanim-client top`: a server, live."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from easyanim_client.client import Client
from easyanim_client.commands.shared import Address, Tls, reported
from easyanim_client.top import watch


def top(
    address: Address = "localhost:50051",
    tls: Tls = False,
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one picture of the server and exit.")] = False,
) -> None:
    """Watch a server live: its queue, the running step and its ETA, the GPU's memory. Ctrl-C ends it."""
    with reported(), Client(address, tls=tls) as client:
        watch(client.info, address, Console(), interval=interval, once=once)
