"""The commands `cache export` and `cache import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from easyanim_server.cli.flags import CacheDir, Force, described, examples
from easyanim_server.config import checks as preflight
from easyanim_server.config import environment
from easyanim_server.config.settings import Settings
from easyanim_server.domain.wording import counted

HELP = "Move compiled code to other machines of the same kind."
EXPORT_EPILOG = examples("easyanim-server cache export compiled.tar.gz")
IMPORT_EPILOG = examples("easyanim-server cache import compiled.tar.gz")

File = Annotated[Path, typer.Argument(help="The packed cache, a .tar.gz.")]
Device = Annotated[str, typer.Option(help=described("device"))]


def export_cache(file: File, cache_dir: CacheDir = None, device: Device = "auto", force: Force = False) -> None:
    """Pack what was compiled for this device and version into one file."""
    preflight.check_new_file(file, force=force)
    environment.temporary_folder()
    from easyanim_server.cli import tools

    count = tools.pack_cache(Settings.load({"cache_dir": cache_dir, "device": device}), file)
    typer.echo(f"packed {counted(count, 'file')} into {file}")


def import_cache(file: File, cache_dir: CacheDir = None, device: Device = "auto") -> None:
    """Unpack a cache that was made for this device and version; it is code, so import only what you trust."""
    environment.temporary_folder()
    from easyanim_server.cli import tools

    count = tools.unpack_cache(Settings.load({"cache_dir": cache_dir, "device": device}), file)
    typer.echo(f"unpacked {counted(count, 'file')} from {file}")
