"""The command `easyanim-server fetch`: brings a model onto this machine, so that `serve` needs no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from easyanim_server.config import environment, model_checks
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.engine.weights import checkpoint

GIB = 2**30


@contextmanager
def _one_bar() -> Iterator[None]:
    """Keep the library from drawing bars of its own over ours."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def fetch(model: str, revision: str | None) -> str:
    """Bring a model with all that `serve` reads of it, and check every header; shows progress on stderr.

    Args:
        model: An id of Hugging Face, or of ModelScope with ``modelscope:`` before it.
        revision: Branch, tag or commit.

    Returns:
        What there is now, and where, in one sentence.

    Raises:
        UnsupportedModel: there is no such model, or this server cannot run it.
        ConfigurationError: it is none that is downloaded, or cannot be had.
    """
    model_checks.check_model(model, revision)
    if not model_checks.is_hosted(model):
        raise ConfigurationError(f"{model} needs no download; fetch takes ids of Hugging Face or ModelScope")
    environment.temporary_folder()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("configuration", total=None)
        came = 0

        def started(total: int) -> None:
            progress.update(task, total=total, description="weights")

        def observe(count: int) -> None:
            nonlocal came
            came += count
            progress.update(task, completed=came)

        with _one_bar():
            folder = checkpoint.download(model, revision, started, observe)
    checkpoint.inspect(model, revision)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return f"{model} is complete: {size / GIB:.1f} GiB in {folder}"
