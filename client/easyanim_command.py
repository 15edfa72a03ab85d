"""Where the console script `easyanim-client` begins: Ctrl-C ends it quietly from here on.

Outside the package, since the first import from `easyanim_client` brings grpc along, which takes a while.
"""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Run `easyanim-client`."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    if on_interrupt is signal.default_int_handler:  # a shell's background job ignores it, and goes on doing so
        # An exception would not do: within an import it may end up in a callback, which prints it and goes on.
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    # Failures are told in our own words; gRPC's lines of the same ones would stand between them. It reads this once.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from easyanim_client.cli import main as command

    signal.signal(signal.SIGINT, on_interrupt)
    command()
