"""The options of a generation as flags of the commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from easyanim_client.options import OPTIONS, Option

CommandT = TypeVar("CommandT", bound=Callable[..., None])


def with_flags(before: str, *, of_batch: bool = False) -> Callable[[CommandT], CommandT]:
    """Give a command that takes ``**options`` one flag for each option of a generation.

    Args:
        before: The parameter that comes after them in the help.
        of_batch: Whether they are defaults of jobs, which have none themselves.
    """
    flags = list(_of_batch() if of_batch else _of_generate())

    def spelled_out(command: CommandT) -> CommandT:
        # Not get_type_hints: before Python 3.11 it hides what is annotated where a default is None.
        others = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        place = [parameter.name for parameter in others].index(before)
        parameters = [*others[:place], *flags, *others[place:]]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return spelled_out


def _of_generate() -> Iterable[inspect.Parameter]:
    return (_flag(option, option.help, option.default) for option in OPTIONS if option.help)


def _of_batch() -> Iterable[inspect.Parameter]:
    for option in OPTIONS:
        if option.batch:
            default = False if option.kind.shell is bool else None
            yield _flag(option, option.batch if isinstance(option.batch, str) else option.help, default)


def _flag(option: Option, text: str, default: Any) -> inspect.Parameter:
    file: dict[str, Any] = {"exists": True, "dir_okay": False} if option.kind.shell is Path else {}
    declared = typer.Option(option.flag, help=text, metavar=option.metavar, **file)
    shell: Any = option.kind.shell if default is not None else option.kind.shell | None
    annotation: Any = Annotated[shell, declared]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
