"""The command `easyanim-server`; without the server's libraries, how to install them."""

from __future__ import annotations

try:
    from easyanim_server.cli.app import app, main
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"easyanim-server needs {missing.name}: pip install '.[server]' in a clone of easyanim installs it"
    ) from missing

__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
