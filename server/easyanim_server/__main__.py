"""The command `easyanim-server`; without the server's libraries, how to install them."""

from __future__ import annotations

import sys

try:
    from easyanim_server.cli.app import app, main
except ModuleNotFoundError as missing:
    print(
        f"easyanim-server needs {missing.name}: pip install '.[server]' in a clone of easyanim installs it",
        file=sys.stderr,
    )
    raise SystemExit(2) from missing

__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
