"""`easyanim-client` as tests run it: in this process by the fixture `run`, in another one by `MAIN`."""

from __future__ import annotations

from collections.abc import Callable

from typer.testing import Result

Command = Callable[..., Result]
"""Takes a command's words, and environment variables as keywords."""

# A process that a shell started in the background ignores SIGINT, and passes that on to its children.
MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from easyanim_client.cli import main; main()"
)
