"""Entry of `easyanim-client`, which needs the extra "cli" (typer and rich).

Exit codes:
    0    the video is complete; the server is serving
    2    wrong usage, an invalid request, or a file that cannot be read or written
    3    the server cannot be reached, is unavailable, or is not serving
    4    the server has no room now: its queue, request memory, picture decoders or disk are in use
    5    the timeout passed
    6    the server failed, or sent a corrupt video
    7    replay: the video is not the same; batch: a job failed
    8    the draft is there, and nobody confirmed the final video
    130  Ctrl-C; the server was told to stop
    143  SIGTERM; the server was told to stop
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line; without its extra, say how to install it."""
    try:
        from easyanim_client.commands import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(
            f"easyanim-client needs {error.name}: pip install '.[cli]' in a clone of easyanim installs it",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    # An exception, unlike the default action, lets the generation be cancelled and its partial file be removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")  # a terminal without Unicode is no reason to fail
    app()


if __name__ == "__main__":
    main()
