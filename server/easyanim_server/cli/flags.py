"""Flags that commands of `easyanim-server` share, and those that settings give them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from easyanim_server.cli.usage import option_name
from easyanim_server.config.settings import Settings
from easyanim_server.config.sources import ENV_PREFIX
from easyanim_server.domain.execution import Word

SOURCES = f"Every flag is also an environment variable, {ENV_PREFIX}NAME, and a key of the TOML file."


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    """A setting as a command-line flag: text, so that `Settings` alone decides what it means."""
    default = field.get_default(call_default_factory=True)
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    flag = option_name(name)
    # In the text: what typer shows of a default that is no value of the flag stands in brackets and is cut off.
    note = "" if shown in (None, "") else f" Default: {str(shown).lower() if shown is True else shown}."
    option = typer.Option(flag, help=f"{described(name)}{note}", show_default=False, metavar=_kind(field.annotation))
    return _parameter(name, Annotated[str | None, option])


def described(name: str) -> str:
    """What the help says of a setting, with the values that it may have where they are few."""
    field = Settings.model_fields[name]
    choices = ", ".join(_choices(field.annotation))
    return f"{field.description} One of {choices}." if choices else str(field.description)


def _choices(annotation: Any) -> tuple[str, ...]:
    if isinstance(annotation, type) and issubclass(annotation, Word):
        return tuple(map(str, annotation))
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()


def _kind(annotation: Any) -> str:
    """What stands for a setting's value in the help."""
    kinds = {kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)}
    names = {bool: "<true|false>", int: "<int>", float: "<float>", Path: "<path>"}
    return "<choice>" if _choices(annotation) else next((names[kind] for kind in names if kind in kinds), "<text>")


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def with_settings(command: Any) -> Any:
    """Give `command(settings, ...)` one flag for every setting, and `--config`, beside the options of its own."""
    _, *own = inspect.signature(command, eval_str=True).parameters.values()

    def wrapped(config: Path | None, **flags: Any) -> None:
        others = {parameter.name: flags.pop(parameter.name) for parameter in own}
        given = {name: value for name, value in flags.items() if value is not None}
        command(Settings.load(given, config), **others)

    file = typer.Option("--config", help="A TOML file of settings.", show_default=False)
    config = _parameter("config", Annotated[Path | None, file])
    flags = [_flag(name, field) for name, field in Settings.model_fields.items()]
    wrapped.__signature__ = inspect.Signature([config, *own, *flags])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in (config, *own, *flags)}
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    return wrapped


def _whole(text: str) -> int:
    """A whole number; typer's own refusal does not say what it was given."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} must be a whole number") from None


def number(words: str) -> Any:
    """An option that takes a whole number."""
    return typer.Option(help=words, parser=_whole, metavar="<int>")


def examples(*lines: str, before: str = "") -> str:
    """The end of a command's help: examples, one a line."""
    return "\n".join([*([before, ""] if before else []), "Examples:", *lines])


Force = Annotated[bool, typer.Option("--force", help="Replace a file that exists already.")]
CacheDir = Annotated[str | None, typer.Option(help=described("cache_dir"))]
