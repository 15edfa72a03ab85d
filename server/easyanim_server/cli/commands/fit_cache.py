"""The command `fit-cache`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from easyanim_server.cli.flags import Force, described, examples, number
from easyanim_server.config import checks as preflight
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.wording import counted
from easyanim_server.telemetry.log import configure_logging

EPILOG = examples("easyanim-server fit-cache --model my/finetune --out fit.json")


def fit_cache(
    out: Annotated[
        Path, typer.Option(dir_okay=False, help="File to write, for the setting cache_coefficients.")
    ] = Path("cache-coefficients.json"),
    prompts: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A prompt a line. Default: four of our own.")
    ] = None,
    generations: Annotated[int, number("How many; prompts take turns, seeds count from 0.")] = 8,
    steps: Annotated[int, number("Of each, all of them computed.")] = 50,
    bucket: Annotated[str | None, typer.Option(help="HxW or HxWxF. Default: the model's first.")] = None,
    model: Annotated[str | None, typer.Option(help=described("model"))] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")] = None,
    force: Force = False,
) -> None:
    """Fit the step cache (TeaCache) to a model; other settings come from --config and the environment."""
    flags = {"model": model, "buckets": bucket}
    settings = Settings.load({name: value for name, value in flags.items() if value is not None}, config)
    preflight.check(settings)
    from easyanim_server.cli import tools

    configure_logging(settings.log_format, settings.log_level)
    texts = prompts.read_text(encoding="utf-8-sig") if prompts else ""
    lines = [line.strip() for line in texts.splitlines() if line.strip()]
    if prompts and not lines:
        raise ConfigurationError(f"{str(prompts)!r} has no prompt; it must have one a line")
    out.parent.mkdir(parents=True, exist_ok=True)
    preflight.check_new_file(out, force=force)  # before the work, not after it
    found = tools.fit_cache(settings, lines, generations, steps, lambda detail: typer.echo(detail, err=True))
    found.write(out)
    least, most = found.change_range
    typer.echo(f"coefficients {', '.join(f'{value:.8g}' for value in found.coefficients)}")
    typer.echo(
        f"fitted to {counted(found.points, 'step')} with changes from {least:.4g} to {most:.4g}; "
        f"misses {found.rms_error:.3g}"
    )
    typer.echo(f"wrote {out}; serve with --cache-coefficients {out}")
